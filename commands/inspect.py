"""`reverie inspect`: an update that was not finite, from the file that its run has kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jsonargparse import auto_cli
from torch import Tensor

from commands.parsing import ReadableParser
from modules.agent.checkpoint_file import read_checkpoint
from modules.agent.nonfinite import named_tensors
from modules.agent.replayed import HOW_TO_KEEP, nonfinite_ranks
from modules.trust.names import cut

MOST_ROWS = 12
"""Lines of each part, so that all of them are one screen."""


def inspect(file: str, rank: int = 0) -> None:
    """Show an update with NaN or infinity: what was not finite first, its batch, and how to execute it again.

    Args:
        file: file in the folder nonfinite of a run; nothing in it is executed.
        rank: process of the run whose batch is shown.
    """
    checkpoint = read_checkpoint(file, "cpu")
    ranks = nonfinite_ranks(checkpoint, file, rank)
    mine, agent = ranks[rank], checkpoint.get("agent", {})
    name = cut(str(agent.get("class_path", "")).rpartition(".")[2])
    several = f", process {rank} of {len(ranks)}" if len(ranks) > 1 else ""
    state = "before" if mine["before"] else "after"
    print(f"{name}, update {mine['update']:,} was not finite{several}; the state is that {state} it")
    # In the order in which an update computes: what comes first is the cause, or next to it.
    print("\nnot finite, in the order of an update")
    for place, what, about in _shown(mine["found"]):
        print(f"  {cut(place, 10):<10} {cut(what, 60)}: {cut(about, 60)}")
    if not mine["found"]:
        print("  nothing in this process: another rank has it, see --rank")
    print("\nmetrics")
    named = [f"{cut(str(key), 40)} {_number(value)}" for key, value in mine["metrics"].items()]
    print("  " + ", ".join(named[: 2 * MOST_ROWS]))
    _print_batch(mine["batch"])
    if not mine["before"]:
        print(f"\nto execute it again, {HOW_TO_KEEP}")
        return
    part = f", without {cut(', '.join(mine['callbacks']))}, which took part in it" if mine["callbacks"] else ""
    print(f"\nexecute it again, in Python{part}:")
    print("  from modules.agent.replayed import replay")
    print(f"  agent, update = replay({file!r}{f', {rank}' if rank else ''})")


def main(argv: list[str]) -> None:
    """`reverie inspect ...`."""
    auto_cli(
        inspect,
        args=argv,
        parser_class=ReadableParser,
        prog="reverie inspect",
    )


def _shown(found: list[list[str]]) -> list[tuple[str, str, str]]:
    """The first entries of every part, and how many others it has."""
    rows = []
    for place in dict.fromkeys(place for place, _, _ in found):
        mine = [(place, what, about) for kind, what, about in found if kind == place]
        rows += mine[:5]
        if len(mine) > 5:
            rows.append((place, f"and {len(mine) - 5} others", mine[5][1]))
    return rows


def _print_batch(batch: Mapping[str, Any]) -> None:
    """Sizes and ranges of the tensors of a batch, those that are not finite first."""
    tensors = [(name.partition("/")[2] or name, x) for name, x in named_tensors(batch)]
    tensors.sort(key=lambda entry: bool(entry[1].isfinite().all()))
    print(f"\n{'batch':<34} {'shape':<18} {'type':<9} {'least':>11} {'mean':>11} {'largest':>11}  not finite")
    for name, tensor in tensors[:MOST_ROWS]:
        values = tensor.double().flatten()
        finite = values[values.isfinite()]
        numbers = [f"{x:11.4g}" for x in (finite.min(), finite.mean(), finite.max())] if len(finite) else ["-" * 11] * 3
        kind = str(tensor.dtype).removeprefix("torch.")
        wrong = len(values) - len(finite)
        print(f"{cut(name, 34):<34} {list(tensor.shape)!s:<18} {kind:<9} {' '.join(numbers)}  {wrong:,}")
    if len(tensors) > MOST_ROWS:
        print(f"and {len(tensors) - MOST_ROWS} others")


def _number(value: Any) -> str:
    if not isinstance(value, Tensor):
        return cut(str(value), 40)
    values = [f"{x:.4g}" for x in value.flatten().tolist()]
    return values[0] if len(values) == 1 else cut(f"[{', '.join(values)}]", 60)
