"""Table of what `bench_lookahead.py` measured."""

from __future__ import annotations

import json
from pathlib import Path

NAMES = {
    "true": "ensemble",
    "no guard": "ensemble, no guard",
    "shuffled": "control: actions permuted over the rows",
    "reversed": "control: actions of the other sign",
}


def tables(folder: Path) -> list[str]:
    """The section on lookahead, from the file that is there."""
    path = folder / "lookahead.json"
    if not path.exists():
        return []
    content = json.loads(path.read_text())
    lines = ["", "## Lookahead", ""]
    lines += [f"{content['title']}: ATAC with lookahead in an ensemble of the same data, {content['episodes']} paired"]
    lines += ["episodes; 95% bootstrap interval of the mean difference.", ""]
    lines += ["| model | depth | held-out error | base | lookahead | difference | interval |", "|---" * 7 + "|"]
    rows = [(NAMES[name], point) for name, point in content["models"].items()]
    rows += [(f"ensemble, ATAC after {point['updates']:,} updates", point) for point in content["bases"]]
    rows += [("ensemble", point) for point in content["depth"]]
    rows += [("ensemble, by how long it learned", point) for point in content["error"]]
    for name, p in rows:
        low, high = p["interval"]
        error = f"{p['error']:.3g}" if "error" in p else "-"
        lines += [
            f"| {name} | {p['depth']} | {error} | {p['base']} | {p['lookahead']} | {p['gain']:+.1f} | "
            f"{low:+.1f} .. {high:+.1f} |"
        ]
    return [*lines, "", f"`{content['command']}`, on {content['processor']}, {content['date']}."]
