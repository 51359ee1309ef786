"""Updates per second of SAC, of one member and of eight at once, against those of stable-baselines3 at the same sizes.

    python benchmarks/bench_sac_speed.py [--threads 1] [--rounds 9]
    python benchmarks/bench_sac_speed.py --device cuda

stable-baselines3 is no dependency of the project; it is timed if there is an environment for it:

    python -m venv .venv-sb3
    .venv-sb3/bin/python -m pip install torch==2.14.1 stable-baselines3==2.9.0

Nothing is timed unless ours makes the updates that stable-baselines3 records in the same run; how that is done, and how
it is timed, is said in `bench_offline.py`, whose parts these are. An update of eight members, each from a minibatch of
its own, counts as eight.
"""

from __future__ import annotations

from pathlib import Path

from bench_offline import Algorithm, run

LIBRARY = "stable_baselines3"
ALGORITHMS = {
    "sac": Algorithm("sac", "SAC", "sac", library=LIBRARY),
    "sac-8-members": Algorithm("sac", "SAC", "sac", {"seeds": 8}, updates=10, library=LIBRARY),
}


if __name__ == "__main__":
    run(__doc__, "SAC", ALGORITHMS, Path(__file__).parents[1] / ".venv-sb3/bin/python")
