"""Sequences of recorded episodes: agents with a world model or a memory learn from data alone, and resume exactly."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import dreamer_agents
import goals
import gymnasium as gym
import muzero_agents
import numpy as np
import pytest
import r2d2_agents
import torch
from learners import Learner, Searching, trainer_in
from pytorch_lightning import Callback, Trainer
from recorded_toys import record_toy
from tiny_dataset import LENGTHS, make_arrays, write_hdf5

from callbacks.checkpointing import Checkpoint, ExactResume
from callbacks.evaluation.played_environment import choose_environment
from commands.loaded import load
from datamodules.envs.recorded_environment import Changes
from datamodules.offline_sequences import OfflineSequenceDataModule
from datamodules.replay.prioritized import PrioritizedReplay
from datamodules.replay.sequences import LatestWindows
from datamodules.replay.streams import MakeReplay
from modules.agent.agent import Agent
from modules.batch import PrioritizedSequences, Spaces
from modules.contracts import Feedback
from modules.networks.encoders import Encoder

REPLAYED = partial(PrioritizedReplay, burn_in=2, overlap=2, refresh_states=True)


@pytest.fixture(scope="module")
def catch(tmp_path_factory: pytest.TempPathFactory) -> str:
    return record_toy(tmp_path_factory.mktemp("data"), "reverie/Catch-v0")


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    return str(write_hdf5(tmp_path / "tiny.h5", make_arrays()))


def make(source: str, **changes: Any) -> OfflineSequenceDataModule:
    told = {"batch_size": 3, "sequence_length": 5, "updates_per_epoch": 6, "validation_batches": 2}
    return OfflineSequenceDataModule(source, **told | changes)


def dreamer(spaces: Spaces) -> Agent:
    return dreamer_agents.make_agent(spaces.observation, spaces.action)


def r2d2(spaces: Spaces) -> Agent:
    encoder = partial(Encoder, image_network="mlp")
    return r2d2_agents.make_agent({"encoder": encoder}, spaces.action, spaces.observation)


class Batches(Callback):
    """Keeps what an agent is given."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(batch.clone())


def run(agent: Agent, data: OfflineSequenceDataModule, folder: Path, epochs: int, **arguments: Any) -> list[Any]:
    batches = Batches()
    torch.manual_seed(0)
    trainer = trainer_in(folder, epochs, [Checkpoint(every_n_updates=4), ExactResume(), batches])
    agent.attach()
    trainer.fit(agent, datamodule=data, **arguments)
    return batches.seen


@pytest.mark.filterwarnings("ignore:no best.ckpt", "ignore:Total length")
@pytest.mark.parametrize(
    ("kind", "changes"),
    [(dreamer, {"validation_fraction": 0.1}), (r2d2, {"replay": REPLAYED, "validation_fraction": 0.0})],
)
def test_an_agent_learns_from_images_and_numbered_actions_and_continues_exactly(
    tmp_path: Path, catch: str, kind: Any, changes: dict[str, Any]
) -> None:
    spaces = make(catch).spaces
    whole, first, rest = (kind(spaces) for _ in range(3))
    given = run(whole, make(catch, **changes), tmp_path / "whole", 3)
    run(first, make(catch, **changes), tmp_path / "parts", 2)
    last = tmp_path / "parts" / "checkpoints" / "last.ckpt"
    assert len(given) == 18
    again = run(rest, make(catch, **changes), tmp_path / "parts", 3, ckpt_path=last)
    for mine, theirs in zip(again, given[12:], strict=True):
        assert (mine == theirs).all()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, rest.state_dict()[name]), name
    before = kind(spaces).state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in whole.state_dict().items())
    # The dataset names the environment that the policy is played in.
    spec = make(catch).environment_spec
    assert spec is not None
    assert spec.id == "reverie/Catch-v0"


class Finding(Searching):
    """Stores what it finds at rows that nobody searched at."""

    stored_optional = True

    def feedback(self, found: PrioritizedSequences) -> Feedback:
        return super().feedback(found)._replace(state=None)


def test_an_agent_that_stores_findings_learns_from_rows_that_lack_them(tmp_path: Path, tiny: str) -> None:
    every = partial(PrioritizedReplay, burn_in=0, overlap=2, every_start=True, stored_rows=True, refresh_states=True)
    told = {"sequence_length": 3, "validation_fraction": 0.0, "updates_per_epoch": 20}
    agent = Finding(actions=3)
    trainer = trainer_in(tmp_path)
    trainer.fit(agent, datamodule=make(tiny, replay=every, reward_scale=0.5, **told))
    assert len(agent.found) == 20
    times: dict[int, int] = {}
    for batch in agent.found:
        assert batch.stored is not None
        assert batch.age is not None
        assert not batch.age.any()
        for b, index in enumerate(batch.index.tolist()):
            expected = torch.full((4, 2), 100.0 * times.get(index, 0)).masked_fill(batch.padding[:, b, None], 0.0)
            assert torch.equal(batch.stored[:, b], expected)
        times |= {index: times.get(index, 0) + 1 for index in batch.index.tolist()}
    assert sorted(times) == list(range(sum(LENGTHS)))  # every transition starts a sequence
    with pytest.raises(ValueError, match="hold nothing of it"):
        trainer_in(tmp_path).fit(Searching(actions=3), datamodule=make(tiny, replay=every, **told))


def test_vectors_and_continuous_actions_come_in_windows_of_consecutive_rows(tmp_path: Path, tiny: str) -> None:
    data = make(tiny, validation_fraction=0.0, normalize_observation=True, reward_scale=10.0, folder=str(tmp_path))
    assert data.val_dataloader() == []
    mean = make_arrays()["observations"].mean(0)
    np.testing.assert_allclose(data.spaces.observation_mean, mean, rtol=1e-5)
    assert len(data.train_dataloader()) == 6
    for batch, _ in zip(data.train_dataloader(), range(20), strict=False):
        assert batch.shape == (3, 5)
        counter = batch["observation"][..., 0]  # 100 times the episode, and the time
        assert ((counter.diff(dim=1) == 1) | batch["is_first"][:, 1:]).all()
        assert torch.equal(batch["terminated"], counter == 103)
        assert torch.equal(batch["truncated"], (counter == 4) | (counter == 205))
        assert not batch["previous_action"][batch["is_first"]].any()
        within = ~batch["is_first"]
        step = counter[within].long() % 100 - 1 + torch.tensor([0, 4, 7])[counter[within].long() // 100]
        assert torch.equal(batch["reward"][within], 10.0 * step)
    agent = dreamer(data.spaces)
    run(agent, make(tiny, validation_fraction=0.0, sequence_length=4), tmp_path / "run", 1)
    assert agent.updates == 6


def test_held_out_episodes_are_never_trained_on_and_judge_by_the_same_windows(tmp_path: Path, tiny: str) -> None:
    data = make(tiny, validation_fraction=0.3, sequence_length=4, folder=str(tmp_path))
    held = {int(x) // 100 for batch in data.val_dataloader() for x in batch["observation"][..., 0].flatten()}
    assert len(held) == 1 == data.held_out_episodes
    trained = {int(x) // 100 for _ in range(20) for x in data.replay.sample()["observation"][..., 0].flatten()}
    assert held | trained == {0, 1, 2}
    assert not held & trained
    passes = [list(data.val_dataloader()) for _ in range(2)]
    assert len(passes[0]) == 2
    assert all((a == b).all() for a, b in zip(*passes, strict=True))
    long = make(tiny, validation_fraction=0.3, sequence_length=9, folder=str(tmp_path / "long"))
    assert {batch.shape[1] for batch in long.val_dataloader()} <= {length + 1 for length in LENGTHS}


@pytest.mark.filterwarnings("ignore")
def test_held_out_windows_judge_a_checkpoint_and_without_any_the_way_out_is_told(tmp_path: Path, tiny: str) -> None:
    trainer = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, default_root_dir=tmp_path)
    data = make(tiny, validation_fraction=0.3, sequence_length=4)
    agent = dreamer(data.spaces)
    (validated,) = trainer.validate(agent, data, verbose=False)
    (tested,) = trainer.test(agent, data, verbose=False)
    assert {name.partition("/")[2] for name in validated} == {name.partition("/")[2] for name in tested} != set()
    assert f"validation/{agent.held_out_loss}" in validated  # which an evaluation names where nothing can be played
    for judge in (trainer.validate, trainer.test):
        with pytest.raises(ValueError, match=r"no episode is held out; .*`reverie evaluate`"):
            judge(agent, make(tiny, validation_fraction=0.0), verbose=False)


def test_agents_without_held_out_losses_are_not_sent_to_one(tmp_path: Path, tiny: str) -> None:
    data = make(tiny, validation_fraction=0.3, sequence_length=4)
    trainer = trainer_in(tmp_path, 1, [])
    for agent in (r2d2_agents.make_agent(), muzero_agents.make_agent(reanalyse=1.0)):
        with pytest.raises(ValueError, match=r"has no losses on held-out episodes: set data.validation_fraction to 0"):
            agent.check_run(trainer, data)
        with pytest.warns(UserWarning, match=r"no evaluation: .* Give one with --data.environment$"):
            assert choose_environment(data, agent, Changes()).spec is None


def test_losses_on_held_out_episodes_are_named_only_where_there_are_such(tiny: str) -> None:
    agent = dreamer_agents.make_agent()
    for fraction, named in ((0.3, " --checkpoint.mode min"), (0.0, "--data.environment")):
        with pytest.warns(UserWarning, match=rf"no evaluation: .*{named}$"):
            choose_environment(make(tiny, validation_fraction=fraction), agent, Changes())


def test_recorded_rows_that_are_never_searched_are_refused(tmp_path: Path, tiny: str) -> None:
    data = make(tiny, validation_fraction=0.0, sequence_length=4)
    with pytest.raises(ValueError, match="with reanalyse 0 no policy is learned; set it to 1"):
        muzero_agents.make_agent().check_run(trainer_in(tmp_path, 1, []), data)


def test_ranks_have_replays_of_their_own_episodes(tmp_path: Path, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for rank in range(2):
        monkeypatch.setattr(OfflineSequenceDataModule, "_rank", (rank, 2))
        data = make(tiny, validation_fraction=0.0, sequence_length=4, folder=str(tmp_path / "ranks"))
        drawn = torch.cat([data.replay.sample()["observation"][..., 0].flatten() for _ in range(10)])
        found.append({int(x) // 100 for x in drawn})
    assert not found[0] & found[1]
    assert found[0] | found[1] == {0, 1, 2}
    monkeypatch.setattr(OfflineSequenceDataModule, "_rank", (3, 4))
    with pytest.raises(ValueError, match="3 training episodes, less than one for each of 4 processes"):
        assert make(tiny, validation_fraction=0.0).replay


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sequence_length": 40}, "40 rows are more than the 15 of .*; shorten it"),
        ({"replay": partial(LatestWindows)}, "batch_size: 3: LatestWindows"),
        ({"replay": partial(LatestWindows), "batch_size": 1}, "which no recorded row is"),
        ({"validation_fraction": 1.5}, "validation_fraction"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"reference_min": 1.0}, "give both reference_min and reference_max"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, tiny: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        assert make(tiny, **{"validation_fraction": 0.0, "folder": str(tmp_path / "rows")} | changes).replay


def test_agents_and_trainers_that_cannot_use_it_are_refused(tmp_path: Path, tiny: str, catch: str) -> None:
    data: OfflineSequenceDataModule = make(catch, replay=REPLAYED, validation_fraction=0.1)
    with pytest.raises(ValueError, match=r"set data\.validation_fraction to 0"):
        run(r2d2(data.spaces), data, tmp_path / "held", 1)
    data = make(catch, replay=REPLAYED, validation_fraction=0.0, reward_scale=2.0)
    with pytest.raises(ValueError, match=r"stored states of R2D2 .*leave reward_scale at 1"):
        run(r2d2(data.spaces), data, tmp_path / "scaled", 1)
    other: MakeReplay = REPLAYED
    with pytest.raises(ValueError, match="needs an agent whose state is stored"):
        run(dreamer(make(tiny).spaces), make(tiny, replay=other), tmp_path / "dreamer", 1)
    trainer = Trainer(overfit_batches=2, default_root_dir=tmp_path, logger=False, enable_checkpointing=False)
    with pytest.raises(ValueError, match=r"trainer\.overfit_batches"):
        trainer.fit(Learner(3), datamodule=make(catch))
    assert isinstance(make(catch).spaces.action, gym.spaces.Discrete)


@pytest.mark.filterwarnings("ignore")
def test_parts_of_a_dict_are_joined_and_images_resized(
    tmp_path: Path, catch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    episodes, keys = goals.record(), ["achieved_goal", "observation"]
    data = make("goal/steered-v0", observation_keys=keys, validation_fraction=0.0, folder=str(tmp_path / "rows"))
    known = {tuple(goals.by_hand(row, keys)): t for episode in episodes for t, row in enumerate(episode)}
    for batch, _ in zip(data.train_dataloader(), range(5), strict=False):
        times = np.array([[known[tuple(row)] for row in window] for window in batch["observation"].numpy()])
        np.testing.assert_array_equal(times == 0, batch["is_first"].numpy())
        np.testing.assert_array_equal(times == goals.LENGTH, batch["truncated"].numpy())
    run(dreamer(data.spaces), make("goal/steered-v0", observation_keys=keys), tmp_path / "run", 1)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    changed = make("goal/steered-v0", observation_keys=keys[::-1])
    with pytest.raises(ValueError, match=r"observation_keys was .*the networks have learned from these parts"):
        run(dreamer(data.spaces), changed, tmp_path / "run", 2, ckpt_path=last)
    # The checkpoint knows the parts by name.
    act = load(str(last))
    raw = gym.make("goals/Goal-v0").reset(seed=0)[0]
    torch.manual_seed(0)
    by_name = act.predict(raw | {"observation": raw["observation"].ravel()})
    act.reset()
    torch.manual_seed(0)
    np.testing.assert_array_equal(act.predict(goals.by_hand(raw, keys)), by_name)
    images = make(catch, resize=5, folder=str(tmp_path / "images"))
    assert images.spaces.observation.shape == images.replay.sample()["observation"].shape[2:] == (5, 5, 1)
    assert images.environment_spec is not None
    assert images.environment_spec.make().observation_space.shape == (5, 5, 1)
