"""Aggregates, profiles and intervals by rliable as a file that ours are compared with.

Runs in an environment of its own, which has rliable and not this project, and pandas below 3, which `arch` needs:

    python benchmarks/peers/rliable_scores.py tests/data/rliable/scores.json
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rliable import library, metrics

TARGET = 0.9
REPS = 4000
THRESHOLDS = np.linspace(0.0, 1.5, 16)


def make_scores() -> dict[str, np.ndarray]:
    """`[runs, tasks]` scores of two algorithms, rounded so that some of them are equal."""
    rng = np.random.default_rng(0)
    tasks = rng.uniform(0.2, 1.0, size=4)
    return {"x": np.round(tasks + rng.gamma(2.0, 0.1, (7, 4)), 1), "y": np.round(tasks + rng.normal(0, 0.3, (5, 4)), 1)}


def aggregates(scores: np.ndarray) -> np.ndarray:
    """Mean, median, interquartile mean and optimality gap."""
    found = [metrics.aggregate_mean(scores), metrics.aggregate_median(scores), metrics.aggregate_iqm(scores)]
    return np.array([*found, metrics.aggregate_optimality_gap(scores, TARGET)])


def main(path: Path) -> None:
    """Write the scores and what rliable says of them."""
    np.random.seed(0)  # which rliable draws from
    scores = make_scores()
    values, intervals = library.get_interval_estimates(scores, aggregates, reps=REPS)
    profiles, bands = library.create_performance_profile(scores, THRESHOLDS, reps=REPS)
    improved, interval = library.get_interval_estimates(
        {"x,y": [scores["x"], scores["y"]]},
        lambda x, y: np.array([metrics.probability_of_improvement(x, y)]),
        reps=1000,
    )
    content: dict[str, Any] = {
        "rliable": version("rliable"),
        "target": TARGET,
        "thresholds": THRESHOLDS.tolist(),
        "scores": {name: table.T.tolist() for name, table in scores.items()},
        "aggregates": {name: value.tolist() for name, value in values.items()},
        "aggregate_intervals": {name: value.tolist() for name, value in intervals.items()},
        "profiles": {name: value.tolist() for name, value in profiles.items()},
        "profile_intervals": {name: value.tolist() for name, value in bands.items()},
        "improvement": improved["x,y"].tolist(),
        "improvement_interval": interval["x,y"].tolist(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
