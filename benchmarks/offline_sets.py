"""Datasets to check offline presets on: random, medium, expert and mixed episodes, and the best tenths of given files.

    python benchmarks/offline_sets.py [--environments Hopper-v5 Pendulum-v1] [--checkpoints FILE...] [--best FILE...]
        [--transitions 100000] [--seed 0] [--root data/sets]

Policies are those of checkpoints of your own runs, each member of a population by itself, or the controller that is
built in for an environment. The best of them in 10 episodes makes `expert`; the one nearest to halfway between it and
random actions makes `medium`, or where there is no other the best one with half of its actions random. `mixed` is a
third of each of the three, `medium-expert` half and half. An environment with neither has `random` alone.

Every set is a Minari dataset that `reverie collect` writes; one that is there with the same settings is kept, so that
a call that was interrupted goes on when it is repeated. The last line is the command that trains on all of them.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import commands.quiet  # noqa: F401 - before torch is imported
from commands.behaviour_parts import Part
from commands.checkpoint_behaviour import checkpoint_behaviour
from commands.checkpoints import load_agent
from commands.collect import collect
from commands.datasets import best
from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.recorded_environment import same_environment
from datamodules.played.behaviours import CONTROLLERS, at_random
from datamodules.played.minari_episodes import mean_return, recordable_spaces
from datamodules.played.policies import RandomPolicy
from datamodules.recorded.sources import content_hash, source_path

EPISODES = 10
"""Episodes by which policies are ordered."""
FRACTION = 0.1
EPSILON = 0.5
"""Share of random actions that makes a medium policy of an expert, where there is no other."""


class Policy(NamedTuple):
    """A member of a checkpoint.

    Attributes:
        path: file.
        member: name of the member; None where there is one alone.
        environment: specification of the environment that it was evaluated in.
    """

    path: str
    member: str | None
    environment: EnvironmentSpec


def policies_of(paths: Sequence[str]) -> list[Policy]:
    """All members of all checkpoints that have not diverged.

    Raises:
        ValueError: a file cannot be read, or names no environment.
    """
    found = []
    for path in paths:
        agent, origin = load_agent(path)
        environment, members = origin.known_environment(path), zip(agent.member_names, agent.alive, strict=True)
        found += [Policy(path, name or None, environment) for name, alive in members if alive]
    return found


def levels(environment: EnvironmentSpec, policies: Sequence[Policy]) -> dict[str, list[Part]]:
    """The behaviours of an environment's sets, by name."""
    random = Part("random")
    if policies:
        returns = [measured(environment, policy) for policy in policies]
        expert = max(range(len(policies)), key=lambda i: returns[i])
        halfway = (measured(environment, None) + returns[expert]) / 2
        others = [i for i in range(len(policies)) if i != expert]
        medium = min(others, key=lambda i: abs(returns[i] - halfway), default=None)
        top = part_of(policies[expert])
        middle = replace(top, epsilon=EPSILON) if medium is None else part_of(policies[medium])
    elif environment == EnvironmentSpec(environment.id) and environment.id in CONTROLLERS:
        top, middle = Part("controller"), Part("controller", epsilon=EPSILON)
    else:
        print(f"{environment.id}: no checkpoint is given and no controller is built in: random actions alone")
        return {"random": [random]}
    mixtures = {"mixed": [random, middle, top], "medium-expert": [middle, top]}
    return {"random": [random], "medium": [middle], "expert": [top], **mixtures}


def part_of(policy: Policy) -> Part:
    """The policy as a behaviour."""
    return Part("checkpoint", checkpoint=policy.path, member=policy.member)


def measured(environment: EnvironmentSpec, policy: Policy | None) -> float:
    """Mean return of a policy, or of random actions, over the same few episodes."""
    observation, action = recordable_spaces(environment)
    if policy is None:
        act = at_random(RandomPolicy(action, EPISODES, 0))
    else:
        act = checkpoint_behaviour(policy.path, policy.member, environment, observation, action)
    value = mean_return(environment, act, count=EPISODES, seed=0, environments=EPISODES)
    told = "random actions" if policy is None else f"{policy.path} {policy.member or ''}".strip()
    print(f"{environment.id}: {told}: mean return {value:.1f} of {EPISODES} episodes", flush=True)
    return value


def played_by(policies: Sequence[Policy], environment: str) -> EnvironmentSpec:
    """The environment in the form that its policies play, with their arguments and wrappers.

    Raises:
        ValueError: they play several forms.
    """
    for policy in policies[1:]:
        if not same_environment(policy.environment.to_plain(), policies[0].environment.to_plain()):
            raise ValueError(
                f"{policies[0].path} and {policy.path} play {environment} in two forms; give them in "
                "two calls, each with a --root of its own"
            )
    return policies[0].environment if policies else EnvironmentSpec(environment)


def make_sets(options: argparse.Namespace) -> list[str]:
    """Collect what is not there yet; the folders and files of all sets.

    Raises:
        ValueError: a checkpoint is of another environment, or a set cannot be made.
    """
    policies, sets = policies_of(options.checkpoints), []
    for policy in policies:
        if policy.environment.id not in options.environments:
            raise ValueError(
                f"{policy.path} plays {policy.environment.id}; add it to --environments, or leave the checkpoint out"
            )
    sources = [source_path(source) for source in options.best]
    for environment in options.environments:
        mine = [policy for policy in policies if policy.environment.id == environment]
        spec = played_by(mine, environment)
        form = {"environment_arguments": dict(spec.arguments), "wrappers": list(spec.wrappers)}
        for level, parts in levels(spec, mine).items():
            dataset = f"{re.split('[/:]', environment)[-1].lower()}/{level}-v0"
            collect(environment, dataset, parts, options.transitions, str(options.root), options.seed, **form)
            sets.append(str(options.root / dataset))
    for source in sources:
        output = options.root / "best" / f"{source.stem}-{content_hash(source)[:8]}-best{100 * FRACTION:g}.h5"
        if not output.exists():
            best(str(source), str(output), FRACTION)
        sets.append(str(output))
    return sets


def main(argv: Sequence[str]) -> int:
    """Make the sets; 2 after a mistake in the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", nargs="*", default=["Hopper-v5", "Pendulum-v1"], metavar="ID")
    parser.add_argument("--checkpoints", nargs="+", default=[], metavar="FILE", help="policies of your own runs")
    parser.add_argument("--best", nargs="+", default=[], metavar="FILE", help="datasets whose best tenth is a set")
    parser.add_argument("--transitions", type=int, default=100_000, help="of each collected set, at least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--root", type=Path, default=Path("data/sets"), help="folder of the sets")
    options = parser.parse_args(argv)
    try:
        sets = make_sets(options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"python benchmarks/offline_table.py --sets {shlex.join(sets)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
