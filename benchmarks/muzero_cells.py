"""The runs of the MuZero family that are measured, what each is to reach, and what is played with it afterwards."""

from __future__ import annotations

from typing import NamedTuple

from learning_runs import Task

from datamodules.envs.toys import PointMass


class Goal(NamedTuple):
    """A least mean over seeds.

    Attributes:
        least: the return, or the share of games that are won.
        at: environment steps of the evaluation that counts, the last one at or before; None for the last weights over
            100 episodes.
        played: the play afterwards whose share of won games counts, by its name in `Cell.plays`.
    """

    least: float
    at: int | None = None
    played: str | None = None


class Cell(NamedTuple):
    """One task, over seeds.

    Attributes:
        group: heading of the table that it stands in.
        title: name in the table.
        task: config and further arguments of `reverie fit`.
        goals: of the mean over seeds.
        above: name of another cell, and by how much the return of the last weights is to be above the one there.
        above_data: whether it is to be above the mean return of the recorded episodes.
        plays: further arguments of `reverie evaluate` with the last weights, by name.
    """

    group: str
    title: str
    task: Task
    goals: tuple[Goal, ...] = ()
    above: tuple[str, float] | None = None
    above_data: bool = False
    plays: dict[str, tuple[str, ...]] = {}  # noqa: RUF012 - never changed


def to_minimax(game: str, depth: int) -> dict[str, tuple[str, ...]]:
    """Play a hundred games against minimax."""
    opponent = f"{{opponent: minimax, depth: {depth}}}"
    arguments = ("--environment", f"reverie/{game}-v0", "--environment_arguments", opponent, "--episodes", "100")
    return {f"minimax of depth {depth}": arguments}


SEARCHES = {"simulations": ("--simulations", "0", "4", "16", "50", "--episodes", "50")}
PUCT = ("--config", "muzero/cartpole_puct")
CARTPOLE = (Goal(195.0, 10_000), Goal(450.0, 25_000))
LATE = ("--data.environment_arguments.delay", "[0, 3]")
BINS = (
    "{class_path: modules.networks.value_codecs.TwoHot, "
    "init_args: {bins: 31, low: -1.5, high: 1.5, spacing: signed_hyperbolic}}"
)
STEP_BY_STEP = (
    "--model.model.init_args.reward",
    f"{{class_path: modules.networks.reward_models.StepReward, init_args: {{codec: {BINS}}}}}",
)
OFTEN = ("--data.updates_per_step", "1", "--trainer.max_epochs", "10")
# Four updates for each of 5,000 steps: what the policy was when it acted is soon long ago.
STALE = ("--data.updates_per_step", "4", "--data.batch_size", "32", "--trainer.max_epochs", "5")
TARGETS = {
    "5 steps": "NStep, init_args: {n: 5}",
    "fewer steps with age": "DynamicHorizon, init_args: {n: 5, shrink_every: 1500}",
    "V-trace": "VTrace",
    "mixed with search values": "Mixed, init_args: {young_below: 500, first_updates: 6000, young: "
    "{class_path: modules.functional.planning_targets.NStep, init_args: {n: 5}}}",
}


def by_target(name: str) -> Cell:
    """Learning from old data by one of the targets of values."""
    told = ("--model.value_target", f"{{class_path: modules.functional.planning_targets.{TARGETS[name]}}}")
    return Cell("Targets of values at four updates a step, CartPole", name, ("muzero/cartpole", (*STALE, *told)))


CELLS: dict[str, Cell] = {
    # Searches of both rules.
    "cartpole": Cell("CartPole", "Gumbel", ("muzero/cartpole", ()), CARTPOLE, plays=SEARCHES),
    "cartpole-puct": Cell("CartPole", "pUCT", ("muzero/cartpole", PUCT), CARTPOLE, plays=SEARCHES),
    "cartpole-4": Cell(
        "CartPole", "Gumbel, 4 simulations", ("muzero/cartpole", ("--model.search.simulations", "4")), CARTPOLE,
        above=("cartpole-puct-4", 0.0),
    ),
    "cartpole-puct-4": Cell(
        "CartPole", "pUCT, 4 simulations", ("muzero/cartpole", (*PUCT, "--model.search.simulations", "4"))
    ),
    # Searches that are made anew.
    "reanalyse-0": Cell("Reanalysis, CartPole", "none", ("muzero/cartpole", (*OFTEN, "--model.reanalyse", "0"))),
    "reanalyse-1": Cell(
        "Reanalysis, CartPole", "all", ("muzero/cartpole", (*OFTEN, "--model.reanalyse", "1")),
        above=("reanalyse-0", 0.0),
    ),
    "offline": Cell("Recorded CartPole", "reanalysis of all", ("muzero/cartpole_offline", ()), above_data=True),
    # Actions that are drawn.
    "point-mass": Cell(
        "Continuous actions", "point mass", ("muzero/point_mass", ()), (Goal(1.15 * PointMass.best_return()),)
    ),
    "pendulum": Cell("Continuous actions", "Pendulum", ("muzero/pendulum", ()), (Goal(-400.0), Goal(-250.0))),
    # EfficientZero.
    "catch": Cell("EfficientZero, Catch", "Catch", ("efficientzero/catch", ()), (Goal(0.9, 8_000),)),
    "catch-late": Cell(
        "EfficientZero, Catch", "late reward, sums of rewards", ("efficientzero/catch", LATE),
        above=("catch-late-steps", 0.1),
    ),
    "catch-late-steps": Cell(
        "EfficientZero, Catch", "late reward, one by one", ("efficientzero/catch", (*LATE, *STEP_BY_STEP))
    ),
    # Two players.
    "tictactoe": Cell("Board games", "tic-tac-toe", ("muzero/tictactoe", ()), plays=to_minimax("TicTacToe", 9)),
    "connect-four": Cell(
        "Board games", "connect four", ("muzero/connect_four", ()), (Goal(0.9, played="minimax of depth 2"),),
        plays=to_minimax("ConnectFour", 2),
    ),
    **{f"target-{name.replace(' ', '-').lower()}": by_target(name) for name in TARGETS},
}  # fmt: skip
