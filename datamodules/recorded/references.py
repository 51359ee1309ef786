"""Reference scores: the return of a random policy (0) and of an expert (100), per environment."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import load_env_creator

from datamodules.envs.recorded_environment import LEFT_OUT, WITHOUT_MEANING, bare_id, label


class Reference(NamedTuple):
    """Returns that normalised scores are measured between, undiscounted sums of reward, and where they come from."""

    minimum: float
    maximum: float
    source: str

    def normalized(self, returns: float | np.ndarray) -> np.ndarray:
        """`100 * (return - minimum) / (maximum - minimum)`: 0 is the random policy, 100 the expert."""
        above = np.asarray(returns, dtype=np.float64) - self.minimum
        return np.asarray(100.0 * above / (self.maximum - self.minimum))


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

OBSERVATION_WRAPPERS = (
    *LEFT_OUT,
    "AddRenderObservation",
    "DelayObservation",
    "DiscretizeObservation",
    "DtypeObservation",
    "FilterObservation",
    "FlattenObservation",
    "FrameStackObservation",
    "GrayscaleObservation",
    "JoinKeys",
    "KeepEntries",
    "KeepKeys",
    "NormalizeObservation",
    "PlainObservations",
    "RescaleObservation",
    "ReshapeObservation",
    "ResizeImages",
    "ResizeObservation",
    "StackImages",
    "TimeAwareObservation",
)
"""Wrappers that change nothing about actions, rewards, ends and time limits."""

# Fu et al. 2020, "D4RL: Datasets for Deep Data-Driven Reinforcement Learning", `d4rl/infos.py`: one pair for all
# datasets of an environment. Keyed by environment; `D4RL` below has every name.
D4RL_SCORES = {
    "halfcheetah": (-280.178953, 12135.0),
    "walker2d": (1.629008, 4592.3),
    "hopper": (-20.272305, 3234.3),
    "ant": (-325.6, 3879.7),
    "pen": (96.262799, 3076.8331017826877),
    "hammer": (-274.856578, 12794.134825156867),
    "relocate": (-6.425911, 4233.877797728884),
    "door": (-56.512833, 2880.5693087298737),
    "antmaze": (0.0, 1.0),
    "kitchen": (0.0, 4.0),
    "maze2d-open": (0.01, 20.66),
    "maze2d-umaze": (23.85, 161.86),
    "maze2d-medium": (13.13, 277.39),
    "maze2d-large": (6.7, 273.99),
    "maze2d-open-dense": (11.17817, 27.166538620695782),
    "maze2d-umaze-dense": (68.537689, 193.66285642381482),
    "maze2d-medium-dense": (44.264742, 297.4552547777125),
    "maze2d-large-dense": (30.569041, 303.4857382709002),
    "minigrid-fourrooms": (0.01442, 2.89685),
    "flow-ring": (-165.22, 24.42),
    "flow-merge": (118.67993, 330.03179),
    "carla-lane": (-0.8503839912088142, 1023.5784385429523),
    "carla-town": (-114.81579500772153, 2440.1772022247314),
    "bullet-halfcheetah": (-1275.766996, 2381.6725),
    "bullet-hopper": (20.058972, 1441.8059623430963),
    "bullet-ant": (373.705955, 2650.495),
    "bullet-walker2d": (16.523877, 1623.6476303317536),
    "bullet-maze2d-open": (8.75, 64.15),
    "bullet-maze2d-umaze": (32.46, 153.99),
    "bullet-maze2d-medium": (14.87, 238.05),
    "bullet-maze2d-large": (1.82, 285.92),
}

_LOCOMOTION = ("random", "medium", "expert", "medium-replay", "medium-expert")
_ADROIT = ("human", "cloned", "expert")
_ANTMAZE = ("umaze", "umaze-diverse", "medium-play", "medium-diverse", "large-play", "large-diverse")

# environments, qualities (empty where the name has none), versions: together the datasets that have scores.
_DATASETS: tuple[tuple[tuple[str, ...], tuple[str, ...], tuple[int, ...]], ...] = (
    (("halfcheetah", "walker2d", "hopper", "ant"), _LOCOMOTION, (0, 1, 2)),
    (("halfcheetah", "walker2d", "hopper", "ant"), ("full-replay",), (1, 2)),
    (("pen", "hammer", "relocate", "door"), _ADROIT, (0, 1)),
    (("antmaze",), _ANTMAZE, (0, 2)),
    (("kitchen",), ("complete", "partial", "mixed"), (0,)),
    (("maze2d-open", "maze2d-open-dense"), ("",), (0,)),
    (tuple(f"maze2d-{maze}{dense}" for maze in ("umaze", "medium", "large") for dense in ("", "-dense")), ("",), (1,)),
    (("minigrid-fourrooms",), ("", "random"), (0,)),
    (("flow-ring", "flow-merge"), ("random", "controller"), (0,)),
    (("carla-lane", "carla-town"), ("",), (0,)),
    (("bullet-halfcheetah", "bullet-hopper", "bullet-ant", "bullet-walker2d"), _LOCOMOTION, (0,)),
    (tuple(f"bullet-maze2d-{maze}" for maze in ("open", "umaze", "medium", "large")), ("",), (0,)),
)

# Files whose names on D4RL's server are not those of their datasets, by how they are spelled there.
_FILES = {
    **{
        f"ant_maze_{maze}_noisy_multistart_{starts}_multigoal_{goals}_sparse{fixed}": "antmaze"
        for maze, variants in {
            "u-maze": (("false", "false"), ("true", "true")),
            "big-maze": (("true", "false"), ("true", "true")),
            "hardest-maze": (("true", "false"), ("true", "true")),
        }.items()
        for starts, goals in variants
        for fixed in ("", "_fixed")
    },
    **{f"maze2d-{maze}-sparse-v1": f"maze2d-{maze}" for maze in ("umaze", "medium", "large")},
    **{f"maze2d-open-{kind}": f"maze2d-open{end}" for kind, end in (("sparse", ""), ("dense", "-dense"))},
    **{
        name.format(hand): hand
        for hand in ("pen", "hammer", "relocate", "door")
        for name in ("{}-v0_demos_clipped", "{}-demos-v0-bc-combined", "{}-v0_expert_clipped")
    },
    "mini_kitchen_microwave_kettle_light_slider-v0": "kitchen",
    "kitchen_microwave_kettle_light_slider-v0": "kitchen",
    "kitchen_microwave_kettle_bottomburner_light-v0": "kitchen",
}


def _plain_name(name: str) -> str:
    return name.lower().removeprefix("d4rl/").replace("_", "-").replace("/", "-")


D4RL = {
    "-".join(part for part in (environment, quality, f"v{version}") if part): D4RL_SCORES[environment]
    for environments, qualities, versions in _DATASETS
    for environment in environments
    for quality in qualities
    for version in versions
} | {_plain_name(file): D4RL_SCORES[environment] for file, environment in _FILES.items()}
"""Scores by the full name of a D4RL dataset, in lower case with hyphens."""


def measured_reference(id: str | None) -> Reference | None:
    """Our own measurement for a gymnasium id as it is registered, or None."""
    scores = MEASURED.get(bare_id(id or ""))
    return Reference(*scores, MEASURED_SOURCE) if scores else None


def why_not_standard(environment: Mapping[str, Any]) -> str | None:
    """The reason why returns of an environment cannot be compared with those of its id alone; None for none.

    Arguments do, unless they are the defaults; wrappers do, except those that change observations alone.

    Args:
        environment: its plain description; one without a measurement is never compared.
    """
    usual = _usual_arguments(environment["id"]) if environment["arguments"] else {}
    arguments = {
        name: value
        for name, value in environment["arguments"].items()
        if name not in WITHOUT_MEANING and not (name in usual and usual[name] == value)
    }
    wrappers = [
        wrapper
        for wrapper in environment["wrappers"]
        if wrapper["class_path"].rpartition(".")[2] not in OBSERVATION_WRAPPERS
        or not wrapper["class_path"].startswith(("gymnasium.wrappers.", "datamodules.envs."))
    ]
    if not arguments and not wrappers:
        return None
    return f"measured for the plain {environment['id']}, and this is {label(environment)}"


def standard_reference(environment: Mapping[str, Any]) -> Reference | None:
    """Our own measurement for an environment by its plain description; None for any but the standard form."""
    reference = measured_reference(environment["id"])
    return None if reference is None or why_not_standard(environment) is not None else reference


def _usual_arguments(id: str) -> dict[str, Any]:
    """Arguments that an environment with a measurement has when none are given, with its time limit."""
    registered = gym.registry.get(bare_id(id))
    if registered is None or bare_id(id) not in MEASURED:
        return {}
    try:
        made_by = load_env_creator(registered.entry_point) if isinstance(registered.entry_point, str) else None
    except ImportError:  # its simulator is not installed: then nothing is played either
        made_by = None
    defaults = inspect.signature(made_by).parameters if made_by is not None else {}
    usual = {name: p.default for name, p in defaults.items() if p.default is not inspect.Parameter.empty}
    return {**usual, **registered.kwargs, "max_episode_steps": registered.max_episode_steps}


def d4rl_reference(dataset_name: str) -> Reference | None:
    """D4RL's scores for a D4RL dataset such as `hopper_medium-v2` or `D4RL/pen/human-v1`, or None.

    A name that D4RL does not have, but with the environment, the quality and a version as D4RL spells them, such as
    `pen-human-v2`, gets the environment's scores and is called guessed.
    """
    name = _plain_name(dataset_name)
    if name in D4RL:
        return Reference(*D4RL[name], D4RL_SOURCE)
    versionless = re.sub(r"-v\d+$", "-v", name)
    for known, scores in D4RL.items():
        if re.sub(r"-v\d+$", "-v", known) == versionless and versionless.endswith("-v"):
            return Reference(*scores, f"guessed from the file name; {D4RL_SOURCE}")
    return None
