"""The loss that draws foreseen latents towards seen ones."""

from __future__ import annotations

import pytest
import torch

from modules.networks.consistency import Consistency


def latents(seed: int) -> torch.Tensor:
    return torch.rand(4, 3, 6, generator=torch.Generator().manual_seed(seed))


def test_it_is_minus_the_cosine_of_prediction_and_projection() -> None:
    torch.manual_seed(0)
    module, foreseen, seen = Consistency(6, 8, 5), latents(0), latents(1)
    loss = module(foreseen, seen)
    assert loss.shape == (4, 3)
    for t in range(4):
        for b in range(3):
            p, z = module.predictor(module.projector(foreseen[t, b])), module.projector(seen[t, b])
            torch.testing.assert_close(loss[t, b], -(p @ z) / (p.norm() * z.norm()))
    # A predictor that changes nothing but the length finds a latent in agreement with itself.
    module.predictor = torch.nn.Linear(8, 8, bias=False)  # type: ignore[assignment]
    torch.nn.init.eye_(module.predictor.weight).data.mul_(3.0)
    torch.testing.assert_close(module(seen, seen), -torch.ones(4, 3))
    torch.nn.init.eye_(module.predictor.weight).data.mul_(-3.0)
    torch.testing.assert_close(module(seen, seen), torch.ones(4, 3))


def test_no_gradient_goes_through_the_target_and_all_weights_learn() -> None:
    torch.manual_seed(0)
    module = Consistency(6, 8, 5)
    foreseen, seen = latents(0).requires_grad_(), latents(1).requires_grad_()
    module(foreseen, seen).sum().backward()
    assert foreseen.grad is not None
    assert foreseen.grad.any()
    assert seen.grad is None
    assert all(p.grad is not None and p.grad.any() for p in module.parameters())
    # Weights get the gradient of the foreseen side alone.
    gradients = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    target = module.projector(seen).detach()
    module.zero_grad()
    p = module.predictor(module.projector(foreseen.detach()))
    (-torch.nn.functional.cosine_similarity(p, target, dim=-1)).sum().backward()
    for found, parameter in zip(gradients, module.parameters(), strict=True):
        torch.testing.assert_close(found, parameter.grad)


@pytest.mark.parametrize("stops", [True, False])
def test_latents_stay_apart_as_no_gradient_goes_through_the_target(stops: bool) -> None:
    """Where one does, all latents become one, which agrees with itself."""
    torch.manual_seed(0)
    module, dynamics = Consistency(6, 32, 16), torch.nn.Linear(6, 6)
    optimizer = torch.optim.Adam([*module.parameters(), *dynamics.parameters()], 1e-3)
    g = torch.Generator().manual_seed(0)

    def spread(seen: torch.Tensor) -> float:
        return float(torch.nn.functional.normalize(module.projector(seen), dim=-1).std(0).mean().detach())

    losses, spreads = [], []
    for _ in range(150):
        now = torch.rand(32, 6, generator=g)
        later = now.roll(1, -1)
        foreseen = dynamics(now)
        loss = module(foreseen, later).mean()
        if not stops:
            p, z = module.predictor(module.projector(foreseen)), module.projector(later)
            loss = -torch.nn.functional.cosine_similarity(p, z, dim=-1).mean()
        losses.append(float(loss.detach()))
        spreads.append(spread(later))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < -0.8 < losses[0]
    kept = spreads[-1] / spreads[0]
    assert kept > 0.8 if stops else kept < 0.4


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="projection must lie in"):
        Consistency(6, projection=0)
