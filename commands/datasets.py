"""`reverie datasets`: list, check and convert datasets, read logs, and take the best episodes of a dataset."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

from jsonargparse import auto_cli

from commands.parsing import ReadableParser
from datamodules.envs.episode_infos import return_text
from datamodules.recorded.best_episodes import write_best_episodes
from datamodules.recorded.card import describe
from datamodules.recorded.conversion import cache_folder, convert
from datamodules.recorded.converted import METADATA, payload_bytes
from datamodules.recorded.csv_logs import Columns, read_csv, write_npz
from datamodules.recorded.dataset_info import check_environment
from datamodules.recorded.readers.minari_dataset import minari_folder, payload
from datamodules.recorded.seen import View
from datamodules.recorded.sources import check_format, open_source, source_path
from modules.arguments.memory import check_disk, readable, unwritten
from modules.trust.files import read_json_object


def list_datasets(folder: str | None = None, cache_dir: str | None = None) -> None:
    """List the Minari datasets of this machine and of data/minari, the conversions in the cache, and a folder's files.

    Args:
        folder: folder whose dataset files (.h5, .hdf5, .npz) are listed too.
        cache_dir: folder of conversions; default $REVERIE_CACHE, else ~/.cache/reverie/datasets.
    """
    # Minari's, by their ids; those below data/minari by their folders, as `--data.source` takes them.
    rows: list[tuple[str, str, int | None]] = []
    root, local = minari_folder(""), Path("data/minari")
    for path in [*sorted(root.rglob("data/metadata.json")), *sorted(local.rglob("data/metadata.json"))]:
        here = str(path.parent.parent)
        metadata, wrong = _read(path)
        name = here if path.is_relative_to(local) else str(metadata.get("dataset_id", here))
        rows.append(("minari", wrong or name, _count(metadata.get("total_steps", 0))))
    # Conversions, with the transitions that their rows hold.
    cache = cache_folder(cache_dir)
    for path in sorted(cache.glob(f"*/{METADATA}")):
        metadata, wrong = _read(path)
        steps, wrong_steps = _read(path.parent / "steps" / "meta.json")
        sizes = steps.get("shape")
        count = _count(sizes[0]) if isinstance(sizes, list) and sizes else None
        rows.append(("converted", wrong or wrong_steps or f"{metadata.get('name')}  {path.parent}", count))
    # Files that could be converted.
    if folder is not None:
        if not Path(folder).is_dir():
            raise ValueError(f"no folder at {folder}")
        for path in sorted(Path(folder).iterdir()):
            if (path.is_file() and path.suffix in (".h5", ".hdf5", ".npz")) or (path.is_dir() and payload(path)):
                rows.append(("file", str(path), None))
    if not rows:
        print(f"no datasets: none of Minari in {root} or {local}, none converted in {cache}")
    for kind, name, count in rows:
        print(f"{kind:<10} {'' if count is None else f'{count:,}':>12}  {name}")


def _read(path: Path) -> tuple[dict[str, Any], str | None]:
    """Metadata, and what is wrong with them: one damaged dataset does not hide the others."""
    try:
        return read_json_object(path), None
    except ValueError as error:
        return {}, str(error)


def _count(steps: Any) -> int | None:
    return steps if isinstance(steps, int) else None


def check(
    source: str,
    format: str = "auto",
    environment: str | None = None,
    truncation: Literal["keep", "drop"] = "keep",
    observation_keys: list[str] | None = None,
    resize: int | None = None,
    download: bool = False,
    cache_dir: str | None = None,
) -> None:
    """Read a dataset completely, check every row and print its card. The first bad row is an error.

    Args:
        source: file, folder or Minari id.
        format: auto, hdf5, npz, minari or memmap.
        environment: gymnasium id of a dataset that names none.
        truncation: keep time-out rows, or drop them as D4RL does.
        observation_keys: parts of Dict observations that are joined, in order; all of numbers by default.
        resize: side of the square that images are resized to.
        download: allow Minari to download the dataset.
        cache_dir: folder of conversions; default $REVERIE_CACHE, else ~/.cache/reverie/datasets.
    """
    dataset = convert(
        [source],
        format=format,
        environment=environment,
        truncation=truncation,
        view=View(observation_keys, resize),
        download=download,
        cache_dir=cache_dir,
    )
    info = describe(dataset)
    if environment is not None:
        check_environment(info, environment)
    print(info.card)
    print(f"{'converted':<12} {dataset.folder}")


def convert_dataset(
    source: str | list[str],
    output: str,
    format: str = "auto",
    environment: str | None = None,
    truncation: Literal["keep", "drop"] = "keep",
    observation_keys: list[str] | None = None,
    resize: int | None = None,
    download: bool = False,
    cache_dir: str | None = None,
) -> None:
    """Convert one or more datasets into a folder that trains anywhere, without the originals.

    Args:
        source: file, folder or Minari id, or a list of them such as '["a.h5", "b.h5"]', which are joined.
        output: folder to write; it must not exist.
        format: auto, hdf5, npz, minari or memmap.
        environment: gymnasium id of a dataset that names none.
        truncation: keep time-out rows, or drop them as D4RL does.
        observation_keys: parts of Dict observations that are joined, in order; all of numbers by default.
        resize: side of the square that images are resized to.
        download: allow Minari to download a dataset.
        cache_dir: folder of conversions; default $REVERIE_CACHE, else ~/.cache/reverie/datasets.
    """
    target = Path(output).expanduser()
    if target.exists() or target.is_symlink():
        raise ValueError(f"{target} exists already; remove it or choose another output")
    dataset = convert(
        [source] if isinstance(source, str) else source,
        format=format,
        environment=environment,
        truncation=truncation,
        view=View(observation_keys, resize),
        download=download,
        cache_dir=cache_dir,
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    size = payload_bytes(dataset.folder)
    check_disk(f"{target}: free space, or name another output", size, target.parent, at_once=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.writing-", dir=target.parent))
    try:
        shutil.copytree(dataset.folder, aside, dirs_exist_ok=True)
        aside.rename(target)
    except (OSError, shutil.Error) as error:
        raise unwritten(target, error, readable(size)) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)  # gone already after the rename
    print(f"{len(dataset.steps):,} transitions of {dataset.metadata['name']} in {target}")


def best(
    source: str,
    output: str,
    fraction: float = 0.1,
    format: str = "auto",
    observation_keys: list[str] | None = None,
    download: bool = False,
) -> None:
    """Write the episodes of a dataset with the highest returns into an HDF5 file, which names the same environment.

    Args:
        source: file, folder or Minari id.
        output: file to write, with the ending .h5; it must not exist.
        fraction: share of the episodes, such as 0.1 for the best tenth.
        format: auto, hdf5, npz, minari or memmap.
        observation_keys: parts of Dict observations that are joined, in order; all of numbers by default.
        download: allow Minari to download the dataset.
    """
    path = source_path(source, format, download)
    if (path / METADATA).is_file():
        raise ValueError(f"{path} is a conversion; give the dataset that it was converted from")
    check_format(path, format)
    target = Path(output).expanduser()
    kept = write_best_episodes(open_source(path, format), target, fraction, observation_keys)
    of = f"{kept.episodes:,} of {kept.of:,} episodes"
    print(f"{of}, {kept.steps:,} steps, mean return {return_text(kept.mean_return)}, in {target}")


def csv(
    source: str,
    output: str,
    observations: list[str] | None = None,
    actions: list[str] | None = None,
    reward: str = "reward",
    episode: str | None = None,
    terminated: str | None = None,
    truncated: str | None = None,
    environment: str | None = None,
    name: str | None = None,
    delimiter: str = ",",
) -> None:
    """Write the steps of a CSV file of logs into an NPZ file that trains; see docs/tutorial.md.

    Args:
        source: file of text, whose first line names the columns; a row is a step.
        output: file to write, with the ending .npz; it must not exist.
        observations: columns of the observation before the action, such as '[angle, speed]'.
        actions: columns of the action; one column of whole numbers is discrete actions.
        reward: column of the reward after the action.
        episode: column that has one value in all rows of an episode, and another one in the next episode.
        terminated: column of flags, 0 or 1: the episode ended in a terminal state here.
        truncated: column of flags, 0 or 1: the episode was cut here, by a limit of time for one.
        environment: gymnasium id of the environment that the steps are from.
        name: short name of the dataset; the file's by default.
        delimiter: character between cells.
    """
    path, target = Path(source).expanduser(), Path(output).expanduser()
    if not path.is_file():
        raise ValueError(f"no file at {path}")
    if target.exists():
        raise ValueError(f"{target} exists already; remove it or choose another output")
    columns = Columns(observations or (), actions or (), reward, episode, terminated, truncated)
    arrays = read_csv(path, columns, delimiter)
    write_npz(arrays, target, name or path.stem, environment)
    ended, cut = int(arrays["terminals"].sum()), int((arrays["timeouts"] & ~arrays["terminals"]).sum())
    steps = f"{len(arrays['rewards']):,} steps in {ended + cut:,} episodes"
    print(f"{steps}, {ended:,} to a terminal state and {cut:,} cut, in {target}; see `reverie datasets check {target}`")


def main(argv: list[str]) -> None:
    """Run `reverie datasets` with these arguments."""
    auto_cli(
        {"list": list_datasets, "check": check, "convert": convert_dataset, "best": best, "csv": csv},
        args=argv,
        parser_class=ReadableParser,
        prog="reverie datasets",
        description="List, check and convert datasets, read logs, and take the best episodes of a dataset.",
    )
