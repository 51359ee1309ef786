"""`reverie evolve`: population based training of any agent that declares what may change while it trains.

Each member is a run of `reverie fit` in a folder of its own, which goes on for some epochs at each of its turns.
"""

from __future__ import annotations

import json
import math
import pkgutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from callbacks.mlflow.population import PopulationPage
from callbacks.population_figure import draw_population
from commands import run_directory
from commands.function_command import run_with_fits
from commands.member_matches import Matches
from commands.population import FILE, Population, scores_of
from commands.resolved_config import resolved_config
from commands.turn_takers import TakeAll, taking_turns
from commands.turns import LAST, Turn, arguments_of, beginning, finish_copies, prepare_copies, say
from modules.agent.evolution import Exploit, Explore, Gene, Returns, Truncation, new_genes
from modules.arguments.checks import check_seed, check_sizes
from modules.arguments.tunable import Change, check_tunable

SET = ("--trainer.max_epochs", "--seed_everything", "--ckpt_path", "--run_dir", "--evaluation.final_episodes")
"""Arguments of `fit` that a population sets itself."""


def evolve(
    fit: str | list[str],
    genes: dict[str, Gene],
    members: int = 6,
    generations: int = 10,
    ready: int = 1,
    exploit: Exploit | None = None,
    explore: Explore = Explore(),
    workers: int = 1,
    ray_workers: int | None = None,
    seed: int = 0,
    final_episodes: int = 100,
    arguments: list[str] = [],  # noqa: B006 - read only
    ckpt_path: str | None = None,
    run_dir: str | None = None,
) -> None:
    """Train a population: members whose genes do well are copied by others, and the genes of copies change.

    Arguments of `reverie fit` may follow after `--`: they are those of every member.

    Args:
        fit: config, or configs, of `reverie fit` that every member trains with.
        genes: arguments of the agent that differ between members, such as lr, each with its bounds.
        members: number of members.
        generations: number of turns of each member; after each of them, members may be copied.
        ready: epochs of a turn, whatever the config's trainer.max_epochs.
        exploit: who copies whom, by class path; by default modules.agent.evolution.Truncation.
        explore: how the genes of a copy change.
        workers: members that train at the same time, each in a process of its own; what they learn is the same.
        ray_workers: members that train at the same time on a Ray cluster, whose machines share the working folder.
        seed: seed of all members and of the evolution.
        final_episodes: episodes in which each member, and its best checkpoint, are evaluated at the end.
        arguments: arguments of `reverie fit`, as after `--`.
        ckpt_path: last, to go on with the newest population of these configs or of this folder.
        run_dir: folder of the experiment; by default runs/evolve-NAME of the first config.
    """
    with taking_turns(workers, ray_workers) as take_all:
        if take_all is None:  # this process has taken the turns that another one has given it
            return
        # Whatever can be refused is refused before a member trains.
        configs = [fit] if isinstance(fit, str) else fit
        _check(members, generations, ready, seed, arguments)
        shared = [part for config in configs for part in ("--config", config)] + arguments
        exploit = Truncation() if exploit is None else exploit
        config = resolved_config(shared)
        kinds = _kinds(shared, config, genes, ready)
        matches = Matches.of(config, exploit.matches) if exploit.matches else None
        settings = {"fit": configs, "arguments": arguments, "members": members, "ready": ready, "seed": seed}
        settings |= _described(genes, exploit, explore)
        root = run_directory.experiment_root(run_dir, [f"evolve-{configs[0]}"])

        # The population, new or as it was.
        new = ckpt_path is None
        folder = run_directory.choose(root, None) if ckpt_path is None else _newest(root, ckpt_path)
        population = Population.new(folder, settings, genes, kinds) if new else Population.read(folder, settings)
        evolution = Evolution(shared, root, ready, generations, final_episodes, genes, kinds, exploit, explore, matches)
        with _alone(folder):
            _go_on(population, evolution, take_all)


@dataclass(frozen=True)
class Evolution:
    """How a population evolves.

    Attributes:
        shared: arguments of `fit` of all members.
        root: folder of the experiment.
        ready: epochs of a turn.
        generations: number of turns.
        final_episodes: episodes of the evaluation at the end.
        genes: bounds of each gene.
        kinds: how each changes.
        exploit: who copies whom.
        explore: how copies change.
        matches: matches of members with each other; None where returns are compared.
    """

    shared: list[str]
    root: Path
    ready: int
    generations: int
    final_episodes: int
    genes: Mapping[str, Gene]
    kinds: Mapping[str, Change]
    exploit: Exploit
    explore: Explore
    matches: Matches | None


def _go_on(population: Population, evolution: Evolution, take_all: TakeAll) -> None:
    """Train the generations that are left; where a signal ends it, `--ckpt_path last` goes on."""
    population.write()
    say(f"reverie evolve: {len(population.members)} members in {population.folder}")
    finish_copies(population.members, len(population.history))  # of a decision that was written down
    page = PopulationPage(population.folder, f"{evolution.root.name} seed {population.settings['seed']}")
    while (number := len(population.history) + 1) <= evolution.generations:
        # All members train, and are compared.
        last = number == evolution.generations
        epochs, final_episodes = evolution.ready * number, evolution.final_episodes if last else 0
        returns = take_all(_turns(population, evolution, epochs, final_episodes))
        ratings = None if evolution.matches is None else _rate(population, returns, evolution.matches)
        # Who copies whom; nobody after the last turn.
        copied = population.choose(returns, ratings, evolution.exploit)
        copied = [None] * len(copied) if last else copied
        prepare_copies(population.members, copied, number)
        population.go_on(returns, ratings, copied, evolution.explore, evolution.genes, evolution.kinds)
        _keep(population)
        page.add(population.members, number, population.history[-1])
    _finish(population, page)


def main(argv: list[str]) -> None:
    """`reverie evolve ... -- ...`."""
    run_with_fits(evolve, argv)


def _described(genes: Mapping[str, Gene], exploit: Exploit, explore: Explore) -> dict[str, Any]:
    """How the population evolves, as it stands in its file."""
    kind = type(exploit)
    chosen = {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": vars(exploit)}
    bounds = {name: asdict(gene) for name, gene in genes.items()}
    told = {"genes": bounds, "exploit": chosen, "explore": asdict(explore)}
    plain: dict[str, Any] = json.loads(json.dumps(told))  # lists for tuples, as they come from the file
    return plain


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other populations out of the folder, and say how to go on where something ends this one."""
    lock = FileLock(folder / run_directory.LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"another process trains the population in {folder}: wait until it ends, or end it") from error
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        say(f"reverie evolve: stopped in {folder}; the same command with --ckpt_path last, before any --, goes on")
        raise
    finally:
        lock.release()


def _check(members: int, generations: int, ready: int, seed: int, arguments: list[str]) -> None:
    check_sizes(members=members, generations=generations, ready=ready)
    check_seed(seed=seed)
    if members == 1:
        raise ValueError("members: a population of one has nobody to copy; take 2 or more, or train with reverie fit")
    for argument in arguments:
        if argument.partition("=")[0] in SET:
            raise ValueError(
                f"{argument.partition('=')[0]} would be overridden: a population has --generations, --ready, --seed, "
                "--ckpt_path, --run_dir and --final_episodes of its own, before the --"
            )


def _kinds(shared: list[str], config: Mapping[str, Any], genes: Mapping[str, Gene], ready: int) -> Mapping[str, Change]:
    """How each gene changes, as the agent declares it.

    Raises:
        ValueError: the agent does not declare a gene, its bounds do not fit, or `fit` refuses the arguments.
        SystemExit: likewise, and the parser of `fit` has said so.
    """
    agent = pkgutil.resolve_name(config["model"]["class_path"])
    check_tunable(agent.__name__, agent.tunable, genes)
    if not genes:
        raise ValueError(f"genes: name at least one argument that differs: {', '.join(agent.tunable) or 'none'}")
    for name, gene in genes.items():
        gene.check(name, agent.tunable[name])
    trainer = config["trainer"]
    if trainer["devices"] not in (1, "1") or trainer["num_nodes"] != 1:
        raise ValueError(
            f"trainer.devices {trainer['devices']}, num_nodes {trainer['num_nodes']}: a member trains in one process; "
            "leave both at 1, and train several members at the same time by workers, ray_workers or torchrun"
        )
    if ready % config["evaluation"]["every_n_epochs"]:
        raise ValueError(
            f"ready: a turn of {ready} epochs must end with an evaluation, and there is one every "
            f"{config['evaluation']['every_n_epochs']} epochs (evaluation.every_n_epochs)"
        )
    example = new_genes(genes, agent.tunable, np.random.default_rng(0))
    resolved_config([*shared, *arguments_of(example)])  # the parser refuses a list for a number, and the like
    kinds: Mapping[str, Change] = agent.tunable
    return kinds


def _newest(root: Path, ckpt_path: str) -> Path:
    """Folder of the newest population below the root."""
    if ckpt_path != "last":
        raise ValueError(f"--ckpt_path takes last alone, which goes on with the newest population, not {ckpt_path!r}")
    found = sorted(root.glob(f"*/{FILE}"))
    if not found:
        raise ValueError(f"--ckpt_path last: no population under {root}; give the same fit or run_dir, or start one")
    return found[-1].parent


def _turns(population: Population, evolution: Evolution, epochs: int, final_episodes: int) -> list[Turn]:
    """The turn of every member up to an epoch of its run."""
    turns = []
    for member, (folder, genes) in enumerate(zip(population.members, population.genes, strict=True)):
        own = ["--run_dir", str(evolution.root), "--seed_everything", str(population.seed_of(member))]
        own += ["--trainer.max_epochs", str(epochs), "--evaluation.final_episodes", str(final_episodes)]
        turns.append(Turn(folder, [*evolution.shared, *arguments_of(genes), *own, *beginning(folder)]))
    return turns


def _rate(population: Population, returns: list[Returns], matches: Matches) -> list[float]:
    """Ratings by matches of the members as they are after a generation."""
    alive = [math.isfinite(r.mean) for r in returns]
    return matches.rate([folder / LAST for folder in population.members], alive, population.seed_of_matches())


def _keep(population: Population) -> None:
    """Write a decision down, let the copies take place, and tell who watches."""
    population.write()
    finish_copies(population.members, len(population.history))
    made = population.history[-1]
    told = "returns " + " ".join(f"{mean:.3g}" for mean, _, _ in made["returns"])
    if made["ratings"] is not None:
        told += "; ratings " + " ".join(f"{rating:.0f}" for rating in made["ratings"])
    pairs = ", ".join(f"{donor} to {member}" for member, donor in enumerate(made["copied"]) if donor is not None)
    say(f"generation {len(population.history)}: {told}{f'; copied {pairs}' if pairs else ''}")


def _finish(population: Population, page: PopulationPage) -> None:
    """Draw, keep what there is, and name the best member."""
    history, folder = population.history, population.folder
    picture = folder / "population.png"
    draw_population(history, picture)
    page.open(population.members)
    page.close([folder / FILE, picture])
    returns, ratings = history[-1]["returns"], history[-1]["ratings"]
    scores = scores_of(returns, ratings)
    best = scores.index(max(scores))
    rated = "" if ratings is None else f"rating {ratings[best]:.0f}, "
    genes = json.dumps(history[-1]["genes"][best])
    print(f"best member: {best}, {rated}return {returns[best][0]:.4g}, genes {genes}")
    print(f"checkpoint: {population.members[best] / 'checkpoints' / 'last.ckpt'}")
    print(f"picture: {picture}")
