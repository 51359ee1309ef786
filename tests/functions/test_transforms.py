import torch

from modules.functional.transforms import clip_straight_through, from_unit, to_unit


def test_straight_through_clip_clamps_forward_and_passes_gradient() -> None:
    x = torch.tensor([-5.0, 0.5, 7.0], requires_grad=True)
    y = clip_straight_through(x, -1.0, 2.0)
    y.sum().backward()
    assert torch.equal(y.detach(), torch.tensor([-1.0, 0.5, 2.0]))
    assert torch.equal(x.grad, torch.ones(3))  # type: ignore[arg-type]


def test_unit_action_round_trip_and_corners() -> None:
    low, high = torch.tensor([-2.0, 0.0]), torch.tensor([2.0, 10.0])
    assert torch.equal(to_unit(torch.stack([low, high]), low, high), torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
    action = torch.tensor([[0.3, 7.0]])
    torch.testing.assert_close(from_unit(to_unit(action, low, high), low, high), action)
