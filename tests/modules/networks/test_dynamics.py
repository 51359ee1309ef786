"""The running scale of targets, and bounds of the deviation."""

from __future__ import annotations

import torch

from modules.networks.dynamics import StackedDynamics, StepDistribution, TargetScale
from modules.networks.ensemble import torch_default


def test_the_scale_is_that_of_all_targets_so_far_also_far_from_zero() -> None:
    batches = 1000.0 + torch.tensor([1.0, 0.1]) * torch.randn(20, 3, 64, 2, generator=torch.Generator().manual_seed(0))
    scale = TargetScale(3, 2)
    for batch in batches:
        scale.see(batch)
    rows = batches.transpose(0, 1).flatten(1, 2).double()
    torch.testing.assert_close(scale.mean[:, 0].double(), rows.mean(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(scale.deviation[:, 0].double(), rows.std(1, correction=0), rtol=0.02, atol=0)


def test_a_constant_target_keeps_the_deviation_one() -> None:
    scale = TargetScale(1, 1)
    for _ in range(3):
        scale.see(torch.zeros(1, 8, 1))
    assert scale.deviation.item() == 1.0


def test_predictions_are_in_the_units_of_the_targets_and_deviations_within_their_bounds() -> None:
    network = StackedDynamics(2, 3, 1, [8], True, torch_default, [torch.Generator().manual_seed(i) for i in range(2)])
    observation, action = 100.0 * torch.randn(2, 50, 3), 100.0 * torch.randn(2, 50, 1)
    plain = network(observation, action)
    assert plain.mean.shape == plain.log_std.shape == (2, 50, 4)
    assert plain.termination.shape == (2, 50)
    assert float(plain.log_std.min()) >= -5.0
    assert float(plain.log_std.max()) <= 0.25 + 1e-4
    network.scale.mean.fill_(7.0)
    network.scale.variance.fill_(9.0)
    scaled = network(observation, action)
    torch.testing.assert_close(scaled.mean, 3.0 * plain.mean + 7.0)
    torch.testing.assert_close(scaled.log_std, plain.log_std + torch.tensor(3.0).log())


def test_a_step_is_drawn_around_the_mean_and_ends_with_its_chance() -> None:
    mean, deviation = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[0.5, 3.0]]])
    step = StepDistribution(mean, deviation.log(), torch.tensor([[0.25]]).logit())
    torch.testing.assert_close(step.sample(torch.tensor([[[2.0, -1.0]]])), torch.tensor([[[2.0, -1.0]]]))
    torch.testing.assert_close(step.chance_of_ending(), torch.tensor([[0.25]]))
    assert step._replace(termination=None).chance_of_ending().tolist() == [[0.0]]
