"""`reverie evaluate`: play a checkpoint's policies in an environment and report their returns."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from callbacks.evaluation.rollout import Rollouts, evaluate_policy, warn_of_silence
from callbacks.files.written_aside import written_aside
from commands.asked_episodes import Asked
from commands.checkpoints import Origin, file_hash, load_agent, member_index
from commands.foreseen import Foreseen, check_foreseen, film_all
from commands.function_command import numbers_as_list, run_function
from commands.lookahead import LookaheadPlays, Pair, print_pairs
from commands.outputs import check_folder
from commands.run_directory import checkpoint_of_run
from commands.simulations import FLAG, Searched, SearchPlays, print_searched
from datamodules.envs.episode_infos import Numbers, mean_numbers, return_text, written
from datamodules.envs.make import EnvironmentSpec, offered_spaces
from datamodules.envs.recorded_environment import Changes, label
from datamodules.envs.restarting import Protection
from datamodules.envs.stepping import MAX_EPISODE_STEPS
from datamodules.played.sides import warn_of_both_sides
from datamodules.recorded.dataset_info import yardstick_text
from datamodules.recorded.references import Reference, measured_reference, standard_reference, why_not_standard
from modules.agent.agent import Agent
from modules.algorithms.lookahead import Lookahead
from modules.arguments.checks import check_seed
from modules.functional.statistics import bootstrap_interval
from modules.same_spaces import check_same_spaces


@dataclass(frozen=True)
class MemberResult:
    """Returns of one member; normalised values are in percent, None without references.

    Attributes:
        member: name, empty for a population of one.
        diverged: the member is not finite and was not played; its numbers are None.
        mean: undiscounted return.
        std: standard deviation over episodes.
        low: lower end of the 95% bootstrap interval of the mean.
        high: upper end.
        normalized: normalised mean.
        length: mean number of steps.
        returns: one per episode; episode `e` started from `seed + e`.
        lengths: steps of each episode.
        numbers: numbers that the environment reported of the episodes: `success_rate`, and means by name.
        episodes: numbers that it reported of each episode: `success`, and numbers by name.
    """

    member: str
    diverged: bool
    mean: float | None
    std: float | None
    low: float | None
    high: float | None
    normalized: float | None
    length: float | None
    returns: list[float]
    lengths: list[int]
    numbers: Numbers
    episodes: list[Numbers]


def evaluate(
    ckpt_path: str,
    environment: str | None = None,
    episodes: int = 100,
    seed: int = 0,
    member: str | None = None,
    video: str | None = None,
    output: str | None = None,
    reference_min: float | None = None,
    reference_max: float | None = None,
    environment_arguments: dict[str, Any] | None = None,
    wrappers: list[Callable[[gym.Env], gym.Env]] | None = None,
    config: str | None = None,
    run_dir: str | None = None,
    episode_infos: list[str] | None = None,
    max_episode_steps: int = MAX_EPISODE_STEPS,
    step_timeout: float = 0.0,
    lookahead: Lookahead = Lookahead(),
    simulations: list[int] | None = None,
    foreseen: Foreseen = Foreseen(),
) -> None:
    """Play a checkpoint's deterministic policies in an environment and report their returns.

    Args:
        ckpt_path: checkpoint file; or last, best, trusted or cloned, of the newest run of that config or folder.
        environment: Gymnasium id; by default the environment that training evaluated in. Its wrappers stay.
        episodes: number of episodes per member.
        seed: seed of the first episode; the next ones count upwards.
        member: report this member alone, for example beta=4/seed=0.
        video: folder that receives one mp4 of the first episode per member.
        output: file that receives all returns, .csv or .json.
        reference_min: return that counts as 0 for normalised scores; that of the training data by default.
        reference_max: return that counts as 100.
        environment_arguments: arguments of the environment, on top of those of the training where the id is the same.
        wrappers: wrappers, innermost first, in place of those of the training: class paths with init_args.
        config: name or file of the config that `fit` was given, for these names.
        run_dir: folder of the experiment that `fit` was given, for these names.
        episode_infos: names of numbers in the infos of last steps that are reported; success always is.
        max_episode_steps: an episode that is longer has no end, which is an error.
        step_timeout: seconds after which a step counts as a failure, where Python can interrupt it; 0 for no limit.
        lookahead: lookahead of the policies in a model, compared with the policies as they are on the same episodes.
        simulations: numbers of simulations of an agent that searches, compared on the same episodes; 0 for no search.
        foreseen: films of what a world model of images foresees, beside what really came.
    """
    _check(output, video, seed)
    ckpt_path = str(checkpoint_of_run(ckpt_path, config, run_dir))
    changes = Changes(environment, environment_arguments or {}, wrappers)
    agent, spec, reference = _load(ckpt_path, changes, foreseen, reference_min, reference_max)
    names, chosen = _members(agent, member)
    console = Console(markup=False)  # text of files is no markup
    asked = Asked(spec, episodes, seed, max_episode_steps, _protection(step_timeout, episode_infos))
    searching = SearchPlays(agent, ckpt_path, simulations, lookahead)
    planned = LookaheadPlays(agent, ckpt_path, asked, chosen, lookahead)
    played, pairs = _played(console, asked, agent, names, chosen, searching, planned)
    results = _results(played, pairs, names, reference)
    # The report: on the screen, as a file, and as films.
    _print(console, ckpt_path, spec, f"{episodes} episodes, {agent.updates:,} updates", results, reference)
    _print_comparisons(console, searching.searched, pairs, names)
    _write(console, output, _header(ckpt_path, agent, spec, seed, lookahead), results, reference)
    film_all(console, agent, chosen if video is not None else (), asked, Path(video or "."), foreseen)


def _protection(step_timeout: float, episode_infos: list[str] | None) -> Protection:
    return Protection(step_timeout=step_timeout, same_episodes=True, infos=tuple(episode_infos or ()))


def _members(agent: Agent, asked: str | None) -> tuple[list[str], list[int]]:
    """The names of all members, and the indices of those that are reported."""
    names = list(agent.member_names)
    return names, list(range(len(names))) if asked is None else [member_index(names, asked)]


def _load(
    checkpoint: str, changes: Changes, foreseen: Foreseen, low: float | None, high: float | None
) -> tuple[Agent, EnvironmentSpec, Reference | None]:
    """The agent of a checkpoint, the environment that it is played in, and the references of returns there."""
    agent, origin = load_agent(checkpoint, changes)
    check_foreseen(agent, checkpoint, foreseen)
    spec = origin.known_environment(checkpoint)
    env = spec.make()
    check_same_spaces(checkpoint, agent.spaces, spec.id, offered_spaces(env), "--wrappers")
    warn_of_both_sides(env, spec.id, "--environment_arguments")
    return agent, spec, _reference(spec, origin, low, high)


def _played(
    console: Console,
    asked: Asked,
    agent: Agent,
    names: list[str],
    chosen: list[int],
    searching: SearchPlays,
    planned: LookaheadPlays,
) -> tuple[list[tuple[str, Rollouts, int]], list[Pair]]:
    """The policies' episodes, and those with lookahead beside them."""
    with console.status(Text(f"playing {asked.episodes} episodes of {asked.spec.id} per policy")):
        played = searching.play(asked) or _play(agent, asked, names, chosen)
        return played, planned.compare(played[0][1])


def _play(agent: Agent, asked: Asked, names: list[str], chosen: Iterable[int]) -> list[tuple[str, Rollouts, int]]:
    """The policies as they are: name, episodes of all members, and index of the member among them."""
    limit, guard = asked.max_episode_steps, asked.protection
    rollouts = evaluate_policy(agent, asked.spec, asked.episodes, asked.seed, max_episode_steps=limit, protection=guard)
    warn_of_silence(rollouts, guard.infos)
    return [(names[i], rollouts, i) for i in chosen]


def main(argv: list[str]) -> None:
    """`reverie evaluate ...`."""
    run_function(evaluate, numbers_as_list(argv, FLAG))


def _check(output: str | None, video: str | None, seed: int) -> None:
    check_seed(seed=seed)
    if output is not None:
        if Path(output).suffix not in (".csv", ".json"):
            raise ValueError(f"--output must end in .csv or .json, got {output}")
        check_folder("--output", Path(output).parent)
    if video is not None:
        check_folder("--video", Path(video))


def _header(checkpoint: str, agent: Agent, spec: EnvironmentSpec, seed: int, lookahead: Lookahead) -> dict[str, Any]:
    """The policy, the environment and the episodes, as a file describes them."""
    plain = spec.to_plain()
    return {
        "checkpoint_sha256": file_hash(checkpoint),
        "updates": agent.updates,
        "environment": spec.id,
        "environment_arguments": plain["arguments"],
        "wrappers": plain["wrappers"],
        "seed": seed,
        **({} if lookahead.model is None else {"lookahead": asdict(lookahead)}),
    }


def _reference(spec: EnvironmentSpec, origin: Origin, low: float | None, high: float | None) -> Reference | None:
    """References by hand, else of the training data if they are for this environment, else of our own table."""
    dataset = origin.dataset
    if (low is None) != (high is None):
        raise ValueError("give both --reference_min and --reference_max, or neither")
    if low is None and not origin.changed and dataset.get("reference_min") is not None:
        low, high = dataset["reference_min"], dataset["reference_max"]
        source = dataset.get("reference_source") or f"dataset {dataset.get('name')}"
    else:
        source = "given"
    if low is None or high is None:
        return standard_reference(spec.to_plain())
    if high <= low:
        raise ValueError(f"reference_max must be above reference_min, got {high} and {low}")
    return Reference(low, high, source)


def _results(
    base: list[tuple[str, Rollouts, int]], pairs: list[Pair], names: list[str], reference: Reference | None
) -> list[MemberResult]:
    """Those of the policies as they are, then those with lookahead."""
    ahead = [(f"{names[pair.member] or 'policy'}+lookahead", pair.ahead, 0) for pair in pairs]
    return [_result(*played, reference) for played in [*base, *ahead]]


def _result(name: str, rollouts: Rollouts, index: int, reference: Reference | None) -> MemberResult:
    returns, lengths = rollouts.returns[index], rollouts.lengths[index]
    if not np.isfinite(returns).all():
        return MemberResult(name, True, None, None, None, None, None, None, [], [], {}, [])
    low, high = bootstrap_interval(returns)
    mean = float(returns.mean())
    return MemberResult(
        member=name,
        diverged=False,
        mean=mean,
        std=float(returns.std()),
        low=low,
        high=high,
        normalized=None if reference is None else float(reference.normalized(mean)),
        length=float(lengths.mean()),
        returns=returns.tolist(),
        lengths=lengths.tolist(),
        numbers=mean_numbers(rollouts.numbers[index]),
        episodes=rollouts.numbers[index],
    )


def _print_origin(console: Console, checkpoint: str, spec: EnvironmentSpec) -> None:
    """Which policy played, and in which environment where it is not as it is registered."""
    console.print(f"checkpoint: {checkpoint}", soft_wrap=True, highlight=False)
    played = label(spec.to_plain())
    if played != spec.id:
        console.print(f"played in: {played}", soft_wrap=True, highlight=False)


def _print(
    console: Console,
    checkpoint: str,
    spec: EnvironmentSpec,
    amount: str,
    results: list[MemberResult],
    reference: Reference | None,
) -> None:
    """Who played where, one row per member, and what the normalised numbers mean."""
    _print_origin(console, checkpoint, spec)
    table = Table(title=f"{spec.id}, {amount}", title_justify="left", title_style="bold")
    table.add_column("member", overflow="fold")
    told = list(dict.fromkeys(name for r in results for name in r.numbers))
    scored = [] if reference is None else ["normalised"]
    columns = ["return", "std", "95% interval", *scored, "steps", *(name.replace("_", " ") for name in told)]
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for r in results:
        if r.diverged:
            table.add_row(r.member or "policy", "diverged", *["-"] * (len(columns) - 1))
            continue
        mean, std, low, high = (return_text(x) for x in (r.mean, r.std, r.low, r.high) if x is not None)
        table.add_row(
            r.member or "policy",
            mean,
            std,
            f"{low} .. {high}",
            *([] if r.normalized is None else [f"{r.normalized:.1f}"]),
            f"{r.length:.0f}",
            *(written(name, r.numbers[name]) if name in r.numbers else "-" for name in told),
        )
    console.print(table)
    _print_yardstick(console, spec, reference)


def _print_comparisons(console: Console, searched: list[Searched], pairs: list[Pair], names: list[str]) -> None:
    print_searched(console, searched)
    print_pairs(console, pairs, names)


def _print_yardstick(console: Console, spec: EnvironmentSpec, reference: Reference | None) -> None:
    """The meaning of 0 and 100, or the reason why there are no normalised scores."""
    if reference is not None:
        told = f"normalised: {yardstick_text(*reference)}"
    else:
        reason = why_not_standard(spec.to_plain()) if measured_reference(spec.id) else "no references"
        told = f"not normalised: {reason} (give --reference_min and --reference_max)"
    console.print(told, soft_wrap=True, highlight=False)


def _write(
    console: Console, file: str | None, header: dict[str, Any], results: list[MemberResult], reference: Reference | None
) -> None:
    """Write a CSV file with one line per episode, or a JSON file with everything, where it is asked for."""
    if file is None:
        return
    path = Path(file)
    console.print(f"returns: {path}", soft_wrap=True)
    if path.suffix == ".json":
        references = None if reference is None else reference._asdict()
        content = {**header, "references": references, "members": [asdict(r) for r in results]}
        with written_aside(path) as aside:
            aside.write_text(json.dumps(content, indent=2) + "\n")
        return
    with written_aside(path) as aside, aside.open("w", newline="") as opened:
        writer = csv.writer(opened)
        told = list(dict.fromkeys(name for r in results for numbers in r.episodes for name in numbers))
        writer.writerow(["member", "episode", "seed", "return", "normalized_return", "length", *told])
        for r in results:
            for episode, (value, length) in enumerate(zip(r.returns, r.lengths, strict=True)):
                normalized = "" if reference is None else reference.normalized(value)
                numbers = [r.episodes[episode].get(name, "") for name in told]
                writer.writerow([r.member, episode, header["seed"] + episode, value, normalized, length, *numbers])
