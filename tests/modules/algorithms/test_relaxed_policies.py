"""Policies whose samples are relaxed: what the environment did is a class, and so is what is remembered of it."""

from __future__ import annotations

from functools import partial

import gymnasium as gym
import pytest
import torch
from dreamer_agents import TURN, make_agent, make_sequence

from modules.networks.actors import DiscreteActor
from modules.world_model.rssm import RSSM


def test_a_relaxed_policy_remembers_the_class_that_it_did() -> None:
    relaxed = partial(DiscreteActor, estimator="gumbel_softmax", temperature=5.0)
    for action in (TURN, gym.spaces.MultiDiscrete([3, 2])):
        agent = make_agent(action=action, behaviour={"discrete": relaxed})
        chosen, memory = agent.act(torch.zeros(20, 3), None, explore=True)
        assert torch.equal(memory.action, agent.behaviour.actor.encode(chosen))
        assert set(memory.action.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("gradient", ["reinforce", "both", "dynamics"])
def test_imagination_takes_relaxed_actions_only_where_a_gradient_passes(
    gradient: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    relaxed = partial(DiscreteActor, estimator="gumbel_softmax", temperature=5.0)
    given: list[torch.Tensor] = []
    whole = DiscreteActor.log_prob

    def log_prob(actor: DiscreteActor, stats: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        given.append(action)
        return whole(actor, stats, action)

    imagined: list[torch.Tensor] = []
    step = RSSM.imagine_step
    monkeypatch.setattr(DiscreteActor, "log_prob", log_prob)
    monkeypatch.setattr(RSSM, "imagine_step", lambda *x: imagined.append(x[3]) or step(*x))
    agent = make_agent(behaviour={"discrete": relaxed, "actor_gradient": gradient})
    agent.update(make_sequence(agent))
    assert all(action.unique().tolist() == [0.0, 1.0] for action in given)  # only classes have a probability
    assert len(given) == (gradient != "dynamics")
    assert imagined
    classes = all(len(action.unique()) == 2 for action in imagined)
    assert classes == (gradient == "reinforce")
