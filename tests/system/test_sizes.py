"""Sizes that no machine has, and numbers that are none, are one line that names the argument, within seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch import nn

import reverie
from commands.messages import LIMIT, shorten, told
from datamodules.offline import OfflineDataModule
from datamodules.online import OnlineDataModule
from datamodules.replay.memory_mapped_rows import Field, MemoryMappedRows
from datamodules.synthetic import CompositionalTask, MixtureTask
from modules.agent.actor_critic_updates import ActorUpdates, CriticUpdates
from modules.agent.entropy_floor import EntropyFloor
from modules.agent.warm_start import WarmStart
from modules.algorithms.a2c import A2C
from modules.algorithms.atac import ATAC
from modules.algorithms.cql import CQL
from modules.algorithms.r2d2 import R2D2
from modules.arguments.memory import MemoryGuard, check_disk, check_memory, free_memory, readable, shortage
from modules.batch import Spaces
from modules.networks.blocks import MLP

VECTOR = gym.spaces.Box(-1, 1, (3,))
FLAT = Spaces(VECTOR, gym.spaces.Box(-1, 1, (2,)))
CHOICES = Spaces(VECTOR, gym.spaces.Discrete(2))
TRILLION, NAN, INF = 10**12, float("nan"), float("inf")


def atac(**arguments: object) -> ATAC:
    return ATAC(FLAT, **{"hidden": [4], **arguments})


def online(**arguments: object) -> OnlineDataModule:
    return OnlineDataModule("CartPole-v1", **{"environments": 2, "prefill": 100, **arguments})


@pytest.mark.parametrize(
    ("make", "argument", "values"),
    [
        (atac, "beta", [[], [NAN], -1.0, INF]),
        (atac, "seeds", [0, -1, 1_000_000, TRILLION, 10**25]),
        (atac, "hidden", [[0], [-1], [10**9]]),
        (atac, "hidden", [[1 << 20, 1 << 20]]),
        (lambda **a: CQL(FLAT, **a), "action_samples", [0, -1, TRILLION, 10**25]),
        (CriticUpdates, "projection_radius", [0.0, -1.0, NAN, INF]),
        (CriticUpdates, "value_range", [(1.0, -1.0), (NAN, 1.0)]),
        (ActorUpdates, "interval", [0, -1, 10**25]),
        (ActorUpdates, "log_std_range", [(2.0, 2.0)]),
        (EntropyFloor, "target", [NAN, INF]),
        (WarmStart, "updates", [-1, 10**25]),
        (lambda **a: A2C(CHOICES, **a), "units", [0, -1, TRILLION, 1 << 20]),
        (lambda **a: R2D2(CHOICES, **a), "discounts", [[], [NAN]]),
        (lambda **a: MLP(3, 3, **a), "hidden", [0, -1]),
        (MixtureTask, "tasks", [0, TRILLION]),
        (MixtureTask, "noise", [-1.0, NAN, INF]),
        (CompositionalTask, "stages", [0, TRILLION]),
        (CompositionalTask, "held_out", [NAN, INF, 1e300]),
        (lambda **a: OfflineDataModule("x.npz", **a), "batch_size", [0, -1, 10**25]),
        (lambda **a: OfflineDataModule("x.npz", **a), "prefetch", [-1, TRILLION]),
        (lambda **a: OfflineDataModule("x.npz", **a), "reward_scale", [NAN, INF]),
        (lambda **a: OfflineDataModule("x.npz", **a), "updates_per_epoch", [0, 10**25]),
        (online, "updates_per_step", [0.0, -1.0, 1e300, 1e-300, NAN, INF]),
        (online, "environments", [0, 1_000_000]),
        (online, "steps_per_epoch", [0, 10**25]),
        (online, "ray_workers", [0, -1]),
        (online, "reward_scale", [NAN]),
    ],
)
def test_a_number_out_of_range_is_named(make: Callable[..., object], argument: str, values: list) -> None:
    for value in values:
        start = time.process_time()
        with pytest.raises(ValueError, match=rf"{argument}|of these widths") as caught:
            make(**{argument: value})
        assert time.process_time() - start < 5, value
        assert len(str(caught.value)) < LIMIT


@pytest.fixture
def walks(tmp_path: Path) -> Path:
    steps = 40
    arrays = {"observations": np.zeros((steps, 3), np.float32), "actions": np.zeros((steps, 2), np.float32)}
    ends = {"terminals": np.zeros(steps, bool), "timeouts": np.arange(steps) % 20 == 19}
    np.savez(tmp_path / "walks.npz", rewards=np.zeros(steps), **arrays, **ends)
    return tmp_path / "walks.npz"


@pytest.mark.parametrize(("argument", "value"), [("batch_size", TRILLION), ("minibatches", TRILLION)])
def test_a_batch_beyond_memory_says_how_much_there_is(walks: Path, argument: str, value: int) -> None:
    data = OfflineDataModule(str(walks), cache_dir=str(walks.parent / "cache"), **{argument: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"batch_size .*: .* of memory would be needed, and .* are free"):
        data.train_dataloader()


def test_rows_beyond_the_disk_are_refused_before_a_file_is_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.capacity .*: 40 PB of disk would be needed in .*, which has"):
        MemoryMappedRows(tmp_path / "replay", {"it": Field((10,), torch.float32)}, 10**15)
    assert not (tmp_path / "replay").exists()
    check_disk("it", 1000, tmp_path / "not" / "there")


def test_a_window_of_one_row_has_nothing_to_learn() -> None:
    flags = dict.fromkeys(("is_first", "terminated", "truncated"), torch.zeros(2, 1, dtype=torch.bool))
    rows = {"observation": torch.zeros(2, 1, 3), "previous_action": torch.zeros(2, 1), "reward": torch.zeros(2, 1)}
    rows |= {"stored": torch.zeros(2, 1, 1), **flags}
    with pytest.raises(ValueError, match=r"data\.sequence_length must be at least 2"):
        A2C(CHOICES, units=4).update(TensorDict(rows, [2, 1]))


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.empty(TRILLION),
        lambda: torch.randint(5, (TRILLION,)),
        lambda: torch.zeros(10, 3).repeat(10**11, 1),
        lambda: torch.randperm(TRILLION),
        lambda: torch.zeros(2, dtype=torch.uint8).new_zeros(TRILLION),
        lambda: nn.Linear(1 << 20, 1 << 20),
    ],
)
def test_the_guard_refuses_before_memory_is_asked_for(make: Callable[[], object]) -> None:
    with (
        pytest.raises(ValueError, match=r"^it: .*[TP]B of memory would be needed, and .* are free$"),
        MemoryGuard("it"),
    ):
        make()


def test_the_guard_leaves_random_numbers_and_small_things_alone() -> None:
    torch.manual_seed(1)
    free = [x.clone() for x in MLP(3, 4).parameters()]
    torch.manual_seed(1)
    with MemoryGuard("it"):
        guarded = [x.clone() for x in MLP(3, 4).parameters()]
        torch.empty(TRILLION, device="meta")  # takes none
    assert all(torch.equal(a, b) for a, b in zip(free, guarded, strict=True))
    check_memory("it", free_memory() // 2)


def failure(make: Callable[[], object]) -> BaseException:
    with pytest.raises((RuntimeError, MemoryError, TypeError)) as caught:
        make()
    return caught.value


def test_what_the_libraries_say_of_too_little_memory_becomes_one_line() -> None:
    found = shortage(failure(lambda: torch.empty(10 * TRILLION)))
    assert found is not None
    assert "on this machine: 40 TB more were asked for at once; lower data.batch_size" in found
    gpu = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of ...")
    assert "on the GPU: 20 GiB more" in str(shortage(gpu))
    for error in (failure(lambda: torch.empty(10**25)), failure(lambda: np.zeros(10**14)), MemoryError()):
        assert "not enough memory" in str(shortage(error))
    for error in (RuntimeError("stack expects a non-empty TensorList"), ValueError("out of memory"), KeyError("x")):
        assert shortage(error) is None
        assert (told(error) is None) == (not isinstance(error, ValueError))
    assert [readable(x) for x in (0, 1500, 2.5e10, 1e300)] == ["0 bytes", "1.5 kB", "25 GB", "1e+285 PB"]


def test_messages_are_short_and_keep_the_end_that_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert shorten("a\x1b[2J\u202e\nb") == r"a\x1b[2J\u202e b"
    text = shorten("wrong: " + "x" * 20_000 + "\n; leave it out")
    assert len(text) <= LIMIT
    assert text.startswith("wrong: ")
    assert text.endswith("; leave it out")
    with pytest.raises(SystemExit) as leaving:
        reverie.main(["fit", "--config", "y" * 20_000])
    message = capsys.readouterr().err
    assert leaving.value.code == 2
    assert len(message) < LIMIT + 50
    assert message.count("\n") == 1
