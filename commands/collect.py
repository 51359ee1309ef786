"""`reverie collect`: let a behaviour act in an environment and store its episodes as a Minari dataset."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_dataset import parse_dataset_id
from rich.console import Console
from rich.table import Table

from commands.behaviour_parts import Kind, Part, behaviour_of, built_in_controller, parts_of
from commands.counting import counting
from commands.function_command import run_function
from datamodules.envs.episode_infos import return_text
from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.recorded_environment import check_recordable, label
from datamodules.played.behaviours import Behaviour, at_random
from datamodules.played.minari_episodes import (
    collection_settings,
    episodes,
    mean_return,
    recordable_spaces,
    write_minari,
)
from datamodules.played.policies import RandomPolicy
from datamodules.recorded.references import Reference, standard_reference
from modules.agent.random_state import isolated_randomness
from modules.arguments.checks import check_seed, check_sizes

ENVIRONMENTS = 50
"""Environments stepped together; the content of a dataset depends on it through the order of random numbers."""
REFERENCE_SEED = 123
"""Of the episodes behind measured references, whatever the dataset's own seed."""


def collect(
    environment: str,
    dataset: str,
    behaviour: Kind | list[Part] = "random",
    transitions: int = 50_000,
    root: str = "data/minari",
    seed: int = 0,
    noise: float = 0.0,
    epsilon: float = 0.0,
    checkpoint: str | None = None,
    member: str | None = None,
    reference_max: float | None = None,
    reference_episodes: int = 100,
    environment_arguments: dict[str, Any] | None = None,
    wrappers: list[Callable[[gym.Env], gym.Env]] | None = None,
    overwrite: bool = False,
) -> None:
    """Let a behaviour act in an environment and store its episodes as a Minari dataset.

    The same settings give the same content. Only whole episodes are stored. A dataset that exists and was made with
    the same settings is kept.

    Args:
        environment: Gymnasium id, for example Pendulum-v1.
        dataset: Minari id of the dataset, for example pendulum/mixed-v0.
        behaviour: random, controller (built in for Pendulum-v1, CartPole-v1 and reverie/Catch-v0) or checkpoint; or a
            mixture: a list of {behaviour, share, noise, epsilon, checkpoint, member}.
        transitions: number of transitions, rounded up to whole episodes.
        root: folder of Minari datasets.
        seed: seed of the environments and of the behaviour.
        noise: standard deviation of Gaussian action noise, in half-widths of the action space.
        epsilon: probability that an action is replaced by a uniformly random one.
        checkpoint: file of the agent that acts, for behaviour checkpoint.
        member: name of that agent's member, where it has several.
        reference_max: mean return of an expert. It is stored, with the measured return of a random policy, for
            normalised scores. Without it these are the standard ones of the environment where there are any, and
            measured where a controller is built in.
        reference_episodes: number of episodes behind a measured reference.
        environment_arguments: arguments of the environment; the dataset holds them.
        wrappers: wrappers of the environment, innermost first: class paths with init_args; the dataset holds them.
        overwrite: replace an existing dataset.
    """
    parts = parts_of(behaviour, noise, epsilon, checkpoint, member)
    _check(dataset, transitions, reference_episodes, seed, parts)
    spec = EnvironmentSpec(environment, environment_arguments or {}, tuple(wrappers or ()))
    plain = spec.to_plain()
    settings = {  # that the content follows from: a dataset that was made with them is the same one
        "environment": environment,
        **{key: plain[key] for key in ("arguments", "wrappers") if plain[key]},
        "behaviour": [part.identity for part in parts],
        "transitions": transitions,
        "seed": seed,
        "reference_max": reference_max,
        "reference_episodes": reference_episodes,
        "copies": ENVIRONMENTS,  # under the name that it has in the files
    }
    if not overwrite and _exists(Path(root), dataset, settings):
        print(f"{dataset} exists in {root} with the same settings: kept (--overwrite collects it again)")
        return
    _make(dataset, parts, Path(root), spec, settings)


def main(argv: list[str]) -> None:
    """`reverie collect ...`."""
    run_function(collect, argv)


def _check(dataset: str, transitions: int, reference_episodes: int, seed: int, parts: list[Part]) -> None:
    if not re.search(r"-v\d+$", dataset):
        raise ValueError(f"a Minari id ends with a version: {dataset}-v0, got {dataset}")
    parse_dataset_id(dataset)  # raises for every other malformed name
    check_seed(seed=seed)
    check_sizes(transitions=transitions, reference_episodes=reference_episodes, behaviours=len(parts))


def _exists(root: Path, dataset: str, settings: dict[str, Any]) -> bool:
    """Whether the dataset is there with these settings.

    Raises:
        ValueError: it is there with others.
    """
    if not (root / dataset).exists():
        return False
    found = collection_settings(root / dataset)
    if found == settings:
        return True
    if found is None:
        raise ValueError(f"{root / dataset} exists and was not made by collect; choose another --dataset")
    changed = [f"{k}: {found.get(k)} there, {v} asked for" for k, v in settings.items() if found.get(k) != v]
    raise ValueError(
        f"{root / dataset} exists with other settings ({'; '.join(changed)}); "
        "choose another --dataset, or replace it with --overwrite"
    )


def _make(dataset: str, parts: list[Part], root: Path, environment: EnvironmentSpec, settings: dict[str, Any]) -> None:
    """Collect every part, measure the references, store the dataset, print a summary."""
    started = time.perf_counter()
    console = Console(markup=False)
    _, action_space = recordable_spaces(environment)
    check_recordable(environment)
    streams = np.random.SeedSequence(settings["seed"]).spawn(len(parts))
    # Whole episodes of each behaviour; a later one fills up to the sum of the shares so far.
    collected: list[list[EpisodeBuffer]] = []
    done = 0

    def report(steps: int) -> None:
        nonlocal done
        done += steps
        count(done, settings["transitions"])

    with counting("transitions") as count:
        for part, stream, target in zip(parts, streams, _targets(parts, settings["transitions"]), strict=True):
            missing = target - done
            if missing <= 0:
                raise ValueError(f"the share of {part.label} is less than one episode: ask for more transitions")
            collected.append(_collect_part(part, environment, missing, stream, report))
    references = _references(environment, action_space, settings)
    # One dataset of all episodes, with a description of what they are a mixture of.
    everything = [episode for mine in collected for episode in mine]
    mixture, name = "; ".join(part.label for part in parts), label(environment.to_plain())
    folder = write_minari(
        root,
        dataset,
        environment,
        everything,
        settings=settings,
        algorithm=mixture,
        description=f"{name}, mean return {return_text(_mean(everything))}: {mixture}",
        references=references and references[:2],
        reference_episodes=settings["reference_episodes"],
    )
    # The summary.
    _summary(console, f"{dataset}: {name}", parts, collected)
    if references:
        console.print(
            f"references: random {return_text(references.minimum)}, expert {return_text(references.maximum)}; "
            f"{references.source}"
        )
    else:
        console.print("no references stored (no --reference_max, no built-in controller): scores are not normalised")
    console.print(f"stored in {folder} after {time.perf_counter() - started:.1f} s", soft_wrap=True)


def _collect_part(
    part: Part,
    environment: EnvironmentSpec,
    transitions: int,
    stream: np.random.SeedSequence,
    report: Callable[[int], None],
) -> list[EpisodeBuffer]:
    """Whole episodes of one behaviour until there are at least so many transitions; `report` is told of each one's."""
    seeds, noise = stream.spawn(2)
    act = behaviour_of(part, environment, ENVIRONMENTS, noise)
    mine: list[EpisodeBuffer] = []
    # A world model draws its latents from torch's own generator.
    with isolated_randomness(_first_seed(noise), torch.device("cpu")):
        for episode in episodes(environment, act, seed=_first_seed(seeds), environments=ENVIRONMENTS):
            mine.append(episode)
            report(len(episode))
            if _steps(mine) >= transitions:
                break
    return mine


def _summary(console: Console, title: str, parts: list[Part], collected: list[list[EpisodeBuffer]]) -> None:
    """Table of what every behaviour contributed."""
    table = Table(title=title)
    table.add_column("behaviour")
    for column in ("episodes", "transitions", "mean return"):
        table.add_column(column, justify="right")
    everything = [episode for mine in collected for episode in mine]
    for behaviour, mine in [*zip([part.label for part in parts], collected, strict=True), ("all", everything)]:
        table.add_row(behaviour, str(len(mine)), str(_steps(mine)), return_text(_mean(mine)))
    console.print(table)


def _targets(parts: list[Part], transitions: int) -> list[int]:
    """Cumulative number of transitions after each part."""
    shares = np.cumsum([part.share for part in parts])
    return [round(float(share)) for share in transitions * shares / shares[-1]]


def _first_seed(stream: np.random.SeedSequence) -> int:
    """A first episode seed that leaves room to count upwards."""
    return int(stream.generate_state(1)[0]) // 2


def _steps(sample: list[EpisodeBuffer]) -> int:
    return sum(len(episode) for episode in sample)


def _mean(sample: list[EpisodeBuffer]) -> float:
    return float(np.mean([np.sum(e.rewards) for e in sample]))


def _references(environment: EnvironmentSpec, space: gym.Space, settings: dict[str, Any]) -> Reference | None:
    """The standard references of the environment, else mean returns of a random policy and of an expert, or None.

    Measured on the same episodes whatever the dataset's seed: normalised scores of two datasets can be compared.
    """
    given, count = settings["reference_max"], settings["reference_episodes"]
    standard = standard_reference(environment.to_plain())
    controller = built_in_controller(environment)
    if given is None and (standard is not None or controller is None):
        return standard
    seeds, noise = np.random.SeedSequence(REFERENCE_SEED).spawn(2)

    environments = min(ENVIRONMENTS, count)

    def measure(act: Behaviour) -> float:
        return mean_return(environment, act, count=count, seed=_first_seed(seeds), environments=environments)

    low = measure(at_random(RandomPolicy(space, environments, noise)))
    high = measure(controller) if controller is not None and given is None else given
    if high <= low:
        least = return_text(low)
        raise ValueError(f"reference_max {return_text(high)} must be above the return of a random policy, {least}")
    return Reference(low, high, "measured here" if given is None else "the expert's given by hand")
