"""Where a run writes: one folder per run, found again by `--ckpt_path last`, shared by all processes of the run."""

from __future__ import annotations

import itertools
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from callbacks.checkpointing import checkpoints_before, is_last
from commands.parsing import find_config
from commands.slurm import slurm_tasks
from modules.agent.checkpoint_file import read_checkpoint
from modules.disk import make_folder, to_disk
from modules.trust.names import short
from modules.trust.options import option

VARIABLE = "REVERIE_RUN_DIR"
CHECKPOINT = "REVERIE_CKPT_PATH"
LOCK, HOLDER = ".lock", ".holder"
"""Files of a folder in which a run trains: its lock, and who has it, for a lock is emptied by all who ask for it."""

NAMES = {name: f"{name}.ckpt" for name in ("last", "best", "trusted", "cloned")}


def experiment_root(run_dir: str | None, config_names: list[str]) -> Path:
    """Folder that holds all runs of an experiment: `run_dir`, or `runs/<first config, with dashes>`."""
    if run_dir is not None:
        return Path(run_dir).absolute()
    name = config_names[0].removesuffix(".yaml").strip("./").replace("/", "-") if config_names else "unnamed"
    return (Path("runs") / name).absolute()


def newest_checkpoint(root: Path, which: str, runs: str = "*") -> Path:
    """The checkpoint `last`, `best`, `trusted` or `cloned` of the newest run below `root` that has one.

    Args:
        root: folder of an experiment, or of several.
        which: `last`, `best`, `trusted` or `cloned`.
        runs: pattern of the runs' folders below it.

    Raises:
        ValueError: no run below `root` has such a checkpoint; it says which ones they have.
    """
    found = sorted(root.glob(f"{runs}/checkpoints/{NAMES[which]}"), key=lambda path: path.parts[-3])
    if not found:
        others = [name for name, file in NAMES.items() if any(root.glob(f"{runs}/checkpoints/{file}"))]
        raise ValueError(
            f"{option('ckpt_path', which, repr(which))}: no run under {root} has checkpoints/{NAMES[which]}; "
            + (f"what there is: {', '.join(others)}. Take that, or " if others else "")
            + f"give the same {option('config')} or {option('run_dir')} as the run, or a checkpoint file"
        )
    return found[-1]


def checkpoint_of_run(ckpt_path: str, config: str | None, run_dir: str | None) -> Path:
    """The checkpoint that a command which only reads means: a file, or `last`, `best`, `trusted` or `cloned` of a run.

    Args:
        ckpt_path: `last`, `best`, `trusted`, `cloned` or a file.
        config: config of the run, as it was given to `fit`; by default the newest run of all below `runs` is meant.
        run_dir: folder of the experiment, if `fit` was given one.

    Raises:
        ValueError: there is no such file, run or config, or a config or folder is given beside a file.
    """
    if ckpt_path not in NAMES:
        if config is not None or run_dir is not None:
            raise ValueError(
                f"{option('config')} and {option('run_dir')} say whose `last`, `best`, `trusted` or `cloned` is meant; "
                f"{option('ckpt_path', ckpt_path, repr(ckpt_path))} is a path: give one or the other"
            )
        if not Path(ckpt_path).is_file():
            raise ValueError(
                f"no checkpoint file at {ckpt_path}; {option('ckpt_path')} also takes last, best, trusted and cloned"
            )
        return Path(ckpt_path)
    if config is None and run_dir is None:
        return newest_checkpoint(Path("runs"), ckpt_path, "*/*")
    root = experiment_root(run_dir, [] if config is None else [config])
    if config is not None and run_dir is None and not root.is_dir():
        find_config(config)  # a name that nobody has, which is nearer the mistake than the run that it has not
    return newest_checkpoint(root, ckpt_path)


def find_checkpoint(ckpt_path: str | None, root: Path, may_begin: bool = False) -> Path | None:
    """The checkpoint file that `--ckpt_path` means: `last`, `best` or a file; None without one.

    A process that another process of the same run has started finds the same one in the environment.

    Args:
        ckpt_path: path that was given.
        root: folder of the experiment.
        may_begin: `last` means no checkpoint in a folder of `REVERIE_RUN_DIR` that has none yet, so that a job's first
            start and its restarts are the same command.

    Raises:
        ValueError: there is no such file.
    """
    if ckpt_path is None:
        return None
    if CHECKPOINT in os.environ:
        return Path(os.environ[CHECKPOINT])
    if ckpt_path in NAMES and VARIABLE in os.environ:
        path = Path(os.environ[VARIABLE]).absolute() / "checkpoints" / NAMES[ckpt_path]
        if may_begin and ckpt_path == "last" and not _checkpoints(path.parent.parent):
            if is_first_process():
                print(f"{path.parent.parent} has no checkpoint yet: the run starts there", file=sys.stderr)
            return None
    else:
        path = newest_checkpoint(root, ckpt_path) if ckpt_path in NAMES else Path(ckpt_path).absolute()
    if not path.is_file():
        raise ValueError(f"--ckpt_path: no checkpoint file at {path}")
    return path


def newest_whole(last: Path) -> Path:
    """The `last.ckpt` of a run, or, where it is damaged, the newest one before it that is whole, which is said.

    Where nothing was kept before it (`checkpoint.keep_last`), or all is damaged, the file itself.
    """
    before = checkpoints_before(last)
    damage = None
    for path in (last, *reversed(before)) if before else ():
        try:
            read_checkpoint(path, "cpu")
        except ValueError as error:
            damage = damage or error
            continue
        if damage is not None and is_first_process():
            found = short(str(damage).removesuffix("; use another one"), 250)
            print(f"reverie: warning: {found}: the run goes on from {path}", file=sys.stderr)
        return path
    return last


def choose(root: Path, checkpoint: Path | None) -> Path:
    """Folder of this run: that of a `last.ckpt`, or one before it, which is continued; else a new one, made here.

    It is named by the time.

    A process that another process of the same run has started finds the folder in the environment.

    Raises:
        ValueError: an outside launcher started several processes without naming one folder for all of them.
        OSError: the folder cannot be made.
    """
    shared = os.environ.get(VARIABLE)
    if shared is not None:
        return Path(shared).absolute()
    if max(int(os.environ.get("WORLD_SIZE", "1")), slurm_tasks()) > 1:
        raise ValueError(f"set {VARIABLE} to one folder for all ranks: each would choose its own by the time")
    if checkpoint is not None and is_last(checkpoint):
        return checkpoint.parent.parent
    base = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for n in itertools.count():
        make_folder(root)
        path = root / (base if n == 0 else f"{base}_{n}")
        try:
            path.mkdir()  # also tells apart two runs that start at the same moment
        except (FileExistsError, FileNotFoundError):  # or one that was refused has taken its empty root away
            continue
        to_disk(root)
        return path
    raise AssertionError("unreachable")


@contextmanager
def nothing_left(root: Path) -> Iterator[None]:
    """Remove, at the end, those of a folder of runs and the folders above it that were missing and are empty."""
    missing = [folder for folder in (root, *root.parents) if not folder.exists()]
    yield
    for folder in missing:
        with suppress(OSError):  # it holds something, or was never made
            folder.rmdir()


def is_first_process() -> bool:
    """Whether this is the first process of the run, as far as the launcher's variables tell."""
    return all(int(os.environ.get(name, "0")) == 0 for name in ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK"))


@contextmanager
def occupied(directory: Path, continued: bool) -> Iterator[None]:
    """Keep other runs out of a folder while a run lasts; a folder in which nothing was written is removed at the end.

    The first process holds the folder for all others of its run.

    Args:
        directory: the folder.
        continued: `--ckpt_path last` was given, so that a run in the folder may go on.

    Raises:
        ValueError: another process trains in this folder, or it holds a run that would be overwritten.
    """
    if not is_first_process():
        yield
        return
    make_folder(directory)
    lock = FileLock(directory / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(
            f"{holder(directory)} trains in {directory}: wait until it ends, end it, or start a new run"
        ) from error
    try:
        (directory / HOLDER).write_text(f"process {os.getpid()} on {platform.node()}")
        if not continued and ((directory / "config.yaml").exists() or _checkpoints(directory)):
            raise ValueError(
                f"{directory} holds a run, which would be overwritten: --ckpt_path last continues it, or name another "
                f"folder with {VARIABLE}"
            )
        yield
    finally:
        (directory / HOLDER).unlink(missing_ok=True)
        lock.release()
        if [path.name for path in directory.iterdir()] == [LOCK]:
            (directory / LOCK).unlink()
            directory.rmdir()


def holder(directory: Path) -> str:
    """Who trains in a folder whose lock is held: `process 12 on NAME`, or `another process` where it does not say."""
    try:
        return short((directory / HOLDER).read_text()) or "another process"
    except (OSError, UnicodeDecodeError):
        return "another process"


def _checkpoints(directory: Path) -> list[Path]:
    return [path for name in NAMES.values() if (path := directory / "checkpoints" / name).exists()]


@contextmanager
def announced(directory: Path, checkpoint: Path | None) -> Iterator[None]:
    """Let child processes find the folder and the checkpoint of this run while the run lasts."""
    mine = {VARIABLE: str(directory)} | ({} if checkpoint is None else {CHECKPOINT: str(checkpoint)})
    before = {name: os.environ.get(name) for name in mine}
    os.environ.update(mine)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
