"""Latents of DreamerV2 that others look into: those of its own inference, led on by its own imagination."""

from __future__ import annotations

import pytest
import torch
from dreamer_agents import PUSH, TURN, make_agent, make_sequence

from modules.model_contracts import HasLatents
from modules.world_model.rssm import State


@pytest.mark.parametrize("action", [TURN, PUSH], ids=["discrete", "continuous"])
def test_latents_are_inferred_and_then_led_on_along_the_recorded_actions(action: object) -> None:
    agent = make_agent(action=action)
    batch = make_sequence(agent)
    steps, rows = batch.reward.shape
    torch.manual_seed(3)
    found = agent.latents(batch, 2)
    rssm = agent.world_model.rssm
    assert found.shape == (3, steps, rows, rssm.width)
    # The same, row by row: each is a start of its own.
    torch.manual_seed(3)
    noise, encoded = rssm.latent.noise(steps, rows), agent.behaviour.actor.encode(batch.previous_action)
    seen = agent.world_model.observe(batch.observation, encoded, batch.is_first, noise).state
    torch.testing.assert_close(found[0], seen.features)
    drawn = rssm.latent.noise(2, steps * rows).unflatten(1, (steps, rows))
    for t in range(steps - 2):
        state = State(seen.h[t], seen.z[t])
        for k in (1, 2):
            state = State(*rssm.imagine_step(*state, encoded[t + k], drawn[k - 1, t]))
            torch.testing.assert_close(found[k, t], state.features)


def test_an_untrained_agent_has_other_weights_and_the_same_arguments() -> None:
    agent = make_agent(discount=0.9)
    assert isinstance(agent, HasLatents)
    torch.manual_seed(5)
    other = agent.untrained()
    assert dict(other.hparams) == dict(agent.hparams)
    assert not other.training
    pairs = list(zip(agent.state_dict().items(), other.state_dict().values(), strict=True))
    drawn = [
        not torch.equal(mine, theirs) for (name, mine), theirs in pairs if name.endswith("rssm.cell.linear.weight")
    ]
    assert drawn == [True]
    torch.manual_seed(5)
    again = agent.untrained()
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(other.parameters(), again.parameters(), strict=True))
