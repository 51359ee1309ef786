"""MuZero: losses as loops, scaled gradients, priorities, targets, and searches made anew."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from muzero_agents import (
    ENDS,
    KINDS,
    LENGTH,
    UNROLL,
    make_agent,
    make_batch,
    plain_losses,
    plain_value_target,
)
from target_copies import equal_after_updates

from callbacks.popart import PopArt
from modules.agent.moved_images import MovedImages
from modules.agent.planning import rows_of, unpack
from modules.algorithms.muzero import LossWeights, MuZero
from modules.batch import PrioritizedSequences
from modules.contracts import ReplayOffer
from modules.functional.planning_targets import DynamicHorizon, SearchValue
from modules.networks.reward_models import ValuePrefix
from modules.networks.value_codecs import Normalized, TwoHot


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns(kind: str) -> None:
    agent = make_agent(**KINDS[kind], reanalyse=0.5)
    batch, losses = make_batch(agent), []
    for _ in range(15):
        metrics = agent.update(batch).metrics
        agent.advance()
        assert all(value.isfinite() for value in metrics.values())
        losses.append(float(metrics["value_loss"] + metrics["reward_loss"]))
    assert losses[-1] < 0.8 * losses[0]


# ----------------------------------------------------------------------------------------------------------- the losses
def test_losses_and_gradients_equal_those_written_as_loops() -> None:
    weights = LossWeights(policy=0.7, value=0.25, reward=1.3, entropy=0.1)
    agent = make_agent(weights=weights, clip_norm=1e6)
    batch = make_batch(agent)
    losses = plain_losses(agent, batch)
    total = 0.7 * losses["policy"] + 0.25 * losses["value"] + 1.3 * losses["reward"] + 0.1 * losses["entropy"]
    gradients = torch.autograd.grad(total, [*agent.model.parameters()])
    norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
    metrics = agent.update(batch).metrics
    for name in ("policy", "value", "reward"):
        torch.testing.assert_close(metrics[f"{name}_loss"], losses[name].detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(metrics["norm"], norm, rtol=1e-4, atol=1e-5)


def test_priorities_and_metrics_are_those_of_first_rows() -> None:
    agent = make_agent(lr=0.0)
    batch = make_batch(agent)
    targets = torch.tensor([plain_value_target(agent, batch, b, 0) for b in range(len(ENDS))])
    first = {"observation": batch.sequence.observation["observation"][0]}
    value = agent.model.value_head.mean(agent.model.predict(agent.model.represent(first))[1])
    metrics, feedback = agent.update(batch)
    assert feedback is not None
    assert feedback.stored is feedback.state is None
    torch.testing.assert_close(feedback.priority, (value - targets).abs().detach(), rtol=1e-4, atol=1e-5)
    assert torch.equal(feedback.index, batch.index)
    means = {"value": value, "target": targets, "error": feedback.priority}
    for name, expected in means.items():
        torch.testing.assert_close(metrics[name], expected.mean().detach(), rtol=1e-4, atol=1e-5)
    # Of the rows 0 to 2, those that something follows are 3, 2, 1, 3, 1, 3; of one nothing was found.
    assert float(metrics["searched"]) == pytest.approx(12 / 13)
    assert float(metrics["horizon"]) == pytest.approx(float(np.mean([2, 2, 1, 2, 1, 2])))


def test_horizons_are_told_by_age_of_those_ages_that_a_batch_has() -> None:
    agent = make_agent(value_target=partial(DynamicHorizon, n=2, shrink_every=1500))
    batch = make_batch(agent)._replace(age=torch.tensor([499, 500, 0, 1999, 1999, 40_000]))
    values = agent.read_back(agent.update(batch).metrics)
    # Two steps up to an age of 1500 and one beyond; the third sequence ends after one.
    found = {name.rpartition("/")[2]: x for name, x in values.items() if "horizon_from_age" in name}
    assert found == {"0": 1.5, "500": 2.0, "1000": 1.0, "32000": 1.0}
    assert values["muzero/horizon"] == pytest.approx((2 + 2 + 1 + 1 + 1 + 1) / 6)


def test_behind_a_terminal_state_nothing_is_learned_or_that_all_is_zero() -> None:
    agents = {absorbing: make_agent(absorbing=absorbing) for absorbing in (False, True)}
    batch = make_batch(agents[True])
    masked, absorbed = (agents[absorbing].update(batch).metrics for absorbing in (False, True))
    assert float(absorbed["value_loss"]) > float(masked["value_loss"])
    assert float(absorbed["reward_loss"]) > float(masked["reward_loss"])
    assert torch.equal(absorbed["policy_loss"], masked["policy_loss"])


def test_behind_a_terminal_state_all_that_others_do_leads_to_zero() -> None:
    """A search goes on there by any action: none may be a sign of the end, as a number that stands for padding is."""
    agent = make_agent(absorbing=True)
    batch, heard = make_batch(agent), []
    unrolled = agent.planner.unrolled
    agent.planner.unrolled = lambda rows, steps: heard.append(rows) or unrolled(rows, steps)  # type: ignore[method-assign, func-returns-value]
    for _ in range(5):
        agent.update(batch)
    done, first = torch.stack([rows.previous_action for rows in heard]), batch.sequence.previous_action[1]
    assert torch.equal(done[:, ~batch.padding], batch.sequence.previous_action[~batch.padding].expand(5, -1))
    assert set(done[:, batch.padding].flatten().tolist()) == set(first.tolist())
    assert (done[:, batch.padding] != done[0, batch.padding]).any()


def test_sums_of_rewards_are_learned_where_the_model_tells_sums() -> None:
    codec = partial(TwoHot, bins=9, low=-4.0, high=4.0, spacing="identity")
    agent = make_agent(model={"reward": partial(ValuePrefix, memory=5, horizon=2, codec=codec)}, lr=0.0)
    batch = make_batch(agent)
    heard: list[Any] = []
    loss = agent.model.reward_head.codec.loss
    agent.model.reward_head.codec.loss = lambda prediction, target: heard.append(target) or loss(prediction, target)  # type: ignore[method-assign, func-returns-value]
    agent.update(batch)
    reward = batch.sequence.reward
    torch.testing.assert_close(heard[0], torch.stack([reward[1], reward[1] + reward[2]]))


def test_target_model_is_copied_when_it_is_due() -> None:
    agent = make_agent(target_period=3)
    same = equal_after_updates(agent, make_batch(agent), agent.model, agent.target_model)
    assert same == [False, False, True, False, False, True]


def test_a_learning_rate_that_falls_to_zero_ends_all_change_and_is_that_of_the_moment_after_a_resume() -> None:
    falling, constant = make_agent(lr="linear(0.01, 0, 2)"), make_agent(lr=0.01)
    batch = make_batch(falling)
    for agent in (falling, constant):
        agent.update(batch)
        agent.advance()
    torch.testing.assert_close(falling.model.state_dict(), constant.model.state_dict(), rtol=0, atol=0)
    resumed = make_agent(lr="linear(0.01, 0, 2)")
    resumed.load_state_dict(falling.state_dict())
    resumed.optimizer.load_state_dict(copy.deepcopy(falling.optimizer.state_dict()))
    resumed.updates = falling.updates
    for agent in (falling, resumed):
        agent.update(batch)  # half as fast
        agent.advance()
        assert agent.optimizer.param_groups[0]["lr"] == 0.005
    torch.testing.assert_close(resumed.model.state_dict(), falling.model.state_dict(), rtol=0, atol=0)
    before = {name: x.clone() for name, x in falling.model.state_dict().items()}
    falling.update(batch)
    torch.testing.assert_close(falling.model.state_dict(), before, rtol=0, atol=0)  # the decay has ended, too


def test_popart_keeps_values_in_their_units() -> None:
    agent = make_agent(model={"codec": Normalized}, lr=0.0, weight_decay=0.0)
    agent.attach(PopArt(decay=0.5))
    batch = make_batch(agent)
    batch = batch._replace(sequence=batch.sequence._replace(reward=1e4 * batch.sequence.reward))
    observation = {"observation": batch.sequence.observation["observation"][0]}

    def values() -> list[torch.Tensor]:
        models = agent.model, agent.target_model
        return [m.value_head.mean(m.predict(m.represent(observation))[1]) for m in models]

    before, metrics = values(), agent.update(batch).metrics
    sigma = float(metrics["popart/sigma"])
    assert sigma > 1e3
    for old, new in zip(before, values(), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=1e-5 * sigma)


# ------------------------------------------------------------------------------------------------------- changed images
IMAGE = gym.spaces.Box(0, 255, (6, 5, 1), np.uint8)


def pixel_batch(agent: MuZero, seed: int = 1) -> PrioritizedSequences:
    batch = make_batch(agent, seed)
    image = torch.randint(0, 256, (*batch.padding.shape, 6, 5, 1), generator=torch.Generator().manual_seed(seed)).byte()
    return batch._replace(sequence=batch.sequence._replace(observation={"observation": image}))


def test_images_are_changed_where_they_are_learned_from_and_nowhere_else() -> None:
    kind = KINDS["EfficientZero"] | {"observation": IMAGE, "reanalyse": 0.5, "lr": 0.0}
    plain, agent = make_agent(**kind), make_agent(**kind, augmentation=partial(MovedImages, shift=2, intensity=0.1))
    batch = pixel_batch(agent)
    torch.manual_seed(3)
    without, prepared = plain.noise_for(batch), agent.noise_for(batch)
    still = prepared._replace(again=without.again)
    assert prepared.draws is not None
    assert without.draws is None
    heard: list[torch.Tensor] = []
    represent = agent.model.represent
    agent.model.represent = lambda seen: heard.append(seen["observation"]) or represent(seen)  # type: ignore[method-assign, func-returns-value]
    before, after = plain.update(batch, without).metrics, agent.update(batch, still).metrics
    assert torch.equal(before["target"], after["target"])
    assert not torch.equal(before["value"], after["value"])
    record = rows_of(unpack(batch.stored, agent.slots))
    changed, _ = agent.augmentation.changed(batch.sequence, record, prepared.draws, UNROLL)
    assert torch.equal(heard[0], changed.observation["observation"][0])
    assert torch.equal(heard[1], changed.observation["observation"][1:].flatten(0, 1))
    assert len(heard) == 2


def test_an_agent_learns_from_changed_images() -> None:
    moving = partial(MovedImages, shift=1, intensity=0.1)
    agent = make_agent(**KINDS["EfficientZero"], observation=IMAGE, augmentation=moving)
    batch = pixel_batch(agent)
    losses = [agent.update(batch).metrics["value_loss"] for _ in range(30)]
    assert torch.stack(losses[-5:]).mean() < 0.8 * torch.stack(losses[:5]).mean()


# --------------------------------------------------------------------------------------------------- searches made anew
def test_searches_made_anew_take_the_place_of_stored_ones_and_go_back() -> None:
    agent = make_agent(reanalyse=0.5, value_target=SearchValue, lr=0.0)
    agent.meet(ReplayOffer(LENGTH, prioritized=True, refreshed=True, stored=True))
    batch = make_batch(agent)
    torch.manual_seed(3)
    prepared = agent.noise_for(batch)
    assert prepared.again is not None
    assert prepared.again.value.shape == (UNROLL + 1, 3)
    follows = ~batch.padding[1 : UNROLL + 2, :3]
    assert torch.equal(prepared.again.known, follows)
    metrics, feedback = agent.update(batch, prepared)
    assert float(metrics["searched"]) == 1.0  # what was not found is found now
    assert feedback is not None
    assert feedback.stored is not None
    assert batch.stored is not None
    before, after = unpack(batch.stored, agent.slots), unpack(feedback.stored, agent.slots)
    for t in range(LENGTH):
        for b in range(len(ENDS)):
            again = 1 <= t <= UNROLL + 1 and b < 3 and bool(follows[t - 1, b])
            row = prepared.again.value[t - 1, b] if again else before.value[t, b]
            assert torch.equal(after.value[t, b], row)
            assert torch.equal(after.policy[t, b] == before.policy[t, b], torch.full((3,), not again))
            if before.known[t, b]:
                assert torch.equal(after.log_prob[t, b], before.log_prob[t, b])
    value = after.value[1, 0]
    torch.testing.assert_close(metrics["target"], (value + after.value[1, 1:].sum()) / len(ENDS))


def test_without_write_back_nothing_goes_back_and_a_replay_that_waits_for_it_is_refused() -> None:
    agent = make_agent(reanalyse=1.0)
    agent.meet(ReplayOffer(LENGTH, prioritized=True, stored=True))
    feedback = agent.update(make_batch(agent)).feedback
    assert feedback is not None
    assert feedback.stored is None
    with pytest.raises(ValueError, match="with reanalyse 0 nothing is searched anew"):
        make_agent().meet(ReplayOffer(LENGTH, prioritized=True, refreshed=True, stored=True))


def test_recorded_rows_that_nobody_searched_are_learned_from_once_they_are_searched() -> None:
    agent, blind = make_agent(reanalyse=1.0), make_agent()
    batch = make_batch(agent)
    assert batch.stored is not None
    batch = batch._replace(stored=torch.zeros_like(batch.stored), age=None)
    assert float(blind.update(batch).metrics["policy_loss"]) == 0.0
    metrics = agent.update(batch).metrics
    assert float(metrics["searched"]) == 1.0
    assert float(metrics["policy_loss"]) > 0.0


# ------------------------------------------------------------------------------------------------------------ one graph
@pytest.mark.long
@pytest.mark.compile
def test_the_update_is_one_graph() -> None:
    kind = KINDS["drawn"] | KINDS["EfficientZero"]
    plain, traced = (make_agent(**kind, reanalyse=0.5) for _ in range(2))
    step = torch.compile(traced.learn, fullgraph=True, backend="eager")
    for seed in (1, 2):
        batch = make_batch(plain, seed)
        prepared = plain.noise_for(batch)
        expected, found = plain.update(batch, prepared), step(batch, prepared)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(traced.state_dict(), plain.state_dict(), rtol=1e-4, atol=1e-4)
