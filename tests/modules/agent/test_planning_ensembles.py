"""Searches that know what an ensemble of rewards does not know: optimism tries it, pessimism leaves it alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from gymnasium.spaces import Box, Discrete
from planning_models import seen, two_steps
from torch import Tensor

from modules.agent.planning import Planner
from modules.batch import Spaces
from modules.networks.action_slots import NumberedSlots
from modules.networks.blocks import DenseStack
from modules.networks.reward_models import StepReward, ValuePrefix
from modules.networks.value_codecs import Scalar, TwoHot
from modules.networks.value_ensemble import EnsembleHead
from modules.networks.value_heads import Head
from modules.search.interface import Noise
from modules.search.rules import PUCT
from modules.search.settings import SearchSettings
from modules.world_model.latent_model import LatentModel

CERTAIN, DOUBTFUL = 0, 1


class Arms:
    """One state and two arms, of which all members expect 1 on average, but of one arm each something else.

    Args:
        horizon: rewards are summed by member up to so many steps in a memory; None for each by itself.
    """

    told = torch.tensor([[1.0, 1.0], [-1.0, 3.0]])

    def __init__(self, horizon: int | None = None) -> None:
        self.horizon = horizon
        self.value_head = EnsembleHead(1, 2, partial(DenseStack, layers=1), Scalar, members=2)
        self.reward_head: Any = self.value_head

    def represent(self, observation: Mapping[str, Tensor]) -> Tensor:
        return observation["observation"]

    def memory(self, batch: int) -> Tensor:
        return torch.zeros(batch, 2)

    def step(self, latent: Tensor, memory: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        reward = self.told[action.argmax(-1)]
        if self.horizon is None:
            return latent, memory, reward
        return latent, memory + reward, memory + reward

    def predict(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full((len(latent), 2), 0.5).log(), torch.zeros(len(latent), 2)


@pytest.mark.parametrize("horizon", [None, 2])
@pytest.mark.parametrize(("explore", "preferred"), [(True, DOUBTFUL), (False, CERTAIN)])
def test_the_arm_of_which_less_is_known_is_explored_and_not_relied_on(
    horizon: int | None, explore: bool, preferred: int
) -> None:
    planner = Planner(Arms(horizon), NumberedSlots(two_steps()), 0.9)
    settings = SearchSettings(24, rule=PUCT(), optimism=1.0, pessimism=1.0)
    action, _, found = planner.plan(seen([0.0]), settings, explore=explore, noise=Noise())
    assert action.argmax(-1).tolist() == [preferred]
    assert found.depth > 2  # beyond a reset
    torch.testing.assert_close(found.q[0], found.q[0].mean().expand(2), rtol=0.5, atol=0.0)


@pytest.mark.parametrize("horizon", [None, 2])
def test_the_variance_of_a_path_is_that_of_its_rewards_discounted_twice(horizon: int | None) -> None:
    """A single action: each simulation goes a step further, and each step adds a variance of 4."""
    planner = Planner(Arms(horizon), NumberedSlots(two_steps()), 0.5)
    valid = torch.tensor([[False, True]])
    root, _ = planner.root(seen([0.0]), valid, None)
    embedding, total = root.embedding, 0.0
    for k in range(5):
        step = planner.step(embedding, torch.tensor([DOUBTFUL]), None)
        assert step.reward.tolist() == pytest.approx([1.0])
        assert step.reward_variance is not None
        assert step.reward_variance.tolist() == pytest.approx([4.0])
        total += 0.25**k * float(step.reward_variance)
        embedding = step.embedding
    _, _, found = planner.plan(seen([0.0]), SearchSettings(1, rule=PUCT()), explore=False, valid=valid)
    assert found.variance is not None
    assert found.variance.tolist() == pytest.approx([4.0 / 2.0])  # of the root, and of a simulation of one step
    assert total == pytest.approx(4.0 / 0.75, rel=1e-2)


class Doors(Arms):
    """Two doors with certain rewards of 1, behind one of which members expect different values, of the mean 1."""

    told = torch.ones(2, 2)
    behind = torch.tensor([[0.0, 0.0], [1.0, 1.0], [-1.0, 3.0]])

    def __init__(self, certain_rewards: bool) -> None:
        super().__init__()
        if certain_rewards:  # by a head without members
            self.reward_head = Head(1, 2, partial(DenseStack, layers=1), Scalar)
            self.told = torch.ones(2)

    def step(self, latent: Tensor, memory: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        slot = action.argmax(-1)
        behind = torch.where(latent.squeeze(-1) == 0.0, slot + 1.0, latent.squeeze(-1))
        return behind.unsqueeze(-1), memory, self.told[slot]

    def predict(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full((len(latent), 2), 0.5).log(), self.behind[latent.squeeze(-1).long()]


@pytest.mark.parametrize("certain_rewards", [True, False])
def test_what_is_not_known_of_values_is_where_the_variance_of_a_path_starts(certain_rewards: bool) -> None:
    planner = Planner(Doors(certain_rewards), NumberedSlots(two_steps()), 0.5)
    found = {}
    for door in (CERTAIN, DOUBTFUL):
        valid = torch.arange(2).unsqueeze(0) == door
        for simulations in (1, 2):
            settings = SearchSettings(simulations, rule=PUCT())
            _, _, found[door, simulations] = planner.plan(seen([0.0]), settings, explore=False, valid=valid)
    variances = {key: float(result.variance) for key, result in found.items()}  # type: ignore[arg-type]
    # The root's own is 0, that of one step 0.25 times 4, that of two steps 0.0625 times 4.
    assert [variances[CERTAIN, n] for n in (1, 2)] == [0.0, 0.0]
    assert variances[DOUBTFUL, 1] == pytest.approx(1.0 / 2.0)
    assert variances[DOUBTFUL, 2] == pytest.approx((1.0 + 0.25) / 3.0)
    assert found[DOUBTFUL, 1].value.tolist() == pytest.approx([1.5 / 2.0])  # 0, and 1 and half of 1


@pytest.mark.parametrize(("explore", "preferred"), [(True, DOUBTFUL), (False, CERTAIN)])
def test_the_door_behind_which_less_is_known_is_explored_and_not_relied_on(explore: bool, preferred: int) -> None:
    planner = Planner(Doors(certain_rewards=True), NumberedSlots(two_steps()), 0.5)
    settings = SearchSettings(24, rule=PUCT(), optimism=1.0, pessimism=1.0)
    action, _, _ = planner.plan(seen([0.0]), settings, explore=explore, noise=Noise())
    assert action.argmax(-1).tolist() == [preferred]


class LearnedArms(Arms):
    """A noisy arm, which pays 1 or -1, and a quiet one, which pays 0; what is known of them is learned from pulls.

    Args:
        noisy: pulls of the noisy arm.
        quiet: pulls of the quiet arm.
    """

    def __init__(self, noisy: int, quiet: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        codec = partial(TwoHot, 21, -1.0, 1.0, "signed_hyperbolic", unbiased=True)
        trunk = partial(DenseStack, layers=1, activation="relu", norm="layer")
        self.reward_head = EnsembleHead(2, 16, trunk, codec, members=6)
        coins = torch.rand(noisy, generator=torch.Generator().manual_seed(0)) < 0.5
        reward = torch.cat([torch.where(coins, 1.0, -1.0), torch.zeros(quiet)])
        arm, index = torch.tensor([0] * noisy + [1] * quiet), torch.arange(noisy + quiet)
        optimizer = torch.optim.Adam(self.reward_head.parameters(), 1e-2)
        for _ in range(120):
            loss = self.reward_head.bootstrapped_loss(self.reward_head(torch.eye(2))[arm], reward, index)
            optimizer.zero_grad()
            loss.mean().backward()
            optimizer.step()

    def step(self, latent: Tensor, memory: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return latent, memory, self.reward_head(action)


def test_noise_does_not_draw_the_policy_and_a_rarely_visited_arm_does() -> None:
    """The noisy arm's variance is the greatest by far, but it is chance: more pulls leave it, and leave no doubt."""
    spreads = {}
    for noisy in (8, 256):
        model = LearnedArms(noisy, quiet=2)
        spreads[noisy] = model.reward_head.codec.spread(model.reward_head(torch.eye(2)).detach())
    few, many = spreads[8], spreads[256]
    assert many.epistemic[0] < 0.25 * few.epistemic[0]
    assert [float(few.aleatoric[0]), float(many.aleatoric[0])] == pytest.approx([1.0, 1.0], abs=0.25)
    assert many.epistemic[1] > 4.0 * many.epistemic[0]
    # How often a search visits either, and what it therefore teaches.
    planner, settings = Planner(model, NumberedSlots(two_steps()), 0.0), SearchSettings(32, rule=PUCT(), optimism=1.0)
    _, curious, _ = planner.plan(seen([0.0]), settings, explore=True, noise=Noise())
    careful, _, _ = planner.plan(seen([0.0]), replace(settings, pessimism=1.0), explore=False)
    assert curious.policy[0, 1] > 0.6
    assert careful.argmax(-1).tolist() == [0]


@pytest.mark.parametrize("reward", [StepReward, ValuePrefix])
def test_a_latent_model_with_an_ensemble_plans_and_one_without_carries_no_variance(reward) -> None:
    torch.manual_seed(0)
    spaces = Spaces(Box(-1.0, 1.0, (3,)), Discrete(2))
    head = partial(EnsembleHead, members=3)
    found = []
    for arguments, value in (({"head": head}, None), ({}, None), ({}, head), ({"head": head}, head)):
        model = LatentModel(spaces, latent=6, units=8, reward=partial(reward, **arguments), value=value)
        planner = Planner(model, NumberedSlots(model.actor), 0.9)
        with torch.no_grad():
            _, record, result = planner.plan({"observation": torch.rand(4, 3)}, SearchSettings(12), explore=True)
        assert record.policy.sum(-1).tolist() == pytest.approx([1.0] * 4)
        found.append(result.variance)
    assert [variance is not None and bool((variance > 0.0).all()) for variance in found] == [True, False, True, True]
    assert found[1] is None
