"""Policies against torch's distributions, and their maps to and from the environment's actions."""

from __future__ import annotations

import functools

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from torch.distributions import Categorical

from modules.networks.action_spaces import action_width
from modules.networks.actors import DiscreteActor, TanhNormalActor, TruncatedNormalActor
from modules.networks.blocks import DenseStack
from modules.networks.grid_actor import GridActor
from modules.networks.make_actor import check_makers, make_actor

TRUNK = functools.partial(DenseStack, layers=1)
FEATURES = torch.randn(6, 4, 5, generator=torch.Generator().manual_seed(0))
BOX = Box(np.float32([-2.0, 0.0]), np.float32([2.0, 10.0]))
TANH = {"continuous": TanhNormalActor}
CASES = [
    pytest.param(Discrete(3), {}, 3, id="discrete"),
    pytest.param(Discrete(3, start=-1), {}, 3, id="discrete-from-minus-1"),
    pytest.param(MultiDiscrete([2, 1, 4]), {}, 7, id="multi-discrete"),
    pytest.param(MultiDiscrete([2, 3], start=[5, -5]), {}, 5, id="multi-discrete-with-starts"),
    pytest.param(
        MultiDiscrete([2, 3]),
        {"discrete": functools.partial(DiscreteActor, estimator="straight_through_gumbel", temperature=0.5)},
        5,
        id="gumbel",
    ),
    pytest.param(BOX, {}, 2, id="truncated"),
    pytest.param(BOX, TANH, 2, id="tanh"),
    pytest.param(BOX, {"continuous": GridActor}, 2, id="grid"),
]


@pytest.mark.parametrize(("space", "arguments", "width"), CASES)
def test_samples_and_modes_are_actions_of_the_space_and_come_back(space, arguments, width: int) -> None:
    torch.manual_seed(0)
    actor = make_actor(space, 5, TRUNK, 8, **arguments)
    stats = actor(FEATURES)
    sample = actor.sample(stats, actor.noise(6, 4))
    assert actor.width == action_width(space) == width
    for action in (sample.detach(), actor.mode(stats).detach()):
        assert action.shape == (6, 4, width)
        decoded = actor.decode(action)
        assert all(space.contains(row.numpy().astype(space.dtype)) for row in decoded.flatten(0, 1))
        torch.testing.assert_close(actor.encode(decoded), action)
    assert actor.log_prob(stats, sample).shape == actor.entropy(stats).shape == (6, 4)
    assert sample.flatten(0, 1).unique(dim=0).shape[0] > 1


@pytest.mark.parametrize(("space", "arguments", "width"), CASES)
def test_gradients_pass_through_samples_densities_and_entropies(space, arguments, width: int) -> None:
    actor = make_actor(space, 5, TRUNK, 8, **arguments)
    stats = actor(FEATURES)
    sample = actor.sample(stats, actor.noise(6, 4))
    weights = torch.randn(width)
    for value in (sample @ weights, actor.log_prob(stats, sample.detach()), actor.entropy(stats)):
        gradients = torch.autograd.grad(value.sum(), list(actor.parameters()), retain_graph=True)
        assert all(g.isfinite().all() and g.any() for g in gradients)


@pytest.mark.compile
@pytest.mark.parametrize(("space", "arguments", "width"), CASES)
def test_one_graph_holds_everything(space, arguments, width: int) -> None:
    actor = make_actor(space, 5, TRUNK, 8, **arguments)

    def everything(features: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, ...]:
        stats = actor(features)
        sample = actor.sample(stats, noise)
        return (
            sample,
            actor.mode(stats),
            actor.log_prob(stats, sample),
            actor.entropy(stats),
            actor.encode(actor.decode(sample)),
        )

    noise = actor.noise(6, 4, generator=torch.Generator().manual_seed(1))
    whole = torch.compile(everything, fullgraph=True, backend="eager")
    for found, expected in zip(whole(FEATURES, noise), everything(FEATURES, noise), strict=True):
        torch.testing.assert_close(found, expected)


def test_starts_count() -> None:
    actor = make_actor(MultiDiscrete([2, 3], start=[5, -5]), 5, TRUNK, 8)
    encoded = actor.encode(torch.tensor([[6, -3], [5, -5]]))
    assert encoded.tolist() == [[0, 1, 0, 0, 1], [1, 0, 1, 0, 0]]
    assert actor.decode(encoded).tolist() == [[6, -3], [5, -5]]
    single = make_actor(Discrete(3, start=-1), 5, TRUNK, 8)
    assert single.encode(torch.tensor([1, -1])).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert single.decode(torch.eye(3)).tolist() == [-1, 0, 1]


def test_factored_categoricals_agree_with_torch() -> None:
    actor = make_actor(MultiDiscrete([2, 4]), 5, TRUNK, 8)
    logits = actor.output(actor.trunk(FEATURES))
    parts = [Categorical(logits=logits[..., :2]), Categorical(logits=logits[..., 2:])]
    numbers = torch.stack([part.sample() for part in parts], -1)
    stats = actor(FEATURES)
    expected = sum(part.log_prob(number) for part, number in zip(parts, numbers.unbind(-1), strict=True))
    torch.testing.assert_close(actor.log_prob(stats, actor.encode(numbers)), expected)
    torch.testing.assert_close(actor.entropy(stats), sum(part.entropy() for part in parts))


def test_sampled_actions_have_their_probabilities() -> None:
    actor = make_actor(Discrete(3), 5, TRUNK, 8)
    stats = torch.tensor([0.2, 0.7, 0.1]).log().expand(100_000, 3)
    noise = actor.noise(100_000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(actor.sample(stats, noise).mean(0), torch.tensor([0.2, 0.7, 0.1]), rtol=0, atol=0.006)


def test_unimix_is_a_share_of_the_uniform_distribution() -> None:
    plain = make_actor(Discrete(4), 5, TRUNK, 8)
    mixed = make_actor(Discrete(4), 5, TRUNK, 8, discrete=functools.partial(DiscreteActor, unimix=0.2))
    mixed.load_state_dict(plain.state_dict())
    torch.testing.assert_close(mixed(FEATURES).exp(), 0.8 * plain(FEATURES).exp() + 0.05)


@pytest.mark.parametrize("make", [TruncatedNormalActor, TanhNormalActor])
def test_statistics_of_boxes_are_those_of_the_authors_code(make) -> None:
    actor = make(BOX, 5, TRUNK, 8, min_std=0.1, init_std=0.5)
    raw = actor.output(actor.trunk(FEATURES)).double().detach().numpy()
    mean, std = raw[..., :2], raw[..., 2:] + 0.5
    if make is TruncatedNormalActor:
        expected = np.concatenate([np.tanh(mean), 2 / (1 + np.exp(-std / 2)) + 0.1], -1)
    else:
        expected = np.concatenate([5 * np.tanh(mean / 5), np.log1p(np.exp(std)) + 0.1], -1)
    np.testing.assert_allclose(actor(FEATURES).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [TruncatedNormalActor, TanhNormalActor])
def test_entropy_and_density_of_boxes_agree_with_their_samples(make) -> None:
    actor = make(BOX, 5, TRUNK, 8)
    stats = torch.tensor([0.3, -0.6, 0.5, 0.9]).expand(200_000, 4)
    with torch.no_grad():
        sample = actor.sample(stats, actor.noise(200_000, generator=torch.Generator().manual_seed(0)))
        estimate = -actor.log_prob(stats, sample).mean()
    torch.testing.assert_close(actor.entropy(stats[0]), estimate, rtol=0, atol=0.01)


def test_box_actions_in_units_and_back() -> None:
    actor = make_actor(BOX, 5, TRUNK, 8)
    assert actor.encode(torch.tensor([[2.0, 5.0]], dtype=torch.float64)).tolist() == [[1.0, 0.0]]
    assert actor.decode(torch.tensor([[-1.0, 0.5]])).tolist() == [[-2.0, 7.5]]


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (Box(-np.inf, np.inf, (2,)), "finite bounds.*Box\\(-inf, inf"),
        (Box(np.float32([0.0]), np.float32([0.0])), "low below high"),
        (Box(-1, 1, (2, 2)), "a flat Box of floats, got Box.*2, 2"),
        (Box(0, 3, (2,), np.int64), "a flat Box of floats, got Box.*int64"),
        (MultiDiscrete([[2, 3], [4, 5]]), "a flat MultiDiscrete.*got MultiDiscrete"),
        (gym.spaces.Tuple([Discrete(2)]), "got Tuple"),
    ],
)
def test_other_spaces_are_refused_by_name(space, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_actor(space, 5, TRUNK, 8)
    with pytest.raises(ValueError, match=words):
        action_width(space)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"estimator": "relaxed"}, "no gradient estimator 'relaxed'"),
        ({"temperature": 0.5}, "straight_through has no temperature"),
        ({"unimix": 1.0}, "unimix must lie in \\[0, 1\\), got 1.0"),
    ],
)
def test_mistakes_are_named(arguments, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DiscreteActor(Discrete(2), 5, TRUNK, 8, **arguments)


MIXED = functools.partial(DiscreteActor, unimix=0.1)
USUAL = functools.partial(TanhNormalActor, output_scale=0.1)


class Owner:
    """Takes policies for both kinds of actions."""

    def __init__(self, discrete=DiscreteActor, continuous=USUAL) -> None:
        pass


@pytest.mark.parametrize(
    ("space", "discrete", "continuous", "said"),
    [
        (Discrete(3), DiscreteActor, TruncatedNormalActor, "continuous would be ignored: .* policy discrete makes"),
        (MultiDiscrete([2, 3]), DiscreteActor, GridActor, "continuous would be ignored: .* leave it out"),
        (Discrete(3), functools.partial(DiscreteActor, unimix=0.0), TanhNormalActor, "continuous would be ignored"),
        (BOX, MIXED, USUAL, "discrete would be ignored: .* of numbered"),
    ],
)
def test_a_policy_for_the_other_kind_of_actions_is_refused(space, discrete, continuous, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_makers(Owner, space, discrete, continuous)


def test_policies_for_both_kinds_and_usual_ones_are_taken() -> None:
    for space in (BOX, Discrete(3)):
        check_makers(Owner, space, MIXED, GridActor)
        check_makers(Owner, space, functools.partial(DiscreteActor, unimix=0.0), USUAL)
    check_makers(Owner, BOX, DiscreteActor, GridActor)
    check_makers(Owner, Discrete(3), MIXED, USUAL)
