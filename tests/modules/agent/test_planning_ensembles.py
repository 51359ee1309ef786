"""Searches that know what an ensemble of rewards does not know: optimism tries it, pessimism leaves it alone."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

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
from modules.networks.value_codecs import Scalar
from modules.networks.value_ensemble import EnsembleHead
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
        self.reward_head = self.value_head

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


@pytest.mark.parametrize("reward", [StepReward, ValuePrefix])
def test_a_latent_model_with_an_ensemble_plans_and_one_without_carries_no_variance(reward) -> None:
    torch.manual_seed(0)
    spaces = Spaces(Box(-1.0, 1.0, (3,)), Discrete(2))
    head = partial(EnsembleHead, members=3)
    found = []
    for arguments in ({"head": head}, {}):
        model = LatentModel(spaces, latent=6, units=8, reward=partial(reward, **arguments))
        planner = Planner(model, NumberedSlots(model.actor), 0.9)
        with torch.no_grad():
            _, record, result = planner.plan({"observation": torch.rand(4, 3)}, SearchSettings(12), explore=True)
        assert record.policy.sum(-1).tolist() == pytest.approx([1.0] * 4)
        found.append(result.variance)
    assert found[0] is not None
    assert (found[0] > 0.0).all()
    assert found[1] is None
