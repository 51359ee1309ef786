"""A process of a run that dies ends the job within seconds, with a line of each process, and the run goes on."""

from __future__ import annotations

import os
import pickle
import re
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import pytest
import torch
from equal import assert_equal
from forked import HERE, PATIENCE, ROOT, Forked, Order, be_reverie
from pytorch_lightning import Callback, Trainer

COMMAND = (
    "fit", "--config", "sac/pendulum", "--model.hidden", "[8]", "--data.batch_size", "8", "--data.environments", "2",
    "--data.prefill", "60", "--data.steps_per_epoch", "80", "--data.updates_per_step", "0.25", "--data.capacity", "200",
    "--data.wrappers+", "test_dying_ranks.Breaks", "--trainer.callbacks+", "test_dying_ranks.Dies",
    "--trainer.max_epochs", "3", "--checkpoint.every_n_updates", "5", "--trainer.logger", "false",
    "--evaluation.episodes", "1", "--evaluation.final_episodes", "1", "--evaluation.every_n_epochs", "100",
    "--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp",
    "--ckpt_path", "last", "--trust", "test_dying_ranks",
)  # fmt: skip


RANK = int(os.environ.get("LOCAL_RANK", "0"))


def dies(how: str, rank: int) -> bool:
    if os.environ["DIES"] != f"{how} {rank}":
        return False
    Path("died").touch()
    return True


class Dies(Callback):
    """Ends a process before some update, as the environment says."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step % 10 != 8:
            return
        if dies("kill", trainer.global_rank):
            os.kill(os.getpid(), signal.SIGKILL)
        if dies("raise", trainer.global_rank):
            raise RuntimeError("one of a kind")

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        torch.save(pl_module.state_dict(), f"rank{trainer.global_rank}.pt")


class Breaks(gym.Wrapper):
    """An environment that breaks, or is slow and never ends an episode, where the other process has short ones."""

    steps = 0

    def step(self, action: Any) -> Any:
        Breaks.steps += 1
        if Breaks.steps > 90 and dies("break", RANK):
            raise RuntimeError("no such joint")
        observation, reward, terminated, truncated, info = self.env.step(action)
        if os.environ["DIES"] == "slow 1":
            time.sleep(0.03 * RANK)
            truncated = RANK == 0 and Breaks.steps % 7 == 0
        return observation, reward, terminated, truncated, info


class Ended(NamedTuple):
    """The end of a job: the exit status of its first process, and all that they said."""

    code: int | None
    said: str


def job(folder: Path, dies: str) -> Ended:
    """Run the command until no process of it is left that could say something, within 30 s after one has died."""
    pipe = folder / "said"
    if not pipe.exists():
        os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    here = str(Path(__file__).parent)
    path = [here, str(ROOT), str(HERE), *(p for p in sys.path if p.startswith((sys.prefix, sys.base_prefix)))]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(path[:3]), "DIES": dies, "REVERIE_RUN_DIR": "runs/x"}
    order = Order(pickle.dumps((be_reverie, (["reverie", *COMMAND], True))), str(folder), variables, path,
                  (str(pipe), str(pipe)))  # fmt: skip
    first = Forked(order)
    said = b""
    while select.select([reading], [], [], PATIENCE)[0]:
        part = os.read(reading, 1 << 16)
        if not part and first.poll() is not None:
            break
        time.sleep(0 if part else 0.01)
        said += part
    os.close(reading)
    if (died := folder / "died").exists():
        assert time.time() - died.stat().st_mtime < 30
        died.unlink()
    return Ended(first.wait(1), said.decode())


def lines(ended: Ended) -> list[str]:
    """Lines of processes about their end, without the leading words; nothing but lines was said."""
    assert "Traceback" not in ended.said
    assert "gloo" not in ended.said
    return sorted(line.removeprefix("reverie: error: ") for line in ended.said.splitlines() if ": error: " in line)


@pytest.mark.long
def test_whatever_a_process_dies_of_the_others_say_so_and_the_run_goes_on(tmp_path: Path) -> None:
    on = "to go on from update {}: reverie fit --config runs/x/config.yaml --ckpt_path runs/x/checkpoints/last.ckpt"
    ended = job(tmp_path, "kill 1")
    assert ended.code == 1
    assert lines(ended) == [
        f"process 0 of 2 ends, as process 1 has ended; {on.format(5)}",
        "process 1 of 2 was killed by SIGKILL",
    ]
    # Nobody is left to say what the first process has died of.
    ended = job(tmp_path, "kill 0")
    assert ended.code == -signal.SIGKILL
    assert lines(ended) == [f"process 1 of 2 ends, as process 0 has ended; {on.format(5)}"]
    # The other one waits in a collective.
    ended = job(tmp_path, "raise 0")
    assert ended.code == 1
    first, second = lines(ended)
    assert first == f"process 0 of 2: RuntimeError: one of a kind, see runs/x/traceback-0.txt; {on.format(5)}"
    assert second.startswith("process 1 of 2 ends, as ")
    assert "in on_train_batch_start" in (tmp_path / "runs/x/traceback-0.txt").read_text()
    # A broken environment is a mistake of the user's, which has a line of its own.
    ended = job(tmp_path, "break 1")
    assert ended.code == 1
    first, second = lines(ended)
    assert re.fullmatch(f"process 0 of 2 ends, as process 1 has ended; {on.format('[0-9]+')}", first)
    assert second == (
        "process 1 of 2: environment 'Pendulum-v1' failed in step for the 4th time: RuntimeError: no such joint"
    )
    # Neither process dies, but the second one is slower, and has other episodes.
    ended = job(tmp_path, "slow 1")
    assert ended.code == 0
    assert not lines(ended)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert_equal(first, second, "weights")
    assert torch.load(tmp_path / "runs/x/checkpoints/last.ckpt", weights_only=True)["global_step"] == 60
