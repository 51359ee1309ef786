"""Both kinds of actions: what a policy plays there, what critics value it at, and how cloning counts it."""

from __future__ import annotations

import math

import gymnasium as gym
import pytest
import torch
from torch import Tensor

from modules.agent.action_kinds import ActionKind, ContinuousActions, NumberedActions, action_kind
from modules.functional.cloning import cloning_loss
from modules.networks.action_units import action_units
from modules.networks.ensemble import EnsembleMLP, torch_default
from modules.networks.policies import CategoricalPolicy, TanhGaussianPolicy
from modules.networks.trunks import EnsembleTrunk, make_twin_critics

MEMBERS, ROWS, WIDTH = 2, 4, 3


def streams(seed: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + m) for m in range(MEMBERS)]


def critics_of(kind: ActionKind) -> EnsembleMLP | EnsembleTrunk:
    d_in, d_out = kind.critic_widths(5)
    return make_twin_critics(MEMBERS, d_in, [8], d_out, torch_default, [streams(0), streams(9)], None, False)[0]


def states(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(MEMBERS, ROWS, 5, generator=generator) for _ in range(count)]


def probabilities(seed: int) -> Tensor:
    return torch.softmax(torch.randn(MEMBERS, ROWS, WIDTH, generator=torch.Generator().manual_seed(seed)), -1)


def test_the_kind_follows_from_the_units() -> None:
    boxes = action_kind(action_units(gym.spaces.Box(-2.0, 2.0, (WIDTH,))))
    numbers = action_kind(action_units(gym.spaces.Discrete(WIDTH, start=1)))
    assert isinstance(boxes, ContinuousActions)
    assert isinstance(numbers, NumberedActions)
    assert (boxes.critic_widths(5), numbers.critic_widths(5)) == ((8, 1), (5, 3))
    assert (boxes.d_noise, numbers.d_noise) == (3, 0)
    assert (boxes.automatic_floor(0.3), numbers.automatic_floor(0.3)) == (-3.0, pytest.approx(0.3 * math.log(3)))
    arguments = (MEMBERS, 5, [8], (-1.5, 0.5), torch_default, streams(0))
    policy = boxes.make_policy(*arguments)
    assert isinstance(policy, TanhGaussianPolicy)
    assert policy.log_std_range == (-1.5, 0.5)
    assert isinstance(numbers.make_policy(*arguments), CategoricalPolicy)


@pytest.mark.parametrize("kind", [ContinuousActions(WIDTH), NumberedActions(WIDTH)])
def test_policies_start_by_their_streams_and_have_the_trunk_that_is_given(kind: ActionKind) -> None:
    first, same, other = (
        kind.make_policy(MEMBERS, 5, [8], (-1.0, 1.0), torch_default, streams(seed)).network.layers[0].weight
        for seed in (0, 0, 5)
    )  # type: ignore[union-attr, index]
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    made = kind.make_policy(MEMBERS, 5, [8], (-1.0, 1.0), torch_default, streams(0), torch.nn.Linear)
    assert isinstance(made.network, EnsembleTrunk)


def test_boxes_are_played_by_squashed_normals_and_compared_by_their_medians() -> None:
    kind, generator = ContinuousActions(WIDTH), torch.Generator().manual_seed(2)
    mean, log_std, noise = torch.randn(3, MEMBERS, ROWS, WIDTH, generator=generator).mul(0.5)
    action, log_prob = kind.play(noise, mean, log_std)
    normal = torch.distributions.Normal(mean, log_std.exp())
    squashed = torch.distributions.TransformedDistribution(normal, [torch.distributions.TanhTransform()])
    torch.testing.assert_close(action, torch.tanh(mean + log_std.exp() * noise))
    torch.testing.assert_close(log_prob, squashed.log_prob(action), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(kind.choice(mean, log_std), torch.tanh(mean))
    recorded = torch.tanh(noise)
    errors = kind.policy_errors(recorded, mean, log_std)
    likelihood = squashed.log_prob(recorded).sum(-1).mean(-1)
    torch.testing.assert_close(errors["negative_log_likelihood"], -likelihood, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(errors["action_error"], (torch.tanh(mean) - recorded).square().sum(-1).mean(-1))


def test_numbered_actions_are_played_by_their_probabilities_and_the_entropy_is_exact() -> None:
    log_prob = torch.log(probabilities(0)).requires_grad_()
    action, expected = NumberedActions(WIDTH).play(torch.zeros(MEMBERS, ROWS, 0), log_prob)
    for m in range(MEMBERS):
        for row in range(ROWS):
            p = [math.exp(x) for x in log_prob[m, row].tolist()]
            assert action[m, row].tolist() == pytest.approx(p, rel=1e-5)
            assert expected[m, row].item() == pytest.approx(sum(x * math.log(x) for x in p), rel=1e-5)
    assert expected.shape == (MEMBERS, ROWS, 1)
    torch.testing.assert_close(NumberedActions(WIDTH).choice(log_prob), probabilities(0))
    assert torch.autograd.grad(action[..., 0].sum(), log_prob)[0].abs().max() > 0.0


def test_numbers_are_one_hot_to_critics_and_boxes_stay_as_they_are() -> None:
    numbers = torch.tensor([[2, 0]])
    assert NumberedActions(3).as_played(numbers).tolist() == [[[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]]
    assert NumberedActions(3).as_played(torch.tensor([[0]])).tolist() == [[[1.0, 0.0, 0.0]]]
    box = torch.randn(1, 2, 3)
    assert torch.equal(ContinuousActions(3).as_played(box), box)


def test_values_of_boxes_are_those_at_the_actions() -> None:
    kind = ContinuousActions(WIDTH)
    critics, (first, second) = critics_of(kind), states(2)
    actions = [probabilities(seed) for seed in range(2)]
    found = kind.values(critics, [(first, actions[0]), (second, actions[1])])
    assert [x.shape for x in found] == [(2, MEMBERS, ROWS)] * 2
    least = kind.least_value(critics, second, actions[1])
    for m in range(MEMBERS):
        for c in range(2):
            net = critics.member(c * MEMBERS + m)
            for values, s, a in zip(found, (first, second), actions, strict=True):
                torch.testing.assert_close(values[c, m], net(torch.cat([s[m], a[m]], -1)).squeeze(-1))
            alone = kind.value(critics, c, first, actions[0])
            torch.testing.assert_close(alone[m], found[0][c, m])
        torch.testing.assert_close(least[m], torch.minimum(found[1][0, m], found[1][1, m]))


def test_values_of_numbers_are_expectations_over_all_of_them() -> None:
    kind = NumberedActions(WIDTH)
    critics, (first, second) = critics_of(kind), states(2)
    played = [probabilities(seed) for seed in range(3)]
    passes: list[int] = []
    critics.layers[0].register_forward_hook(lambda module, inputs, output: passes.append(inputs[0].shape[1]))
    found = kind.values(critics, [(first, played[0]), (second, played[1]), (first, played[2])])
    assert passes == [2 * ROWS]  # the two states once each, whatever is asked about them
    least = kind.least_value(critics, second, played[1])
    for m in range(MEMBERS):
        nets = [critics.member(c * MEMBERS + m) for c in range(2)]
        for row in range(ROWS):
            for values, s, p in zip(found, (first, second, first), played, strict=True):
                for c, net in enumerate(nets):
                    q = net(s[m, row]).tolist()
                    expected = sum(float(x) * y for x, y in zip(p[m, row], q, strict=True))
                    assert float(values[c, m, row]) == pytest.approx(expected, rel=1e-4, abs=1e-6)
            q = [net(second[m, row]).tolist() for net in nets]
            expected = sum(float(played[1][m, row, a]) * min(q[0][a], q[1][a]) for a in range(WIDTH))
            assert float(least[m, row]) == pytest.approx(expected, rel=1e-4, abs=1e-6)
        for c in range(2):
            alone = kind.value(critics, c, first, played[0])
            torch.testing.assert_close(alone[m], found[0][c, m])


def test_cloning_and_held_out_errors_are_of_the_recorded_actions() -> None:
    log_prob, action = torch.log(probabilities(0)), torch.tensor([[0, 1, 2, 0], [1, 1, 2, 0]])
    action[0] = log_prob[0].argmax(-1)  # all of the first member's are the likeliest, one of the second's
    action[1] = (log_prob[1].argmax(-1) + torch.tensor([0, 1, 1, 1])) % WIDTH
    kind = NumberedActions(WIDTH)
    loss = kind.cloning_loss("likelihood", 0.0, action, log_prob)
    errors = kind.policy_errors(action, log_prob)
    assert loss.shape == (MEMBERS, ROWS, 1)
    for m in range(MEMBERS):
        chosen = [float(log_prob[m, row, action[m, row]]) for row in range(ROWS)]
        assert loss[m, :, 0].tolist() == pytest.approx([-x for x in chosen])
        assert errors["negative_log_likelihood"][m].item() == pytest.approx(-sum(chosen) / ROWS)
        hits = [int(log_prob[m, row].argmax()) == int(action[m, row]) for row in range(ROWS)]
        assert errors["accuracy"][m].item() == pytest.approx(sum(hits) / ROWS) == (1.0, 0.25)[m]
    mean, log_std, box = torch.randn(2, 4, 3), torch.randn(2, 4, 3), torch.rand(2, 4, 3)
    found = ContinuousActions(3).cloning_loss("squared_error", 0.1, box, mean, log_std)
    torch.testing.assert_close(found, cloning_loss("squared_error", box, mean, log_std, 0.1))


@pytest.mark.parametrize(("loss", "saturation"), [("squared_error", 0.0), ("likelihood", 0.01)])
def test_numbers_have_no_bounds_and_no_distances(loss: str, saturation: float) -> None:
    with pytest.raises(ValueError, match=r"set warm_start\.loss to likelihood, warm_start\.saturation to 0"):
        NumberedActions(3).check_cloning(loss, saturation, "warm_start.")
    ContinuousActions(3).check_cloning(loss, saturation, "warm_start.")
    with pytest.raises(ValueError, match=r"set loss to likelihood, saturation to 0$"):
        NumberedActions(3).check_cloning(loss, saturation)
    NumberedActions(3).check_cloning("likelihood", 0.0)
