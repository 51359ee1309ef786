"""The rooms of the house and the imports between them, and how many lines a reader of an algorithm has to hold.

    python benchmarks/house.py              # of this tree; another one by its path
    python benchmarks/house.py --draw       # also draws docs/figures/rooms.png

A room is a folder; files that lie beside rooms are each counted to the folder that they lie in. Lines to hold are those
of the algorithm's file and of all that it imports, directly or not, from rooms that are about learning; lines of code
are those without docstrings, comments and blank lines, and the definitions kept for tests.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import re
import sys
import tokenize
import tomllib
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
ALGORITHMS = (
    "atac",
    "armor",
    "iql",
    "td3_bc",
    "cql",
    "sac",
    "dreamer",
    "r2d2",
    "muzero",
    "a2c",
    "ppo",
    "moe_regression",
)
PACKAGES = ("commands", "callbacks", "datamodules", "modules")
LEARNING = ("modules/algorithms", "modules/agent", "modules/world_model", "modules/networks", "modules/functional")
"""Rooms whose files a reader of an algorithm needs; earlier trees keep mixtures of experts among them."""
SILENT = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
EXPERTS = ("expert", "router", "routing", "native", "ranks")


def files_of(root: Path) -> dict[str, Path]:
    """All modules of the packages by dotted name, a package under its own name."""
    found = (path for package in PACKAGES for path in sorted((root / package).rglob("*.py")))
    return {".".join(p.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): p for p in found}


def imports_of(files: dict[str, Path]) -> dict[str, set[str]]:
    """By module, the modules of the packages that it imports anywhere in its file."""
    graph = {}
    for name, path in files.items():
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                parts = [f"{node.module}.{alias.name}" for alias in node.names]
                found |= {part if part in files else node.module for part in parts}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
        graph[name] = (found & files.keys()) - {name}
    return graph


def room_of(name: str, files: dict[str, Path]) -> str:
    """The folder that a module lies in, with slashes; a folder within a room belongs to it."""
    package = files[name].name == "__init__.py"
    return "/".join((name.split(".") if package else name.split(".")[:-1])[:2])


def lines(path: Path) -> int:
    """Lines of a file."""
    return len(path.read_text().splitlines())


def code_lines(path: Path) -> int:
    """Lines of a file with code that runs: no docstrings, comments and `plain` definitions, which tests alone use."""
    text = path.read_text()
    kept = {
        token.start[0] for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in SILENT
    }
    for node in ast.walk(ast.parse(text)):
        words = (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        )
        plain = isinstance(node, ast.FunctionDef) and node.name.startswith("plain")
        if (words or plain) and node.end_lineno is not None:
            kept -= {*range(node.lineno, node.end_lineno + 1)}
    return len(kept)


def arrows(files: dict[str, Path], graph: dict[str, set[str]]) -> Counter[tuple[str, str]]:
    """Imports from one room into another, counted by pairs of rooms."""
    pairs = ((room_of(name, files), room_of(other, files)) for name in graph for other in graph[name])
    return Counter(pair for pair in pairs if pair[0] != pair[1])


def levels(nodes: set[str], edges: set[tuple[str, str]]) -> dict[str, int]:
    """Of each node, the length of the longest way down from it; in a circle, that of the circle's other ways."""
    found: dict[str, int] = {}

    def depth(node: str, above: frozenset[str]) -> int:
        if node not in found:
            below = [b for a, b in edges if a == node and b not in above]
            found[node] = 1 + max((depth(b, above | {b}) for b in below), default=0)
        return found[node]

    for node in sorted(nodes):
        depth(node, frozenset({node}))
    return found


def to_hold(algorithm: str, files: dict[str, Path], graph: dict[str, set[str]]) -> list[Path]:
    """Files that a reader of an algorithm has to hold."""
    held, open_ends = set(), [f"modules.algorithms.{algorithm}"]
    while open_ends:
        name = open_ends.pop()
        path = name.replace(".", "/")
        if name in held or not path.startswith(LEARNING) or any(word in path for word in EXPERTS):
            continue
        held.add(name)
        open_ends += graph[name]
    return [files[name] for name in held]


def layers_of(root: Path) -> list[list[str]]:
    """The packages that the linter holds in each layer, from the command line down."""
    contracts = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return [re.split(r" [|:] ", layer) for layer in contracts[0]["layers"]]


def draw(root: Path, files: dict[str, Path], target: Path) -> None:
    """The layers that the linter holds, from the command line down: a box for each room, with the files beside it."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = layers_of(root)
    figure, axes = plt.subplots(figsize=(11, 0.95 * len(rows)))
    for y, row in enumerate(reversed(rows)):
        for x, name in enumerate(row):
            rooms = Counter(room_of(m, files) for m in files if f"{m}.".startswith(f"{name}."))
            size = sum(lines(path) for m, path in files.items() if f"{m}.".startswith(f"{name}."))
            inner = sorted(room.rpartition("/")[2] for room in rooms if room.count("/") > name.count("."))
            text = name.replace(".", "/") + (f"  ({', '.join(inner)})" if inner else "")
            number = f"{sum(rooms.values())} files, {size:,} lines" if sum(rooms.values()) > 1 else f"{size:,} lines"
            box = {"boxstyle": "round,pad=0.45", "fc": "0.97", "ec": "0.25"}
            place = (x + 0.5) / len(row)
            axes.text(place, y + 0.5, f"{text}\n{number}", ha="center", va="center", fontsize=8.5, bbox=box)
    arrow = {"arrowstyle": "-|>", "color": "0.4", "lw": 1.5}
    axes.annotate("", (1.01, 0.2), (1.01, len(rows) - 0.2), arrowprops=arrow)
    axes.text(1.025, len(rows) / 2, "imports", rotation=270, va="center", fontsize=9)
    axes.set_xlim(0, 1.05)
    axes.set_ylim(0, len(rows))
    axes.axis("off")
    # A test compares this text with the linter's layers of the day.
    figure.savefig(target, dpi=110, bbox_inches="tight", metadata={"Description": json.dumps(rows)})


def main() -> None:
    """Print one JSON line per package and per algorithm."""
    parser = argparse.ArgumentParser()
    parser.add_argument("root", nargs="?", default=ROOT, type=Path)
    parser.add_argument("--draw", action="store_true")
    given = parser.parse_args()
    files = files_of(given.root)
    graph = imports_of(files)
    counted = arrows(files, graph)
    for package in PACKAGES:
        rooms = {room_of(name, files) for name in files if name.split(".")[0] == package}
        inner = {pair: n for pair, n in counted.items() if set(pair) <= rooms}
        largest = Counter(room_of(name, files) for name in files if name.split(".")[0] == package).most_common(1)[0]
        modules = {name for name in files if name.split(".")[0] == package}
        between = {(a, b) for a in modules for b in graph[a] & modules}
        print(json.dumps({
            "package": package, "rooms": len(rooms), "arrows between rooms": len(inner),
            "levels of rooms": max(levels(rooms, set(inner)).values()), "largest room": list(largest),
            "imports between files": len(between), "levels of files": max(levels(modules, between).values()),
        }))  # fmt: skip
    for algorithm in ALGORITHMS:
        held = to_hold(algorithm, files, graph)
        print(json.dumps({
            "algorithm": algorithm, "files to hold": len(held), "lines to hold": sum(map(lines, held)),
            "lines of code": sum(map(code_lines, held)),
        }))  # fmt: skip
    if given.draw:
        draw(given.root, files, ROOT / "docs/figures/rooms.png")


if __name__ == "__main__":
    sys.exit(main())
