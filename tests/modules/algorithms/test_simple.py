"""SimPLe: cycles, games inside a model whose rules are known, PPO on them, ranks, resume, mistakes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from ppo_agents import make as make_ppo
from ranks import run_on_ranks
from runs_in_parts import whole_and_resumed
from simple_agents import BOARD, Counting, make, windows
from torch import Tensor

import reverie
from callbacks.evaluation.rollout import evaluate_policy
from modules.agent.agent import Agent
from modules.algorithms.simple import SimPLe
from modules.batch import SequenceBatch
from modules.contracts import ReplayOffer
from modules.model_contracts import Imagines
from modules.networks.token_video import TokenVideo
from modules.networks.video_unet import VideoUNet


def rows_of(agent: SimPLe, **settings: Any) -> SequenceBatch:
    batch = agent.read(windows(**settings))
    assert isinstance(batch, SequenceBatch)
    return batch


# ------------------------------------------------------------------------------------------------------------- cycles
def test_the_model_and_then_the_policy_learn_in_each_cycle() -> None:
    agent, batch = make(), windows()
    assert isinstance(agent.video, Counting)
    kinds, moved = [], []
    for _ in range(10):
        before = [agent.video.weight.item(), agent.actor.output.weight.clone()]
        kinds.append(agent.learner)
        metrics = agent.update(batch).metrics
        assert ("model/frame_loss" in metrics) == (kinds[-1] == "model")
        assert ("imagined_return" in metrics) == (kinds[-1] == "policy")
        agent.advance()
        moved.append((agent.video.weight.item() != before[0], not torch.equal(agent.actor.output.weight, before[1])))
    assert kinds == (["model"] * 2 + ["policy"] * 3) * 2
    assert moved == [(kind == "model", kind == "policy") for kind in kinds]
    # The schedule of own frames counts updates of the model alone.
    assert [own for _, own in agent.video.seen] == pytest.approx([0.0, 1 / 8, 2 / 8, 3 / 8])


def test_the_model_sees_signs_of_rewards_and_no_action_before_a_first_frame() -> None:
    agent = make()
    batch = rows_of(agent)
    agent.update(batch)
    assert isinstance(agent.video, Counting)
    ((clip, _),) = agent.video.seen
    assert set(batch.reward.unique().tolist()) == {-2.0, 0.0, 2.0}
    assert torch.equal(clip.reward, batch.reward / 2)
    for t in range(7):
        for b in range(6):
            one = np.eye(3)[int(batch.previous_action[t, b])] * (not batch.is_first[t, b])
            assert clip.action[t, b].tolist() == one.tolist()
    assert torch.equal(clip.frame, batch.observation["observation"])


# -------------------------------------------------------------------------------------------------------------- games
@pytest.mark.parametrize("context", [1, 3])
def test_games_start_in_real_frames_that_something_follows(context: int) -> None:
    agent = make(video=partial(Counting, context=context), games=500)
    batch = rows_of(agent)
    frame, seen = batch.observation["observation"], set()
    usable = set()
    for t in range(7):
        for b in range(6):
            begun = next((k for k in range(t, -1, -1) if batch.is_first[k, b]), None)
            if (begun is None and t < context - 1) or batch.terminated[t, b]:
                continue
            steps = [max(t - k, 0 if begun is None else begun) for k in range(context - 1, -1, -1)]
            usable.add(torch.stack([frame[k, b] for k in steps]).numpy().tobytes())
    for start in agent.starts(batch).transpose(0, 1):
        seen.add(start.contiguous().numpy().tobytes())
    assert seen == usable


def test_without_random_starts_games_start_where_episodes_do_as_far_as_there_are_any() -> None:
    agent = make(random_starts=False, games=300)
    batch = rows_of(agent)
    first = {x.numpy().tobytes() for x in batch.observation["observation"][batch.is_first]}
    assert {x.numpy().tobytes() for x in agent.starts(batch)[0]} == first
    none = batch._replace(is_first=torch.zeros_like(batch.is_first))
    assert len({x.numpy().tobytes() for x in agent.starts(none)[0]}) > len(first)


def test_games_are_those_of_the_models_rules_and_end_where_it_says() -> None:
    agent = make(games=200, horizon=4)
    games = agent.imagine(rows_of(agent))
    rows, log_prob = games
    frame = rows.observation["observation"][..., 1, 0, 0].int()  # a dark pixel, or 255, of the start
    assert frame.shape == (5, 200)
    assert rows.is_first[0].all()
    ends = 0
    for g in range(200):
        over = False
        for t in range(1, 5):
            assert bool(rows.is_first[t, g]) == over
            number = int(rows.previous_action[t, g])
            assert frame[t, g] == (frame[t - 1, g] + 1 + number) % 256
            corner = int(rows.observation["observation"][t, g, 0, 0, 0])
            assert bool(rows.terminated[t, g]) == (corner > 4 and not over)
            assert rows.reward[t, g] == (number == 2 and not over)
            over = over or corner > 4
        ends += over
    assert ends > 50
    # Log-probabilities are those of the policy that acted.
    with torch.no_grad():
        policy = agent.actor(agent.features({"observation": rows.observation["observation"][:-1]}))
        expected = agent.actor.log_prob(policy, agent.actor.encode(rows.previous_action[1:]))
    torch.testing.assert_close(log_prob[1:, :, 0], expected)


def test_the_policy_learns_from_games_as_ppo_does_from_real_windows() -> None:
    agent = make(lr=0.01)
    shared = {"passes": 2, "minibatches": 3, "clip": 0.1, "entropy": 0.01, "lr": 0.01}
    twin = make_ppo(BOARD.observation_space, BOARD.action_space, encoder=agent.make_encoder, **shared)
    names = dict(twin.named_parameters())
    twin.load_state_dict({name: agent.state_dict()[name] for name in twin.state_dict()})
    batch = rows_of(agent)
    for _ in range(2):
        agent.advance()
    torch.manual_seed(3)
    agent.update(batch)
    # The twin gets the same games, and the same order of their steps.
    other = make(lr=0.01)
    other.load_state_dict({**other.state_dict(), **{name: value for name, value in twin.state_dict().items()}})
    torch.manual_seed(3)
    games = other.imagine(batch)
    twin.update(games, other.draw_order(games))
    for name in names:
        assert torch.equal(twin.get_parameter(name), agent.get_parameter(name)), name
    assert not torch.equal(agent.actor.output.weight, other.actor.output.weight)


def test_windows_are_foreseen_for_pictures_from_the_context_on() -> None:
    agent = make()
    assert isinstance(agent, Imagines)
    batch = rows_of(agent)
    found = agent.open_loop(batch, 3)
    frame = batch.observation["observation"]
    assert torch.equal(found.observation["observation"][:3], frame[:3].float())
    assert torch.equal(found.reward[:3], agent.reward_transform(batch.reward[:3]))
    expected = frame[2]
    for t in range(3, 7):
        number = torch.where(batch.is_first[t], 0, batch.previous_action[t])
        expected = expected + (1 + number).view(-1, 1, 1, 1).to(torch.uint8)
        assert torch.equal(found.observation["observation"][t], expected.float())
        assert torch.equal(found.reward[t], (number == 2).float())


# ------------------------------------------------------------------------------------------------------- ranks, resume
def learned_on(rank: int) -> dict[str, Tensor]:
    agent = make()
    batch = windows(seed=rank)
    torch.manual_seed(rank)
    for _ in range(5):
        agent.update(batch)
        agent.advance()
    return agent.state_dict()


@pytest.mark.long
def test_two_ranks_with_other_windows_and_games_have_the_same_weights(tmp_path: Path) -> None:
    first, second = run_on_ranks(2, tmp_path, learned_on)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    alone = learned_on(0)
    assert not torch.equal(alone["actor.output.weight"], first["actor.output.weight"])


SMALL = (
    "--trainer.logger", "false", "--data.environments", "2", "--data.batch_size", "4", "--data.prefill", "20",
    "--data.pretrain_updates", "5", "--data.collect_at_once", "10", "--data.updates_per_step", "0.5",
    "--data.steps_per_epoch", "10", "--data.capacity", "200", "--model.model_updates", "3",
    "--model.policy_updates", "2", "--model.games", "8", "--model.horizon", "3", "--model.units", "8",
    "--evaluation.episodes", "2", "--evaluation.final_episodes", "2", "--evaluation.parallel", "2",
)  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("config", ["simple/catch", "simple/catch_tokens"])
def test_a_resumed_run_is_the_uninterrupted_one(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    agents = whole_and_resumed(["fit", "--config", config, *SMALL], tmp_path)
    assert [agent.updates for agent in agents] == [15, 15]
    assert isinstance(agents[0].video, TokenVideo if config.endswith("tokens") else VideoUNet)
    (checkpoint,) = (tmp_path / "parts").glob("*/checkpoints/last.ckpt")
    reverie.main(["evaluate", "--ckpt_path", str(checkpoint), "--episodes", "3"])
    assert "3 episodes, 15 updates" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_preset_catches_nine_balls_of_ten_after_three_thousand_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reverie.main(["fit", "--config", "simple/catch", "--trainer.logger", "false"])
    (checkpoint,) = tmp_path.glob("runs/**/last.ckpt")
    agent = Agent.from_checkpoint(checkpoint)
    assert evaluate_policy(agent, "reverie/Catch-v0", 100, 0, parallel=100).returns.mean() >= 0.8


# ----------------------------------------------------------------------------------------------------------- mistakes
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_updates": 0}, "model_updates must be at least 1"),
        ({"policy_updates": 0}, "policy_updates must be at least 1"),
        ({"games": 0}, "games must be at least 1"),
        ({"games": 2}, "minibatches: 3 are more than the 2 games"),
        ({"horizon": 0}, "horizon must be at least 1"),
        ({"passes": 0}, "passes must be at least 1"),
        ({"own": "linear(0, 2, 9)"}, "own"),
        ({"own": "rising"}, "is no schedule"),
        ({"model_lr": -1.0}, "model_lr must lie in"),
        ({"model_clip_norm": 0.0}, "model_clip_norm must lie in"),
        ({"clip": 0.0}, "clip must be positive"),
        ({"discount": 1.1}, "discount must lie in"),
        ({"lambda_": -0.1}, "lambda_ must lie in"),
        ({"entropy": -0.1}, "entropy must lie in"),
        ({"critic_scale": -0.1}, "critic_scale must lie in"),
        ({"adam_eps": -1.0}, "adam_eps must lie in"),
        ({"clip_norm": 0.0}, "clip_norm must lie in"),
        ({"observation": gym.spaces.Box(-1.0, 1.0, (3,))}, "a video model needs uint8 images"),
        (
            {"observation": gym.spaces.Dict({"a": BOARD.observation_space, "b": BOARD.observation_space})},
            "foresees one image, and the observation has 2 parts, .* data.observation_keys",
        ),
    ],
)
def test_bad_arguments_are_refused_by_name(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_windows_that_are_no_longer_than_what_is_looked_back_at_are_refused() -> None:
    agent = make(video=partial(Counting, context=4))
    for rows in (2, 4):
        with pytest.raises(ValueError, match=rf"data\.sequence_length: {rows} rows are no more than the 4 frames"):
            agent.meet(ReplayOffer(rows))
    agent.meet(ReplayOffer(5))
    with pytest.raises(ValueError, match=r"data\.sequence_length: 4 rows"):
        agent.update(windows(length=4))
    with pytest.raises(ValueError, match="SimPLe learns from windows"):
        agent.meet(ReplayOffer(9, prioritized=True))
