"""Stacked policies: their distributions against torch's, their members alone, and their first weights."""

from __future__ import annotations

import math

import gymnasium as gym
import pytest
import torch
from torch import distributions

from modules.networks.action_units import BoxUnits, DiscreteUnits
from modules.networks.blocks import Normalize
from modules.networks.ensemble import torch_default
from modules.networks.policies import (
    BoundedGaussianPolicy,
    CategoricalPolicy,
    DeterministicPolicy,
    StackedPolicy,
    TanhGaussianPolicy,
    TanhPolicy,
)

KINDS = (TanhGaussianPolicy, BoundedGaussianPolicy, TanhPolicy, CategoricalPolicy)
RANGE = (-5.0, 2.0)


def make(kind: type[StackedPolicy], seeds: tuple[int, ...] = (0, 1)) -> StackedPolicy:
    """Of 4 observed numbers, and 3 dimensions or actions."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    limits = (RANGE,) if kind in (TanhGaussianPolicy, BoundedGaussianPolicy) else ()
    return kind(len(seeds), 4, 3, [8], *limits, torch_default, generators)  # type: ignore[arg-type]


def rows(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_starts_and_acts_as_it_would_alone(kind: type[StackedPolicy]) -> None:
    both, alone = make(kind), make(kind, (1,))
    for (name, p), q in zip(both.state_dict().items(), alone.state_dict().values(), strict=True):
        assert torch.equal(p[1:], q), name
    x, noise = rows(), torch.randn(2, 5, both.d_noise)
    torch.testing.assert_close(both.likeliest(x)[1:], alone.likeliest(x[1:]))
    torch.testing.assert_close(both.sample(noise, *both(x))[1:], alone.sample(noise[1:], *alone(x[1:])))
    space = gym.spaces.Discrete(3, start=2) if kind is CategoricalPolicy else gym.spaces.Box(-2.0, 2.0, (3,))
    units = DiscreteUnits(space) if isinstance(space, gym.spaces.Discrete) else BoxUnits(space)
    policy = DeterministicPolicy(Normalize(4), both.network.member(1), both.decide, units)
    torch.testing.assert_close(policy(x[1]), units.played(both.likeliest(x)[1]))
    torch.testing.assert_close(units.learned(policy(x[1])), both.likeliest(x)[1])
    assert all(space.contains(action) for action in policy(x[1]).detach().numpy())


def test_a_squashed_gaussian_is_that_of_torch() -> None:
    policy, x, noise = make(TanhGaussianPolicy), rows(), torch.randn(2, 5, 3)
    mean, log_std = policy(x)
    squashed = distributions.TransformedDistribution(
        distributions.Normal(mean, log_std.exp()), distributions.TanhTransform()
    )
    action = torch.tanh(mean + log_std.exp() * noise)
    torch.testing.assert_close(policy.sample(noise, mean, log_std), action)
    torch.testing.assert_close(policy.log_prob(action, mean, log_std), squashed.log_prob(action), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(policy.likeliest(x), mean.tanh())


def test_a_bounded_gaussian_has_one_deviation_for_all_states_and_clips_what_it_does() -> None:
    policy, x = make(BoundedGaussianPolicy), rows()
    mean, log_std = policy(x)
    torch.testing.assert_close(mean, torch.tanh(policy.network(x)))
    torch.testing.assert_close(log_std, torch.zeros_like(mean), rtol=0, atol=1e-6)
    with torch.no_grad():
        policy.deviation[1] = 0.0  # type: ignore[index, operator]
    mean, log_std = policy(x)
    torch.testing.assert_close(log_std[1], torch.full((5, 3), -1.5))
    normal = distributions.Normal(mean, log_std.exp())
    action = 2.0 * torch.rand(2, 5, 3) - 1.0
    torch.testing.assert_close(policy.log_prob(action, mean, log_std), normal.log_prob(action))
    noise = torch.randn(2, 5, 3)
    torch.testing.assert_close(policy.sample(noise, mean, log_std), (mean + log_std.exp() * noise).clamp(-1.0, 1.0))
    assert policy.sample(torch.full((2, 5, 3), 9.0), mean, log_std).tolist() == torch.ones(2, 5, 3).tolist()
    policy.log_prob(action, mean, log_std).sum().backward()
    assert (policy.deviation.grad != 0.0).all()
    with pytest.raises(ValueError, match=r"must hold 0.*\[-5, -1\]"):
        BoundedGaussianPolicy(1, 4, 3, [8], (-5.0, -1.0), torch_default, [torch.Generator()])


def test_a_deterministic_policy_does_one_thing_and_has_no_density() -> None:
    policy, x = make(TanhPolicy), rows()
    torch.testing.assert_close(policy.sample(torch.randn(2, 5, 3), *policy(x)), torch.tanh(policy.network(x)))
    with pytest.raises(TypeError, match="no log-probabilities"):
        policy.log_prob(torch.zeros(2, 5, 3), *policy(x))


def test_a_categorical_policy_is_that_of_torch_and_draws_by_its_probabilities() -> None:
    policy, x = make(CategoricalPolicy), rows()
    (log_prob,) = policy(x)
    categorical = distributions.Categorical(logits=policy.network(x))
    action = torch.randint(3, (2, 5))
    torch.testing.assert_close(policy.log_prob(action, log_prob)[..., 0], categorical.log_prob(action))
    assert policy.likeliest(x).tolist() == categorical.probs.argmax(-1).tolist()
    wanted = torch.tensor([0.7, 0.2, 0.1])
    noise = torch.randn(40_000, 3, generator=torch.Generator().manual_seed(0))
    drawn = policy.sample(noise, wanted.log())
    shares = torch.bincount(drawn, minlength=3) / len(noise)
    assert (shares - wanted).abs().max() < 4.0 * math.sqrt(0.25 / len(noise))
    assert drawn.dtype == torch.int64
