"""R2D2: targets, losses, priorities, acting, and bad input."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from r2d2_agents import BURN_IN, TRAINED, VECTOR, make_agent, make_batch, predictions
from target_copies import equal_after_updates
from tensordict import TensorDict

from callbacks.popart import PopArt
from modules.algorithms.r2d2 import R2D2
from modules.batch import SequenceBatch
from modules.experts.layer import SparseMoE
from modules.functional.sequence_targets import n_step_backup, plain_n_step_targets
from modules.functional.transforms import signed_hyperbolic, signed_parabolic
from modules.networks.encoders import Encoder
from modules.networks.recurrent import Memoryless
from modules.networks.value_codecs import Normalized, Quantiles, Scalar, TwoHot

h, inverse = signed_hyperbolic, signed_parabolic
NETWORKS: dict[str, dict[str, Any]] = {
    "signed hyperbolic": {},
    "plain": {"codec": Scalar},
    "two-hot": {"codec": partial(TwoHot, bins=31, low=-6.0, high=6.0, spacing="signed_hyperbolic")},
    "C51": {"codec": partial(TwoHot, bins=31, low=-30.0, high=30.0, spacing="identity")},
    "quantiles": {"codec": partial(Quantiles, count=8, transform="signed_hyperbolic")},
    "normalized": {"codec": Normalized},
    "no duelling": {"duelling": False},
    "memoryless": {"memory": partial(Memoryless, width=8)},
    "mixture": {"trunk": partial(SparseMoE, num_experts=3, k=1, hidden=8)},
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("discounts", [[0.9], [0.5, 0.9]], ids=["one discount", "two"])
def test_every_kind_of_value_is_learned(name: str, discounts: list[float]) -> None:
    agent = make_agent(NETWORKS[name], discounts=discounts)
    if name == "normalized":
        agent.attach(PopArt(decay=0.1))
    batch = make_batch(agent)
    target = predictions(agent, batch, target=True)
    errors = []
    for _ in range(50):
        metrics = agent.update(batch).metrics
        agent.advance()
        assert all(value.isfinite() for value in metrics.values())
        errors.append(float(metrics["error"]))
    assert errors[-1] < 0.6 * errors[0]
    if name != "normalized":
        assert torch.equal(predictions(agent, batch, target=True), target)


# ----------------------------------------------------------------------------------------------- targets and the losses
@pytest.mark.parametrize("n", [1, 3, TRAINED])
def test_targets_stop_at_the_ends_of_episodes(n: int) -> None:
    agent = make_agent()
    batch = make_batch(agent)
    rows = SequenceBatch({}, *(x[BURN_IN:] for x in batch.sequence[1:]))
    padding, gamma = batch.padding[BURN_IN:], torch.tensor([0.5, 0.9])
    backup = n_step_backup(rows.reward, rows.terminated, padding, gamma, n)
    value = torch.randn(len(padding), padding.shape[1], 2)
    found = backup.reward + backup.discount * torch.take_along_dim(value, backup.row.unsqueeze(-1), 0)
    assert torch.equal(backup.mask.sum(0), torch.tensor([TRAINED, 2, TRAINED, 1, 1]))
    expected = plain_n_step_targets(rows.reward, rows.terminated, padding, value, gamma, n)
    torch.testing.assert_close(found[backup.mask], expected[backup.mask], rtol=0, atol=1e-4)


def test_loss_and_priority_equal_the_paper_written_as_loops() -> None:
    agent = make_agent(n_step=2, discounts=[0.9])
    torch.nn.init.normal_(agent.target_network.head.output.weight)  # both networks choose differently
    batch = make_batch(agent)
    online, slow = predictions(agent, batch), predictions(agent, batch, target=True)
    best = slow.gather(-1, online.argmax(-1, keepdim=True)).squeeze(-1)
    assert not torch.equal(best, slow.amax(-1))
    value = inverse(best)[BURN_IN:]
    rows, padding = SequenceBatch({}, *(x[BURN_IN:] for x in batch.sequence[1:])), batch.padding[BURN_IN:]
    targets = plain_n_step_targets(
        rows.reward, rows.terminated, padding, value.unsqueeze(-1), torch.tensor([0.9]), 2
    ).squeeze(-1)
    loss, priorities = 0.0, []
    for b in range(padding.shape[1]):
        errors = []
        for t in range(TRAINED):
            if padding[t + 1, b]:
                break
            action = int(rows.previous_action[t + 1, b]) - 1  # the environment counts actions from 1
            errors.append(float(online[BURN_IN + t, b, action]) - float(h(targets[t, b])))
        loss += float(batch.weight[b]) * sum(0.5 * e * e for e in errors) / padding.shape[1]
        sizes = [abs(e) for e in errors]
        priorities.append(0.9 * max(sizes) + 0.1 * sum(sizes) / len(sizes))
    metrics, feedback = agent.update(batch)
    assert float(metrics["loss"]) == pytest.approx(loss, rel=1e-4)
    assert feedback is not None
    torch.testing.assert_close(feedback.priority, torch.tensor(priorities), rtol=1e-3, atol=1e-4)
    assert torch.equal(feedback.index, batch.index)
    assert feedback.state is None


def test_target_network_is_copied_when_it_is_due() -> None:
    agent = make_agent(target_period=3)
    same = equal_after_updates(agent, make_batch(agent), agent.network, agent.target_network)
    assert same == [False, False, True, False, False, True]


def test_popart_keeps_values_in_their_units() -> None:
    agent = make_agent({"codec": Normalized}, lr=0.0)
    agent.attach(PopArt(decay=0.5))
    batch = make_batch(agent)
    batch = batch._replace(sequence=batch.sequence._replace(reward=1e4 * batch.sequence.reward))
    before = [agent.network.head.mean(predictions(agent, batch, target)) for target in (False, True)]
    metrics = agent.update(batch).metrics
    sigma = float(metrics["popart/sigma"])
    assert sigma > 1e4
    after = [agent.network.head.mean(predictions(agent, batch, target)) for target in (False, True)]
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=1e-5 * sigma)
    mine, slow = agent.network.head.codec, agent.target_network.head.codec
    assert all(torch.equal(a, b) for a, b in zip(mine.buffers(), slow.buffers(), strict=True))


def all_options(name: str, **arguments: Any) -> R2D2:
    """An agent before its first update, with all that an update may hold."""
    agent = make_agent(NETWORKS[name], discounts=[0.5, 0.9], **arguments)
    if name == "normalized":
        agent.attach(PopArt(decay=0.1))
    agent.refreshed_row = BURN_IN + 1
    return agent


@pytest.mark.long
@pytest.mark.compile
@pytest.mark.parametrize("name", ["quantiles", "normalized"])
def test_the_update_is_one_graph(name: str) -> None:
    plain, traced = all_options(name), all_options(name)
    step = torch.compile(traced.learn, fullgraph=True, backend="eager")
    for seed in (1, 2):
        batch = make_batch(plain, seed)
        expected, found = plain.update(batch), step(batch)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(traced.state_dict(), plain.state_dict(), rtol=1e-4, atol=1e-4)


@pytest.mark.compile
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_compiled_update_equals_the_plain_one() -> None:
    """Machine code for the unrolled loops takes a minute or two."""
    plain, compiled = all_options("signed hyperbolic"), all_options("signed hyperbolic", compile="update")
    for seed in (1, 2):
        batch = make_batch(plain, seed)
        expected, found = plain.update(batch), compiled.update(batch)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(compiled.state_dict(), plain.state_dict(), rtol=1e-4, atol=1e-4)


# --------------------------------------------------------------------------------------------------------------- acting
def test_chances_of_random_actions_fall_from_environment_to_environment() -> None:
    agent = make_agent()
    torch.testing.assert_close(agent.chances(8), torch.tensor([0.4 ** (1 + i) for i in range(8)]))
    torch.testing.assert_close(agent.chances(1), torch.tensor([0.4]))


def test_actions_are_the_best_ones_or_random_ones_of_the_space() -> None:
    agent = make_agent(epsilon=0.5, epsilon_alpha=0.0)
    observation = torch.randn(4000, 3)
    best, _ = agent.act(observation, explore=False)
    values = agent.network.head(agent.network.unroll(
        SequenceBatch({"observation": observation.unsqueeze(0)}, *agent.initial_state(4000)[1:3],
                 *[torch.ones(1, 4000, dtype=torch.bool)] * 3), agent.network.initial(4000))[0])[0]  # fmt: skip
    assert torch.equal(best, values.argmax(-1) + 1)
    drawn, state = agent.act(observation, explore=True)
    assert set(drawn.tolist()) == {1, 2, 3}
    assert float((drawn == best).float().mean()) == pytest.approx(0.5 + 0.5 / 3, abs=0.03)
    assert torch.equal(state.action, drawn)
    told = agent.rewarded(state, torch.full((4000,), 2.0))
    assert torch.equal(told.reward, torch.full((4000,), 2.0))
    assert torch.equal(agent.stored_state(told), state.memory)
    assert not torch.equal(agent.act(observation, told, explore=False)[1].memory,
                           agent.act(observation, state, explore=False)[1].memory)  # fmt: skip


def test_last_discount_acts() -> None:
    agent = make_agent(discounts=[0.1, 0.9])
    with torch.no_grad():
        agent.network.head.output.bias.copy_(torch.tensor([0.0, 9.0, 0.0, 9.0, 0.0, 0.0]))
    action, _ = agent.act(torch.zeros(2, 3), explore=False)
    assert action.tolist() == [1, 1]


def test_images_and_vectors_together() -> None:
    image = gym.spaces.Box(0, 255, (4, 4, 1), np.uint8)
    encoder = {"encoder": partial(Encoder, image_network="mlp")}
    agent = make_agent(encoder, observation=gym.spaces.Dict({"camera": image, "speed": VECTOR}))
    seen = {"camera": torch.zeros(2, 4, 4, 1, dtype=torch.uint8), "speed": torch.zeros(2, 3)}
    action, _ = agent.act(seen, explore=True)
    assert action.shape == (2,)


# ------------------------------------------------------------------------------------------------------------ bad input
def test_sequences_that_are_too_short_are_refused() -> None:
    agent = make_agent(n_step=TRAINED + 1)
    with pytest.raises(ValueError, match="10 rows, of which 3 are its burn-in, has 6 transitions, but n_step is 7"):
        agent.update(make_batch(agent))


def test_batches_of_another_kind_are_refused() -> None:
    agent = make_agent()
    windows = TensorDict({"reward": torch.zeros(2, 3), "observation": torch.zeros(2, 3, 3)}, [2, 3])
    with pytest.raises(ValueError, match=r"PrioritizedSequences of OnlineDataModule .* holds observation, reward"):
        agent.update(windows)
    batch = make_batch(agent)
    with pytest.raises(ValueError, match="start states have a width of 0, the agent's 16"):
        agent.update(batch._replace(start_state=batch.start_state[:, :0]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"discounts": []}, "discounts must be at least 1, got 0"),
        ({"discounts": [1.1]}, r"discounts must lie in \[0, 1\], got 1.1"),
        ({"n_step": 0}, "n_step must be at least 1"),
        ({"eta": math.nan}, r"eta must lie in \[0, 1\], got nan"),
        ({"epsilon": 2.0}, r"epsilon must lie in \[0, 1\], got 2.0"),
        ({"residual_weight": 0.5, "network": {"codec": Quantiles}}, "codec Scalar or Normalized, not Quantiles"),
        ({"action": gym.spaces.Box(-1.0, 1.0, (1,))}, "need a Discrete space of actions, got Box"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_agent(**arguments)
