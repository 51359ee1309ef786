"""Any source, converted once into a memory-mapped TensorDict in a cache folder keyed by content.

Layout of a converted dataset, readable without this project by `TensorDict.load_memmap`:

- `steps/`: one row per transition. `row` `[N, W]` float32 packs observation, action, next observation, reward and the
  two flags, so that a batch is one gather; fields of other dtypes (pixels, discrete actions) stay tensors of their own.
- `episodes/`: `start`, `length` (rows), `steps` (environment steps), `return`, all `[E]`; `initial_observation`.
- `dataset.json`: where each field lies in `row`, spaces, identity, references.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from filelock import FileLock

from datamodules.envs.recorded_environment import Changes, label, plain_environment
from datamodules.recorded.checks import check_played, clip_actions, outside_bounds
from datamodules.recorded.converted import CONVERTER_VERSION, METADATA, Converted, open_converted, payload_bytes
from datamodules.recorded.description import Chunk, Description
from datamodules.recorded.findings import Findings
from datamodules.recorded.seen import Seen, View
from datamodules.recorded.sources import check_format, content_hash, open_source, source_path
from datamodules.recorded.spaces import resolve_spaces
from datamodules.recorded.writer import Layout, StepWriter
from modules.arguments.memory import check_disk, free_disk, readable
from modules.batch import Spaces
from modules.disk import to_disk
from modules.trust.files import source_files
from modules.trust.names import short

STALE_SECONDS = 24 * 3600
PROGRESS_SECONDS = 5.0
MAKE_ROOM = "free space, or name another folder with cache_dir or $REVERIE_CACHE"


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """`cache_dir`, else `$REVERIE_CACHE`, else `~/.cache/reverie/datasets`."""
    return Path(cache_dir or os.environ.get("REVERIE_CACHE") or "~/.cache/reverie/datasets").expanduser()


def convert(
    sources: Sequence[str | Path],
    *,
    format: str = "auto",
    truncation: Literal["keep", "drop"] = "keep",
    environment: str | Changes | None = None,
    observation_space: gym.Space | None = None,
    action_space: gym.Space | None = None,
    view: View = View(),  # noqa: B008 - frozen
    download: bool = False,
    cache_dir: str | Path | None = None,
) -> Converted:
    """Open the conversion of one or more sources, converting them first where the cache has none.

    Processes that convert the same source at once wait for the first; what is half-written is never opened, because a
    conversion is written aside and renamed when it is complete.

    Args:
        sources: files, folders or Minari ids.
        format: see `open_source`.
        truncation: treatment of the last step of an episode that was cut.
        environment: gymnasium id of data that name none, or all that is asked of the environment.
        observation_space: given by hand.
        action_space: given by hand.
        view: parts of Dict observations that are joined, and the size of images.
        download: allow Minari to download a dataset.
        cache_dir: see `cache_folder`.

    Raises:
        ValueError: a source is missing, unreadable or holds bad data, or the sources do not fit each other.
    """
    asked = environment if isinstance(environment, Changes) else Changes(environment)
    paths = [source_path(source, format, download) for source in sources]
    if any((path / METADATA).is_file() for path in paths):
        return _already_converted(paths, truncation, observation_space, action_space, view)
    # The cache knows a conversion by the sources' content and by all that decides its rows.
    options: dict[str, Any] = {
        "version": CONVERTER_VERSION,
        "format": format,
        "truncation": truncation,
        "environment": asked.key(),
        "spaces": [_all_of(observation_space), _all_of(action_space)],
        "view": view.to_plain(),
    }
    source_hash = _source_hash(paths, format)
    names = "+".join(path.stem for path in paths)
    key = hashlib.sha256(f"{names} {source_hash} {json.dumps(options)}".encode()).hexdigest()[:20]
    cache = cache_folder(cache_dir)
    target = cache / f"{names.encode()[:80].decode(errors='ignore')}-{key}"
    if not target.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f".{key}.lock"):
            if not target.is_dir():
                _remove_stale(cache)
                descriptions = [open_source(path, format) for path in paths]
                observed, action = _common_spaces(descriptions, asked, observation_space, action_space)
                seen = Seen(observed, view, descriptions[0].location)
                _write_aside(descriptions, target, seen, action, truncation, source_hash, asked.id)
    return open_converted(target)


def _source_hash(paths: Sequence[Path], format: str) -> str:
    """SHA-256 of the content of all sources, which are of this format."""
    for path in paths:
        check_format(path, format)
    hashes = [content_hash(path) for path in paths]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _all_of(space: gym.Space | None) -> list[Any]:
    """A space in plain values; its text alone leaves out parts of long bounds."""
    bounds = [space.low.tolist(), space.high.tolist()] if isinstance(space, gym.spaces.Box) else []
    return [str(space), *bounds]


def _already_converted(
    paths: Sequence[Path],
    truncation: str,
    observation_space: gym.Space | None,
    action_space: gym.Space | None,
    view: View,
) -> Converted:
    """Open a folder that an earlier conversion wrote.

    Raises:
        ValueError: arguments that only a fresh conversion can follow are given.
    """
    if len(paths) > 1:
        raise ValueError(f"{', '.join(map(str, paths))}: only original sources can be joined, not converted ones")
    if observation_space is not None or action_space is not None:
        raise ValueError(f"{paths[0]} is converted already and has its spaces; give spaces only for original sources")
    source_files(paths[0])
    converted = open_converted(paths[0])
    if converted.metadata["truncation"] != truncation:
        done = converted.metadata["truncation"]
        raise ValueError(f"{paths[0]} was converted with truncation: {done}; set truncation: {done}, or convert again")
    for name, value in view.to_plain().items():
        done = converted.metadata[name]
        if value is not None and value != done:
            raise ValueError(f"{paths[0]} was converted with {name}: {short(done)}; leave {name} out, or convert again")
    return converted


def _common_spaces(
    descriptions: Sequence[Description], asked: Changes, observation: gym.Space | None, action: gym.Space | None
) -> tuple[gym.Space, gym.Space]:
    """Spaces of observations and actions that all sources share, as the sources hold them.

    Raises:
        ValueError: environments, with their arguments and wrappers, or spaces differ between the sources.
    """
    first = descriptions[0]
    for description in descriptions:
        if description.environment != first.environment:
            names = [
                "no environment" if one.environment is None else label(one.environment) for one in (first, description)
            ]
            raise ValueError(
                f"{first.location} and {description.location} cannot be joined: {names[0]} against {names[1]}"
            )
    resolved = [resolve_spaces(description, asked, observation, action) for description in descriptions]
    for description, spaces in zip(descriptions, resolved, strict=True):
        for field, mine, theirs in zip(("observation", "action"), resolved[0], spaces, strict=True):
            if mine != theirs:
                raise ValueError(
                    f"{first.location} and {description.location} cannot be joined: their {field} spaces are "
                    f"{short(mine)} and {short(theirs)}"
                )
    return resolved[0]


def _write_aside(
    descriptions: Sequence[Description],
    target: Path,
    seen: Seen,
    action: gym.Space,
    truncation: str,
    source_hash: str,
    environment: str | None,
) -> None:
    """Write the conversion beside its place, flush it to disk and rename it into place."""
    spaces = Spaces(seen.space, action)
    needed = _room_needed(descriptions, spaces, truncation, target.parent)
    aside = Path(tempfile.mkdtemp(prefix=".writing-", dir=target.parent))
    try:
        # Steps first, in one pass over all sources: what is counted on the way stands in the metadata.
        with StepWriter(aside / "steps", spaces) as writer:
            for description in descriptions:
                _write_steps(description, writer, seen, spaces, truncation)
        writer.describe()
        writer.write_episodes(aside / "episodes")
        # Any of the sources could name the environment, for `_common_spaces` has seen that it is the same one.
        first = descriptions[0]
        described = first.environment or (None if environment is None else plain_environment(environment))
        references, notes = _common_references(descriptions)
        metadata = {
            "version": CONVERTER_VERSION,
            "name": "+".join(description.name for description in descriptions),
            "location": [description.location for description in descriptions],
            "format": first.format,
            "content_hash": source_hash,
            "truncation": truncation,
            "environment": described["id"] if described is not None else None,
            "environment_spec": described,
            "recorded_spec": first.recorded,
            **seen.view.to_plain(),
            "observation_parts": None if seen.parts is None else Spaces(seen.parts, action).to_json(),
            "reference_min": references[0],
            "reference_max": references[1],
            "notes": [
                *notes,
                *(f"{description.name}: {note}" for description in descriptions for note in description.notes),
            ],
            "terminals": writer.terminals,
            "timeouts": writer.timeouts,
            "spaces": spaces.to_json(),
            "columns": writer.layout.to_plain(),
            "bytes": payload_bytes(aside),
        }
        (aside / METADATA).write_text(json.dumps(metadata, indent=1))
        _flush(aside)
        aside.chmod(0o755)
        aside.rename(target)
        to_disk(target.parent)
    except OSError as error:  # of writing: readers say in words of their own what is wrong with a source
        raise ValueError(
            f"{target.parent}: the conversion cannot be written there ({error.strerror or error}), {needed} are "
            f"needed; {MAKE_ROOM}"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)  # gone already after the rename


def _room_needed(descriptions: Sequence[Description], spaces: Spaces, truncation: str, cache: Path) -> str:
    """Bytes of a conversion, in words, `up to` so many where its disk has room for whatever it may become.

    Where it does not, the sources are read first to count: rows are left out whose next observation nobody recorded,
    or that `truncation` drops, and the table of episodes grows with their number.

    Raises:
        ValueError: the disk of the cache has less room than will be written.
    """
    layout, steps = Layout.of(spaces), sum(description.steps for description in descriptions)
    most = layout.size(steps, steps)  # no row is left out, and each is an episode of its own
    if most <= free_disk(cache):
        return f"up to {readable(most)}"
    rows = episodes = 0
    for description in descriptions:
        for chunk in _with_progress(description, "counting rows of"):
            rows += int(_kept(chunk, truncation).sum())
            episodes += int((chunk.terminated | chunk.truncated).sum())
    size = layout.size(rows, episodes)
    names = ", ".join(description.location for description in descriptions)
    check_disk(f"the conversion of {short(names, 200)}: {MAKE_ROOM}", size, cache, at_once=True)
    return readable(size)


def _kept(chunk: Chunk, truncation: str) -> np.ndarray:
    """Rows `[n]` of a chunk that are written: the next observation is known, and none that `drop` leaves out."""
    return chunk.usable & ~(chunk.truncated & ~chunk.terminated) if truncation == "drop" else chunk.usable


def _flush(folder: Path) -> None:
    """A rename can reach the disk before the bytes do; only after a flush is the renamed folder a whole one."""
    for file in folder.rglob("*"):
        if file.is_file():
            to_disk(file)
    to_disk(folder)


def _common_references(descriptions: Sequence[Description]) -> tuple[tuple[float | None, float | None], list[str]]:
    """Reference scores that all sources hold alike, else none and a note."""
    stored = {(description.reference_min, description.reference_max) for description in descriptions}
    if len(stored) == 1:
        return stored.pop(), []
    return (None, None), ["the sources hold different reference scores; none of them is used"]


def _write_steps(description: Description, writer: StepWriter, seen: Seen, spaces: Spaces, truncation: str) -> None:
    before, rows_before, dropped = writer.seen, writer.rows, 0
    findings = Findings(description, spaces.observation)
    for chunk in _with_progress(description, "converting"):
        row = writer.seen - before
        chunk = seen.chunk(chunk, row, description.location)
        chunk = check_played(chunk, row, description.location, spaces.action)
        outside = outside_bounds(chunk, row, description.location, spaces.observation)
        chunk, clipped = clip_actions(chunk, spaces.action)
        findings.look(chunk, row, clipped, outside)
        keep = _kept(chunk, truncation)
        writer.append(chunk, keep)
        dropped += int((chunk.usable & ~keep).sum())
    found = writer.seen - before
    if found != description.steps:
        raise ValueError(
            f"{description.location} is truncated: it announces {description.steps} steps and holds {found}"
        )
    if writer.rows == rows_before:
        advice = "; truncation: drop leaves out the last step of every episode that was cut: set it to keep"
        why = advice if dropped else ""
        raise ValueError(f"{description.location}: the dataset is empty: no transition is left to train on{why}")
    findings.write_notes()


def _with_progress(description: Description, doing: str) -> Iterator[Chunk]:
    """The chunks of a source; says every few seconds how far what is done with them has come."""
    done, begun = 0, time.monotonic()
    spoken = begun
    for chunk in description.chunks():
        yield chunk
        done += len(chunk.reward)
        if time.monotonic() - spoken > PROGRESS_SECONDS:
            spoken = time.monotonic()
            speed = done / (spoken - begun)
            print(
                f"{doing} {description.name}: {done:,} of {description.steps:,} steps, {speed:,.0f} steps/s",
                flush=True,
            )


def _remove_stale(cache: Path) -> None:
    """Delete what converters that were killed left behind more than a day ago."""
    for folder in cache.glob(".writing-*"):
        if time.time() - folder.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
