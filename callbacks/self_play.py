"""Self-play: the other side of every match is an earlier self, which matchmaking by ratings chooses."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from callbacks.files.keepers import keepers
from callbacks.files.written_aside import written_aside
from callbacks.frozen_players import PRIOR, FrozenPlayers
from callbacks.rating_figure import draw_ratings
from datamodules.envs.make import EnvironmentSpec
from datamodules.online import OnlineDataModule
from datamodules.played.other_side import play_matches, with_other_side
from modules.agent.agent import Agent
from modules.agent.random_state import isolated_randomness
from modules.arguments.changed import no_effect
from modules.arguments.checks import check_positive, check_seed, check_sizes
from modules.functional.ratings import table_ratings
from modules.run import run_of


class SelfPlay(Callback):
    """Lets the agent learn against copies of what it was, in an environment whose matches have an other side.

    A copy is frozen before the first update and every `every_n_updates`. In each match the other side is one of them,
    drawn by a Gaussian of the chance to win that the ratings give (`modules.functional.ratings.matchmaking`), so that
    most matches are close. After each update the ratings of the agent and of the copies that it met follow the results
    of all processes, by Elo's rule; a new copy starts with the agent's rating.

    When training ends, all copies and the last weights play each other and the environment's own players, and ratings
    are fitted to the whole table: `ratings.csv` and `ratings.png` in the run's folder, and in MLflow. Those are
    comparable from the first copy to the last one, which the ratings of training, that move with every match, are not.

    Logs `self_play/rating`, `self_play/points` of the latest matches, `self_play/draws`, `self_play/copies`, and
    `self_play/met`, how many different copies the latest matches were against; at the end `self_play/gain`, see
    `gain_of`. All copies and ratings are in the checkpoint: a resume is exact.

    Source: Jaderberg et al. 2019, "Human-level performance in 3D multiplayer games with population-based reinforcement
    learning" (https://arxiv.org/abs/1807.01281), for matchmaking by ratings, there among a population.

    Args:
        every_n_updates: updates between two copies.
        width: standard deviation of the Gaussian around even chances, as a share of the points.
        k: points of rating for a win that nothing spoke for; all matches of an update count at once.
        final_matches: matches of each pair when training ends.
        seed: seed of those.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        every_n_updates: int = 5,
        width: float = 1 / 6,
        k: float = 4.0,
        final_matches: int = 20,
        seed: int = 0,
    ) -> None:
        check_sizes(every_n_updates=every_n_updates, final_matches=final_matches)
        check_positive(width=width, k=k)
        check_seed(seed=seed)
        self.every_n_updates = every_n_updates
        self.width = width
        self.k = k
        self.final_matches = final_matches
        self.seed = seed
        self.players: FrozenPlayers | None = None
        self._kept: Mapping[str, Any] | None = None  # of a checkpoint, until the agent is known

    def check_run(self, trainer: Trainer, agent: LightningModule, data: object) -> None:
        """Refuse agents and data that cannot take part.

        Raises:
            ValueError: nothing is played, the matches have no other side or are played elsewhere, or the agent has a
                memory.
        """
        if not isinstance(data, OnlineDataModule):
            raise ValueError(f"SelfPlay would be ignored: {type(data).__name__} plays no matches; leave it out")
        data.other_side.check()
        if not isinstance(agent, Agent) or len(agent.member_names) > 1:
            raise ValueError(f"SelfPlay plays copies of one policy, and {type(agent).__name__} has several members")
        if agent.remembers and agent.initial_state(1) is not None:
            raise ValueError(
                f"SelfPlay: {type(agent).__name__} remembers what it saw, and its copies would need a memory of every "
                "match; take an agent without one, such as PPO or A2C"
            )

    # ------------------------------------------------------------------------------------------------ between updates
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the copies play, of which there is one from the beginning."""
        data = run_of(trainer).datamodule
        self.check_run(trainer, pl_module, data)
        assert isinstance(data, OnlineDataModule)
        assert isinstance(pl_module, Agent)
        self.players = FrozenPlayers(pl_module, self.width, self.k)
        if self._kept is not None:
            self.players.load_state_dict(self._kept)
        if not len(self.players):
            self.players.add()
        data.other_side.oppose(self.players)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Rate the latest matches, and freeze a copy where one is due."""
        data, players = run_of(trainer).datamodule, self.players
        assert isinstance(data, OnlineDataModule)
        assert isinstance(pl_module, Agent)
        assert players is not None
        latest = players.rate(data.other_side.take_results())
        if pl_module.updates % self.every_n_updates == 0:
            players.add()
        if latest.pop("matches") and pl_module.updates % run_of(trainer).log_every_n_steps == 0:
            told = {"rating": float(players.rating), "copies": float(len(players)), **latest}
            pl_module.log_metrics({f"self_play/{name}": value for name, value in told.items()})

    # --------------------------------------------------------------------------------------------------------- the end
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Rate all copies and the last weights by a round-robin, on the first process."""
        data = run_of(trainer).datamodule
        if not trainer.is_global_zero or self.players is None:
            return
        assert isinstance(data, OnlineDataModule)
        assert isinstance(pl_module, Agent)
        # The last weights play as a copy, too, which a run that goes on does not have.
        players = FrozenPlayers(pl_module, self.width, self.k)
        players.load_state_dict(self.players.state_dict())
        if players.updates[-1] != pl_module.updates:
            players.add()
        with isolated_randomness(self.seed, pl_module.device):
            rows = round_robin(data.environment_spec, players, self.final_matches, self.seed)
        folder = Path(trainer.default_root_dir)
        with written_aside(folder / "ratings.csv") as file, file.open("w", newline="") as opened:
            writer = csv.DictWriter(opened, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        draw_ratings(rows, folder / "ratings.png")
        for logger in keepers(trainer):
            for name in ("ratings.csv", "ratings.png"):
                logger.put_file(folder / name)
        if len(players) > 2:
            pl_module.log_metrics({"self_play/gain": gain_of(rows)})

    # --------------------------------------------------------------------------------------------------------- resume
    def state_dict(self) -> dict[str, Any]:
        """All copies and ratings, and what these were made with."""
        if self.players is None:
            return {}
        return {"players": self.players.state_dict(), "every_n_updates": self.every_n_updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of `state_dict`.

        Raises:
            ValueError: copies were frozen at other updates.
        """
        if not state_dict:
            return
        if (old := state_dict["every_n_updates"]) != self.every_n_updates:
            name = "SelfPlay.every_n_updates"
            raise ValueError(no_effect(name, old, self.every_n_updates, "copies were frozen at its updates"))
        self._kept = state_dict["players"]


def round_robin(spec: EnvironmentSpec, players: FrozenPlayers, matches: int, seed: int) -> list[dict[str, Any]]:
    """Ratings of all copies and of the environment's own players, by matches of each copy with all of them.

    Args:
        spec: environment.
        players: copies.
        matches: matches of each pair; the environment's own players do not meet each other.
        seed: seed of the matches.

    Returns:
        One row for each: its name, updates (-1 for those who learn nothing), rating, where the first copy has 0, points
        per match against the first copy, and those against each of the environment's own players.
    """
    count, named = len(players), with_other_side(spec).built_in
    everyone = count + len(named)
    pairs = np.array(
        list(combinations(range(count), 2)) + [(i, count + n) for n in range(len(named)) for i in range(count)]
    )
    points = np.zeros((everyone, everyone))
    # The copies among each other, then with each of the environment's own players.
    first, second = (np.repeat(pairs[pairs[:, 1] < count][:, side], matches) for side in (0, 1))
    found = [(first, second, play_matches(spec, players, first, second, seed))]
    for n, name in enumerate(named):
        against = EnvironmentSpec(spec.id, {**spec.arguments, "opponent": name}, spec.wrappers)
        first = np.repeat(np.arange(count), matches)
        won = play_matches(against, players, first, None, seed + 1 + n)
        found.append((first, np.full_like(first, count + n), won))
    for first, second, won in found:
        np.add.at(points, (first, second), 0.5 + 0.5 * won)
        np.add.at(points, (second, first), 0.5 - 0.5 * won)
    games = np.zeros_like(points)
    games[pairs[:, 0], pairs[:, 1]] = games[pairs[:, 1], pairs[:, 0]] = matches
    rating = table_ratings(torch.from_numpy(points), torch.from_numpy(games), PRIOR)
    rating = rating - rating[0]
    shares = points / matches
    names = [f"{updates} updates" for updates in players.updates] + list(named)
    updates = [*players.updates, *[-1] * len(named)]
    return [
        {"player": names[i], "updates": updates[i], "rating": float(rating[i])}
        | {"points against the first": float(shares[i, 0])}
        | {f"points against {name}": float(shares[i, count + n]) for n, name in enumerate(named)}
        for i in range(everyone)
    ]


def gain_of(rows: list[dict[str, Any]]) -> float:
    """Rating of the last copy beyond that of the first one that had learned, the second row."""
    copies = [row for row in rows if float(row["updates"]) >= 0]
    return float(copies[-1]["rating"]) - float(copies[1]["rating"])
