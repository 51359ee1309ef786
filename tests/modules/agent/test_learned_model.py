"""Imagined steps: how they are drawn from a model, by which policy, where they end, and the ring that keeps them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modules.agent.learned_model import ImaginedSteps, imagine, rollout_noise_width
from modules.batch import Transition
from modules.networks.dynamics import StepDistribution


class Counting:
    """Each step adds the action to the state, give or take a tenth; the reward is the first number; far up all ends."""

    def __call__(self, observation: Tensor, action: Tensor) -> StepDistribution:
        mean = torch.cat([action, observation[..., :1]], -1)
        return StepDistribution(mean, torch.full_like(mean, 0.1).log(), 1000.0 * (observation[..., 0] - 2.5))


def noise(horizon: int, rows: int, seed: int = 0) -> Tensor:
    shape = (1, horizon, rows, rollout_noise_width(2, 2))
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_steps_are_drawn_from_the_model_and_an_end_leads_back_to_the_start() -> None:
    model: Any = Counting()
    start = torch.tensor([[[0.0, 0.0], [2.0, 0.0]]])
    draws = noise(4, 4)
    up, down = (lambda seen, eps, way=way: way + 0.01 * eps for way in (1.0, -1.0))
    steps = imagine(model, [up, down], start, draws)
    assert steps.reward.shape == (1, 16)
    state = start[0].repeat(2, 1)
    ended = []
    for t in range(4):
        for row in range(4):
            eps, place = draws[0, t, row], 4 * t + row
            action = (1.0 if row < 2 else -1.0) + 0.01 * eps[:2]
            following = state[row] + action + 0.1 * eps[2:4]
            torch.testing.assert_close(steps.observation[0, place], state[row])
            torch.testing.assert_close(steps.action[0, place], action)
            torch.testing.assert_close(steps.next_observation[0, place], following)
            torch.testing.assert_close(steps.reward[0, place], state[row, 0] + 0.1 * eps[4])
            ended.append(bool(state[row, 0] > 2.5))
            assert bool(steps.terminated[0, place]) == ended[-1]
            state[row] = start[0, row % 2] if ended[-1] else following
    assert 0 < sum(ended) < 8
    assert not steps.truncated.any()


def test_the_end_is_drawn_with_the_models_chance() -> None:
    def often(observation: Tensor, action: Tensor) -> StepDistribution:
        mean = torch.zeros(*observation.shape[:-1], 3)
        return StepDistribution(mean, mean, torch.full(mean.shape[:-1], torch.tensor(0.3).logit().item()))

    def never(observation: Tensor, action: Tensor) -> StepDistribution:
        return often(observation, action)._replace(termination=None)

    shares = []
    for model in (often, never):
        steps = imagine(model, [lambda seen, eps: eps], torch.zeros(1, 5000, 2), noise(1, 5000))  # type: ignore[arg-type]
        shares.append(float(steps.terminated.float().mean()))
    assert abs(shares[0] - 0.3) < 0.03
    assert shares[1] == 0.0


def numbered(first: int, count: int) -> Transition:
    """Steps of two members whose numbers are `first`, `first + 1`, ..., negative for the second member."""
    x = torch.arange(first, first + count).float() * torch.tensor([[1.0], [-1.0]])
    wide = x.unsqueeze(-1)
    ends = x.long() % 2 == 1
    return Transition(wide, 10.0 * wide, 100.0 * x, wide + 1.0, ends, torch.zeros_like(ends))


def test_the_ring_keeps_the_newest_steps_and_hands_out_whole_ones() -> None:
    ring = ImaginedSteps(2, 10, 1, 1)
    ring.write(numbered(0, 4))
    shares = torch.linspace(0.0, 1.0, 9).repeat(2, 1)
    assert {*ring.sample(shares).observation[0, :, 0].tolist()} == {0.0, 1.0, 2.0, 3.0}
    ring.write(numbered(4, 4))
    ring.write(numbered(8, 4))
    assert int(ring.filled) == 10
    picked = ring.sample(torch.linspace(0.0, 1.0, 100).repeat(2, 1))
    number = picked.observation[..., 0]
    assert {*number[0].tolist()} == {float(x) for x in range(2, 12)}
    assert torch.equal(number[1], -number[0])
    assert torch.equal(picked.action[..., 0], 10.0 * number)
    assert torch.equal(picked.reward, 100.0 * number)
    assert torch.equal(picked.next_observation[..., 0], number + 1.0)
    assert torch.equal(picked.terminated, number.long() % 2 == 1)
    counts = torch.bincount(ring.sample(torch.rand(2, 5000)).observation[0, :, 0].long(), minlength=12)[2:]
    assert counts.min() > 400  # each with the same chance


def test_the_ring_is_restored_from_its_content_and_is_no_part_of_the_weights() -> None:
    ring, other = (ImaginedSteps(2, 10, 1, 1) for _ in range(2))
    ring.write(numbered(0, 7))
    assert not ring.state_dict()
    other.restore({name: x.clone() for name, x in ring.content().items()})
    for one in (ring, other):
        one.write(numbered(7, 5))
    shares = torch.rand(2, 50)
    for x, y in zip(ring.sample(shares)[:6], other.sample(shares)[:6], strict=True):
        assert torch.equal(x, y)
