"""Reference scores: the return of a random policy (0) and of an expert (100), per environment."""

from __future__ import annotations

import re
from typing import NamedTuple


class Reference(NamedTuple):
    """Returns that normalised scores are measured between, undiscounted sums of reward, and where they come from."""

    minimum: float
    maximum: float
    source: str


MEASURED_SOURCE = "measured: 20 episodes each of uniform random actions and of a pretrained expert, gymnasium 1.4"
D4RL_SOURCE = "D4RL table: a convention, measured on mujoco_py v2 environments and not on this one"

# Keyed by gymnasium id. Experts are agents of github.com/DLR-RM/rl-trained-agents (commit cd35bde): TQC, and TRPO for
# the hopper; expert seeds 1000..1019, random seeds 2000..2019.
MEASURED = {
    "Pendulum-v1": (-1256.0099336042852, -149.62967381445281),
    "Hopper-v5": (12.379345542140559, 3550.1004789077897),
    "HalfCheetah-v5": (-306.9418831623392, 12096.755528518557),
    "Walker2d-v5": (-0.7688505658988891, 4330.015977696412),
    "LunarLanderContinuous-v3": (-210.31412102010077, 263.8144511912367),
}

# Fu et al. 2020, "D4RL: Datasets for Deep Data-Driven Reinforcement Learning", `d4rl/infos.py`; the same for v0, v1, v2
# and all qualities. Keyed by how the dataset's name begins; longer names first, since "antmaze" also begins with "ant".
D4RL = {
    "maze2d-umaze": (23.85, 161.86),
    "maze2d-medium": (13.13, 277.39),
    "maze2d-large": (6.7, 273.99),
    "halfcheetah": (-280.178953, 12135.0),
    "walker2d": (1.629008, 4592.3),
    "relocate": (-6.425911, 4233.877797728884),
    "antmaze": (0.0, 1.0),
    "kitchen": (0.0, 4.0),
    "hopper": (-20.272305, 3234.3),
    "hammer": (-274.856578, 12794.134825156867),
    "door": (-56.512833, 2880.5693087298737),
    "ant": (-325.6, 3879.7),
    "pen": (96.262799, 3076.8331017826877),
}


def measured_reference(environment: str | None) -> Reference | None:
    """Our own measurement for a gymnasium id, or None."""
    scores = MEASURED.get(environment or "")
    return Reference(*scores, MEASURED_SOURCE) if scores else None


def d4rl_reference(dataset_name: str) -> Reference | None:
    """D4RL's scores for a D4RL dataset such as `hopper_medium-v2` or `D4RL/pen/human-v2`, or None."""
    name = dataset_name.lower().removeprefix("d4rl/").replace("_", "-").replace("/", "-")
    for prefix, scores in D4RL.items():
        if re.match(rf"{prefix}(-|$)", name):
            return Reference(*scores, D4RL_SOURCE)
    return None
