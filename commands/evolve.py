"""`reverie evolve`: population based training of any agent that declares what may change while it trains.

Each member is a run of `reverie fit` in a folder of its own, which goes on for some epochs at each of its turns.
"""

from __future__ import annotations

import json
import multiprocessing
import pkgutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from callbacks.mlflow.population import PopulationPage
from callbacks.population_figure import draw_population
from commands import run_directory
from commands.function_command import run_with_fits
from commands.population import FILE, Population
from commands.resolved_config import resolved_config
from commands.turns import Turn, arguments_of, beginning, finish_copies, prepare_copies, say, take
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
        seed: seed of all members and of the evolution.
        final_episodes: episodes in which each member, and its best checkpoint, are evaluated at the end.
        arguments: arguments of `reverie fit`, as after `--`.
        ckpt_path: last, to go on with the newest population of these configs or of this folder.
        run_dir: folder of the experiment; by default runs/evolve-NAME of the first config.
    """
    # Whatever can be refused is refused before a member trains.
    configs = [fit] if isinstance(fit, str) else fit
    _check(members, generations, ready, workers, seed, arguments)
    shared = [part for config in configs for part in ("--config", config)] + arguments
    kinds = _kinds(shared, genes, ready)
    exploit = Truncation() if exploit is None else exploit
    settings = {"fit": configs, "arguments": arguments, "members": members, "ready": ready, "seed": seed}
    settings |= _described(genes, exploit, explore)
    root = run_directory.experiment_root(run_dir, [f"evolve-{configs[0]}"])

    # The population, new or as it was.
    new = ckpt_path is None
    folder = run_directory.choose(root, None) if ckpt_path is None else _newest(root, ckpt_path)
    population = Population.new(folder, settings, genes, kinds) if new else Population.read(folder, settings)
    with _alone(folder):
        population.write()
        say(f"reverie evolve: {members} members in {folder}")
        finish_copies(population.members, len(population.history))  # of a decision that was written down
        page = PopulationPage(folder, f"{root.name} seed {seed}")
        while len(population.history) < generations:  # where a signal ends it, `--ckpt_path last` goes on
            last = len(population.history) + 1 == generations
            returns = _train(population, shared, root, ready, final_episodes if last else 0, workers)
            _evolve(population, returns, exploit, explore, genes, kinds, last)
            page.add(population.members, len(population.history), population.history[-1])
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


def _check(members: int, generations: int, ready: int, workers: int, seed: int, arguments: list[str]) -> None:
    check_sizes(members=members, generations=generations, ready=ready, workers=workers)
    check_seed(seed=seed)
    if members == 1:
        raise ValueError("members: a population of one has nobody to copy; take 2 or more, or train with reverie fit")
    for argument in arguments:
        if argument.partition("=")[0] in SET:
            raise ValueError(
                f"{argument.partition('=')[0]} would be overridden: a population has --generations, --ready, --seed, "
                "--ckpt_path, --run_dir and --final_episodes of its own, before the --"
            )


def _kinds(shared: list[str], genes: Mapping[str, Gene], ready: int) -> Mapping[str, Change]:
    """How each gene changes, as the agent declares it.

    Raises:
        ValueError: the agent does not declare a gene, its bounds do not fit, or `fit` refuses the arguments.
        SystemExit: likewise, and the parser of `fit` has said so.
    """
    config = resolved_config(shared)
    agent = pkgutil.resolve_name(config["model"]["class_path"])
    check_tunable(agent.__name__, agent.tunable, genes)
    if not genes:
        raise ValueError(f"genes: name at least one argument that differs: {', '.join(agent.tunable) or 'none'}")
    for name, gene in genes.items():
        gene.check(name, agent.tunable[name])
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


def _train(
    population: Population, shared: list[str], root: Path, ready: int, final_episodes: int, workers: int
) -> list[Returns]:
    """One turn of every member, and their returns at its end."""
    epochs = ready * (len(population.history) + 1)
    turns = []
    for member, (folder, genes) in enumerate(zip(population.members, population.genes, strict=True)):
        own = ["--run_dir", str(root), "--seed_everything", str(population.seed_of(member))]
        own += ["--trainer.max_epochs", str(epochs), "--evaluation.final_episodes", str(final_episodes)]
        turns.append(Turn(folder, [*shared, *arguments_of(genes), *own, *beginning(folder)]))
    if workers == 1:
        return [take(turn) for turn in turns]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(take, turns))


def _evolve(
    population: Population,
    returns: list[Returns],
    exploit: Exploit,
    explore: Explore,
    genes: Mapping[str, Gene],
    kinds: Mapping[str, Change],
    last: bool,
) -> None:
    """Decide who copies whom, write down the decision, and let the copies take place; none after the last turn."""
    copied = population.choose(returns, exploit)
    if last:
        copied = [None] * len(copied)
    prepare_copies(population.members, copied, len(population.history) + 1)
    population.go_on(returns, copied, explore, genes, kinds)
    population.write()
    finish_copies(population.members, len(population.history))
    means = " ".join(f"{r.mean:.3g}" for r in returns)
    told = ", ".join(f"{donor} to {member}" for member, donor in enumerate(copied) if donor is not None)
    say(f"generation {len(population.history)}: returns {means}{f'; copied {told}' if told else ''}")


def _finish(population: Population, page: PopulationPage) -> None:
    """Draw, keep what there is, and name the best member."""
    history, folder = population.history, population.folder
    picture = folder / "population.png"
    draw_population(history, picture)
    page.open(population.members)
    page.close([folder / FILE, picture])
    means = [returns[0] for returns in history[-1]["returns"]]
    best = means.index(max(means))
    print(f"best member: {best}, return {means[best]:.4g}, genes {json.dumps(history[-1]['genes'][best])}")
    print(f"checkpoint: {population.members[best] / 'checkpoints' / 'last.ckpt'}")
    print(f"picture: {picture}")
