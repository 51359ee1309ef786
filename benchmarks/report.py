"""Writes benchmarks/RESULTS.md and all that documents say of results, from the files in results/.

Nothing there is typed by hand. Parts of docs/{dqra,muzero,select}.md are made here; docs/evidence.md and the marked
numbers of every document are made by `evidence.py`.

python benchmarks/report.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import armor_results
import capture_flag_results
import dqra_results
import dreamer_results
import evidence
import lookahead_results
import merlin_results
import mutation_results
import muzero_results
import offline_results
import popart_results
import population_results
import r2d2_results
import sac_results
import select_results
import simple_results
import soak_results
import two_timescale_results
from measured_by import RESULTS
from moe_results import tables

from datamodules.recorded.references import Reference, measured_reference

PAGE = Path(__file__).parent / "RESULTS.md"
NEWEST = (merlin_results, two_timescale_results, capture_flag_results, simple_results, soak_results)
PAGES = (dqra_results, muzero_results, select_results)
"""Those that make a part of a page of the documentation."""
LABELS = {
    "behaviour": "behaviour (data)",
    "phase": "cloned policy",
    "last": "ATAC, last",
    "best": "ATAC, best checkpoint",
}
ENVIRONMENTS = {"pendulum": "Pendulum-v1", "hopper": "Hopper-v5", "halfcheetah": "HalfCheetah-v5"}
"""Environment of a dataset, by how its name begins."""
VARIANTS = {"shuffled": ", rewards permuted", "bf16": ", bfloat16 products", "moe": ", mixture trunks"}


def learning() -> list[str]:
    """One table per dataset, the wrong-reward control in the same one."""
    runs = [json.loads(p.read_text()) for p in sorted(RESULTS.glob("learning-*.json"))]
    lines = ["## Learning", ""]
    lines += [
        "Undiscounted return of the deterministic policy over 100 episodes per seed, from starting states other than",
        "those that chose the best checkpoint; 95% bootstrap interval over the seeds' means (over episodes for the",
        "data). The control is the same run on the same data with its rewards permuted. Wall times include evaluation",
        "and are upper bounds: the machine was shared with other runs.",
    ]
    for dataset in dict.fromkeys(run["dataset"] for run in runs):
        mine = sorted((r for r in runs if r["dataset"] == dataset), key=lambda r: len(r["task"]))
        reference = yardstick(mine)
        lines += ["", f"### {dataset}", ""]
        lines += [f"Normalised: 0 is {reference.minimum:.1f}, 100 is {reference.maximum:.1f} ({reference.source}).", ""]
        lines += ["| policy | updates | mean return | 95% interval | normalised | seeds |", "|---|---|---|---|---|---|"]
        for run in mine:
            lines += learning_rows(run)
        for run in mine:
            lines += ["", f"`{run['command']}`: {run['minutes']} minutes for {run['seeds']} seeds in one process, on"]
            lines += [f"{run['processor']}, one thread, {run['date']}."]
        for run in mine:
            lines += ["", f"![learning curve of {run['task']}](results/learning-{run['task']}.png)"]
    return lines


def yardstick(runs: list[dict[str, Any]]) -> Reference:
    """The references behind the normalised numbers of a dataset's runs.

    Raises:
        ValueError: a run was measured by others.
    """
    reference = measured_reference(ENVIRONMENTS[runs[0]["dataset"].split("-")[0]])
    assert reference is not None
    for run in runs:
        for row in run["rows"]:
            expected = float(reference.normalized(row["mean"]))
            if abs(row["normalized"] - expected) > 0.05:
                raise ValueError(f"{run['task']}: {row['normalized']} is not what {row['mean']} is by {reference}")
    return reference


def learning_rows(run: dict[str, Any]) -> list[str]:
    """Rows of one run: the data, the cloned policy, the last and the best; seeds apart."""
    rows = []
    suffix = next((text for part, text in VARIANTS.items() if part in run["task"]), "")
    for kind, label in LABELS.items():
        if suffix and kind in ("behaviour", "best"):  # the data are the same; a chosen checkpoint is no control
            continue
        mine = [r for r in run["rows"] if r["kind"] == kind]
        seeds = [f"{r['mean']:.0f}" for r in mine if r["member"]]
        total = next(r for r in mine if not r["member"])
        rows.append(
            f"| {label}{suffix} | {total['updates']:.0f} | {total['mean']:.1f} "
            f"| {total['low']:.1f} .. {total['high']:.1f} | {total['normalized']:.1f} | {', '.join(seeds)} |"
        )
    return rows


def speed() -> list[str]:
    """Tables of the JSON lines that the other benchmarks print."""
    lines = ["", "## Speed"]
    for path in sorted(RESULTS.glob("*.jsonl")):
        records = [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]
        for title in dict.fromkeys(record.get("benchmark", path.stem) for record in records):
            mine = [r for r in records if r.get("benchmark", path.stem) == title]
            keys = [k for k in mine[0] if k not in ("benchmark", "command", "origin")]
            command = mine[0].get("command", f"python benchmarks/{path.stem}.py")
            lines += ["", f"### {title}", "", f"`{command}`", ""]
            lines += ["| " + " | ".join(keys) + " |", "|" + "---|" * len(keys)]
            lines += ["| " + " | ".join(str(r.get(k, "")) for k in keys) + " |" for r in mine]
    return lines


def sections() -> list[str]:
    """The lines of the page, but for those on the tests."""
    head = [
        "# Results",
        "",
        "Made by `python benchmarks/report.py` from the files in `results/`; see each command.",
        "",
    ]
    agents = (dreamer_results, r2d2_results, popart_results, dqra_results, muzero_results, sac_results, *NEWEST)
    parts = (offline_results, armor_results, select_results, *agents, population_results, lookahead_results)
    played = [x for results in parts for x in results.tables(RESULTS)]
    return [*head, *learning(), *played, *tables(RESULTS), *speed()]


def main() -> None:
    """Write the page, its figures, and all documents that have numbers of results."""
    drawn = (dreamer_results, r2d2_results, dqra_results, armor_results, select_results, muzero_results, sac_results)
    for results in (*drawn, *NEWEST):
        results.draw(RESULTS)
    PAGE.write_text("\n".join([*sections(), *mutation_results.tables(RESULTS), ""]))
    for made in PAGES:
        made.PAGE.write_text(made.page(RESULTS))
    evidence.main()


if __name__ == "__main__":
    main()
