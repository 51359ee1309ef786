"""LatentProbe: which quantities of the environment can be read off a model's latents, seen and foreseen."""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from callbacks.files.written_aside import written_aside
from callbacks.world_model.looks import RegularLook, named
from callbacks.world_model.probe_figure import draw_scores
from callbacks.world_model.probe_fits import quantities, score_probes
from datamodules.envs.labels import Labels, read_labels
from datamodules.envs.make import EnvironmentSpec
from datamodules.played.labelled import LabelledRows, play_labelled
from modules.agent.agent import Agent
from modules.arguments.checks import check_choice, check_counts, check_sizes
from modules.batch import SequenceBatch
from modules.contracts import HasEnvironment
from modules.model_contracts import HasLatents
from modules.run import run_of

HELD_OUT = 4
"""The first of so many streams, and every one so many further, is judged, not learned from."""
MOST_ROWS, MOST_NUMBERS = 4000, 2**26
"""Most rows that are learned from, and most numbers that their features may have."""


SHUFFLED = "shuffled_labels"
"""The source whose features are the latents, and whose labels are those of other rows."""


class Score(NamedTuple):
    """One number of the table.

    Attributes:
        quantity: name of the quantity.
        measure: `accuracy` or `R2`.
        source: where the features come from: `latent`, or one of the controls.
        probe: `linear` or `hidden`.
        step: steps that were foreseen.
        value: the score on held-out episodes.
    """

    quantity: str
    measure: str
    source: str
    probe: str
    step: int
    value: float


class LatentProbe(RegularLook):
    """Fits small probes of labelled quantities to latents, seen and foreseen up to `steps` ahead by the model alone.

    It plays in environments of its own, and reads labels off their state that the agent is not shown. A linear probe
    and one with a hidden layer learn from the episodes of three of four environments and are judged on those of the
    fourth: by accuracy for classes, by `R2` for amounts. At every number of steps the same rows are judged. Controls
    stand in the same table: `random_encoder`, an untrained agent of the same arguments; `observation`, the raw
    observation that was seen last, with the actions since; `shuffled_labels`, latents with labels of other rows.

    Logs `world_model/probe/<quantity>/<source>/<probe>/<steps>`, writes `latent_probe_<updates>.csv` and `.png` into
    `<run directory>/world_model/` and sends them to MLflow. Randomness and environments are the probe's own: training
    goes on as without it. The first process reports.

    The agent has `latents`, see `modules.model_contracts.HasLatents`; DreamerV2 and MuZero do.

    Args:
        labels: reads the labels: `datamodules.envs.labels.CatchLabels`, `CartPoleLabels`, or a class of your own that
            derives from `Labels` there.
        every_n_epochs: epochs between reports; there is one more when training ends.
        steps: most steps that are foreseen.
        streams: number of environments, a quarter of which is held out.
        length: rows of each.
        play: who acts in them: `random` actions, the same at every report, or the `agent`, exploring, where those do
            not come far.
        seed: seed of episodes, actions and probes.

    Raises:
        ValueError: a number or a choice is out of range.
    """

    def __init__(
        self,
        labels: Callable[[], Labels],
        every_n_epochs: int = 10,
        steps: int = 5,
        streams: int = 64,
        length: int = 64,
        play: Literal["random", "agent"] = "random",
        seed: int = 0,
    ) -> None:
        super().__init__(every_n_epochs, seed)
        check_sizes(steps=steps, length=length)
        check_counts(HELD_OUT, streams=streams)
        check_choice("play", play, ("random", "agent"))
        if length <= steps:
            raise ValueError(f"LatentProbe foresees {steps} steps in streams of length {length}; give longer ones")
        self.labels = labels()
        self.steps = steps
        self.streams = streams
        self.length = length
        self.play = play

    def check_run(self, trainer: Trainer, agent: LightningModule, data: object) -> None:
        """Refuse agents without latents, data without an environment, and labels that cannot be read in it.

        Raises:
            ValueError: it says which.
        """
        if not isinstance(agent, HasLatents):
            raise ValueError(f"LatentProbe is for agents with a model of latents: {type(agent).__name__} has none")
        spec = _environment_of(data)
        env = spec.make()
        try:
            env.reset(seed=self.seed)
            read_labels(self.labels, env, spec.id)
        finally:
            env.close()

    # ------------------------------------------------------------------------------------------------------ one report
    def look(self, trainer: Trainer, agent: Agent) -> list[Score]:
        """Play, and score the probes of all sources.

        Raises:
            FloatingPointError: latents are not finite.
        """
        assert isinstance(agent, HasLatents), "setup refuses others"
        actor = agent if self.play == "agent" else None
        spec = _environment_of(run_of(trainer).datamodule)
        played = play_labelled(spec, self.labels, actor, self.streams, self.length, self.seed)
        batch = SequenceBatch.from_tensordict(played.rows.transpose(0, 1).to(agent.device))
        seen = agent.latents(batch, self.steps)
        if not seen.isfinite().all():
            raise FloatingPointError("the model's latents are not finite: training diverged; lower the learning rates")
        untrained = agent.untrained().to(agent.device).latents(batch, self.steps)
        sources: dict[str, Callable[[Tensor], Tensor]] = {
            "latent": functools.partial(ahead_of, seen),
            "random_encoder": functools.partial(ahead_of, untrained),
            "observation": functools.partial(seen_and_done, batch, self.steps),
            SHUFFLED: functools.partial(ahead_of, seen),
        }
        return self._scores(played, sources, agent.device)

    def _scores(
        self, played: LabelledRows, sources: dict[str, Callable[[Tensor], Tensor]], device: torch.device
    ) -> list[Score]:
        """Scores by sources, each of which gives the features of places, see `ahead_of`."""
        train, test = split_rows(played.rows["is_first"].numpy(), self.steps)
        if not len(train) or not len(test):
            raise ValueError(f"LatentProbe: no episode has more than {self.steps} steps; give fewer steps")
        one = torch.from_numpy(test[:1]).to(device)
        most = min(MOST_ROWS, MOST_NUMBERS // max(give(one).numel() for give in sources.values()))
        train, test = spread(train, most), spread(test, most)
        learned, judged = ({name: x[*places.T] for name, x in played.labels.items()} for places in (train, test))
        asked, found = quantities(learned, judged, device), []
        for source, give in sources.items() if asked else ():
            seen, new = (give(torch.from_numpy(places).to(device)) for places in (train, test))
            scores = score_probes(asked, seen, new, self.seed, shuffled=source == SHUFFLED)
            found += [
                Score(one.name, one.measure, source, probe, step, value)
                for probe, by_name in scores.items()
                for one in asked
                for step, value in enumerate(by_name[one.name])
            ]
        return found

    def write(self, found: list[Score], agent: Agent, folder: Path) -> tuple[list[Path], dict[str, float]]:
        """Write table and picture; returns their paths and the metrics."""
        if not found:
            return [], {}
        table, picture = (named(folder, "latent_probe", agent, ending) for ending in ("csv", "png"))
        with written_aside(table) as aside, aside.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(Score._fields)
            rows.writerows(found)
        draw_scores(found, f"{type(agent).__name__} after {agent.updates:,} updates", picture)
        metrics = {f"world_model/probe/{s.quantity}/{s.source}/{s.probe}/{s.step}": s.value for s in found}
        return [table, picture], metrics


def _environment_of(data: object) -> EnvironmentSpec:
    spec = data.environment_spec if isinstance(data, HasEnvironment) else None
    if not isinstance(spec, EnvironmentSpec):
        raise ValueError("LatentProbe plays in the environment of the data, which name none: give --data.environment")
    return spec


def split_rows(first: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Places `[n, 2]` and `[m, 2]` of rows `(t, stream)` with `steps` rows of the same episode before them.

    Args:
        first: `[T, N]` bool, the row is the first of its episode.
        steps: number of those rows.

    Returns:
        Those to learn from, and those of the held-out streams, which are other episodes.
    """
    known = np.ones_like(first)
    known[:steps] = False
    for k in range(steps):  # neither the row itself nor one of those behind the earliest may be a reset
        known[steps:] &= ~first[steps - k : len(first) - k]
    places = np.argwhere(known)
    held_out = places[:, 1] % HELD_OUT == 0
    return places[~held_out], places[held_out]


def spread(places: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the places, spread evenly."""
    return places if len(places) <= most else places[np.linspace(0, len(places) - 1, most).astype(np.int64)]


def ahead_of(latents: Tensor, places: Tensor) -> Tensor:
    """`[K + 1, n, D]`: for places `[n, 2]` the latents `[K + 1, T, N, D]` that were foreseen for them, by steps."""
    steps = torch.arange(len(latents), device=latents.device).unsqueeze(1)
    return latents[steps, places[:, 0] - steps, places[:, 1]]


def seen_and_done(batch: SequenceBatch, steps: int, places: Tensor) -> Tensor:
    """`[K + 1, n, ...]`: for places `[n, 2]` the raw observation so many steps before, beside the actions since.

    Numbered actions count as classes. Actions that are not needed yet are zeros, so that all have one width.
    """
    time, stream = places.T
    action = batch.previous_action
    if not action.is_floating_point():
        action = torch.nn.functional.one_hot(action.long() - action.min().long())
    action = action.reshape(*batch.reward.shape, -1).float()
    done = [action[time - k, stream] for k in range(steps)]
    found = []
    for step in range(steps + 1):
        observed = [x[time - step, stream].reshape(len(places), -1).float() for x in batch.observation.values()]
        found.append(torch.cat([*observed, *(x if k < step else torch.zeros_like(x) for k, x in enumerate(done))], -1))
    return torch.stack(found)
