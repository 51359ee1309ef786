from __future__ import annotations

import pytest
import torch
from recorded_updates import Recorded

from modules.functional.pessimism import bellman_backup
from modules.networks.ensemble import EnsembleMLP, follow
from modules.networks.trunks import twin_values

CRITICS, TARGETS = ("q_funcs.0", "q_funcs.1"), ("targ_q_funcs.0", "targ_q_funcs.1")


def critics(recorded: Recorded, when: str, names: tuple[str, ...]) -> EnsembleMLP:
    network = EnsembleMLP(2, 7, [16, 16], 1)
    recorded.fill(network, when, *names)
    return network


@pytest.mark.parametrize("update", [1, 2])
@pytest.mark.parametrize("name", ["td3_plus_bc", "td3_plus_bc_noisy"])
def test_twin_critics_have_the_error_that_td3_bc_of_d3rlpy_reports(name: str, update: int) -> None:
    recorded, before = Recorded(name), ["initial", "after_1"][update - 1]
    settings, batch = recorded.settings, recorded.batch(update)
    policy = EnsembleMLP(1, 5, [16, 16], 2)
    recorded.fill(policy, before, "targ_policy")
    limit = settings["target_smoothing_clip"]
    noise = (settings["target_smoothing_sigma"] * recorded.draw(update, "target")).clamp(-limit, limit)
    action = (torch.tanh(policy(batch.next_observation[None])) + noise).clamp(-1.0, 1.0)
    value = twin_values(critics(recorded, before, TARGETS), batch.next_observation[None], action).amin(0)
    discount = settings["gamma"] * (~batch.terminated).float()
    found = twin_values(critics(recorded, before, CRITICS), batch.observation[None], batch.action[None])
    loss = (found - bellman_backup(batch.reward, discount, value)).square().mean(-1).sum()
    assert float(loss.detach()) == pytest.approx(recorded.losses[update - 1]["critic_loss"], rel=1e-5)


@pytest.mark.parametrize("name", ["td3_plus_bc", "iql", "cql"])
def test_target_critics_follow_as_those_of_d3rlpy(name: str) -> None:
    recorded = Recorded(name)
    slow, fast = critics(recorded, "initial", TARGETS), critics(recorded, "after_1", CRITICS)
    assert recorded.distance(slow, "after_1", *TARGETS) > 1e-3
    follow(slow, fast, recorded.settings["tau"])
    assert recorded.distance(slow, "after_1", *TARGETS) < 1e-6
