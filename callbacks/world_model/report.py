"""WorldModelReport: reconstructions and predictions of a world model beside recorded windows, while it trains."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from callbacks.world_model.figures import (
    draw_returns,
    draw_shares,
    draw_strips,
    draw_vectors,
    film,
    panels,
    write_film,
)
from callbacks.world_model.looks import RegularLook, named
from modules.agent.agent import Agent
from modules.arguments.checks import check_ranges, check_sizes
from modules.batch import SequenceBatch
from modules.contracts import HasWindows
from modules.functional.small_objects import (
    ObjectShares,
    object_pixels,
    object_shares,
    object_shares_by_step,
    usual_frame,
)
from modules.model_contracts import Imagines
from modules.run import run_of


class Windows(NamedTuple):
    """Recorded windows and what the model makes of them, on the host.

    Attributes:
        truth: `[T, B, ...]` observations by key, those that the model predicts.
        model: values of the model.
        reward: `[T, B]` received on arriving at the observation.
        imagined_reward: `[T, B]` of the model.
        known: `[T, B]` bool: False from the first reset after the context on, which nothing told the model of.
    """

    truth: dict[str, np.ndarray]
    model: dict[str, np.ndarray]
    reward: np.ndarray
    imagined_reward: np.ndarray
    known: np.ndarray


class Objects(NamedTuple):
    """Small objects that the model loses or adds in what it imagines of one image.

    Attributes:
        shares: shares of all imagined frames, scalars.
        by_step: the same of each imagined step, `[N]`, up to the last one of which any window knows something.
    """

    shares: ObjectShares
    by_step: ObjectShares


class WorldModelReport(RegularLook):
    """Lets the model see `context` steps of recorded windows and imagine the rest under the recorded actions.

    Writes into `<run directory>/world_model/`, by the number of updates, and sends to MLflow: per image key a film
    (GIF) and a strip (PNG) of truth, model and error; per vector key lines of both; and imagined against real
    discounted rewards of the windows, from the end of the context to the first end of an episode. Logs
    `world_model/error/<key>` and `world_model/reward_error` (root mean squares over what was imagined, in the data's
    units), and `world_model/return_correlation` where the returns differ. Of each image also
    `world_model/vanished/<key>` and `world_model/multiplied/<key>`, the shares of imagined frames with at most half of
    the pixels of objects that are there in truth, and with half as many more, and the same of the first and of the last
    imagined step alone, `.../first_step` and `.../last_step`; a curve over the steps is drawn beside the film. The
    background is the median of the recorded windows.

    The agent has `open_loop` and `reward_transform`, see `modules.model_contracts.Imagines`;
    the datamodule has `sample_windows(count, length, generator)`, a TensorDict `[B, T]`. Randomness is the report's
    own: training goes on as without it. The first process reports.

    Args:
        every_n_epochs: epochs between reports; there is one more when training ends.
        sequences: windows that are drawn.
        windows: windows that errors and returns are taken over, at least `sequences`.
        context: steps that the model sees.
        length: steps of a window, context included; by default the data's `sequence_length`.
        discount: discount of rewards per step, in the comparison of returns.
        seed: seed of the choice of windows and of the model's samples.
    """

    def __init__(
        self,
        every_n_epochs: int = 10,
        sequences: int = 6,
        windows: int = 32,
        context: int = 5,
        length: int | None = None,
        discount: float = 0.99,
        seed: int = 0,
    ) -> None:
        super().__init__(every_n_epochs, seed)
        check_sizes(sequences=sequences, windows=windows, context=context, length=length)
        if windows < sequences:
            raise ValueError(
                f"WorldModelReport draws {sequences} sequences of windows: {windows}; give at least as many"
            )
        check_ranges(("discount", discount, 0.0, 1.0))
        self.sequences = sequences
        self.windows = windows
        self.context = context
        self.length = length
        self.discount = discount

    def check_run(self, trainer: Trainer, agent: LightningModule, data: object) -> None:
        """Refuse agents and data that cannot take part.

        Raises:
            ValueError: the agent has no world model, the data no `sample_windows`, or a window is all context.
        """
        if not isinstance(agent, Imagines):
            name = type(agent).__name__
            raise ValueError(f"WorldModelReport is for world models: {name} has no open_loop and reward_transform")
        if not isinstance(data, HasWindows):
            raise ValueError(f"WorldModelReport is for world models: {type(data).__name__} has no sample_windows")
        self.length = data.sequence_length if self.length is None else self.length
        if self.length <= self.context:
            raise ValueError(
                f"WorldModelReport needs windows longer than its context: the length is {self.length}, the context "
                f"{self.context}"
            )

    # ------------------------------------------------------------------------------------------------------ one report
    def look(self, trainer: Trainer, agent: Agent) -> Windows:
        """Draw windows and let the model predict them."""
        generator = torch.Generator().manual_seed(self.seed)
        data = run_of(trainer).datamodule
        assert isinstance(agent, Imagines), "setup refuses others"
        assert isinstance(data, HasWindows), "setup refuses others"
        assert self.length is not None
        drawn = data.sample_windows(self.windows, self.length, generator)
        batch = SequenceBatch.from_tensordict(drawn.to(agent.device))
        predicted = agent.open_loop(batch, self.context)
        model = {key: _to_numpy(value) for key, value in predicted.observation.items()}
        truth = {key: _to_numpy(batch.observation[key]) for key in model}
        known = known_steps(batch.is_first.cpu().numpy(), self.context)
        reward = agent.reward_transform(batch.reward)
        return Windows(truth, model, _to_numpy(reward), _to_numpy(predicted.reward), known)

    def write(self, found: Windows, agent: Agent, folder: Path) -> tuple[list[Path], dict[str, float]]:
        """Write the figures of one report; returns their paths and the metrics."""
        files: list[Path] = []

        def added(what: str, ending: str) -> Path:
            files.append(named(folder, what, agent, ending))
            return files[-1]

        known, context = found.known[:, : self.sequences], self.context
        objects = objects_of(found, context)
        # Pictures of each part of the observation, and of rewards.
        for key, every in found.truth.items():
            truth, model = every[:, : self.sequences], found.model[key][:, : self.sequences]
            title = f"{key} after {agent.updates:,} updates"
            if truth.ndim == 5:
                pictures = panels(truth, model, known)
                draw_strips(pictures, context, title, added(key, "png"))
                write_film(film(pictures, context), added(key, "gif"))
                if key in objects:
                    draw_shares(objects[key].by_step._asdict(), title, added(f"objects/{key}", "png"))
            else:
                flat = (*truth.shape[:2], -1)
                draw_vectors(truth.reshape(flat), model.reshape(flat), known, context, title, added(key, "png"))
        real, imagined = (
            discounted(x[context:], found.known[context:], self.discount) for x in (found.reward, found.imagined_reward)
        )
        metrics = self._metrics(found, real, imagined) | _metrics_of(objects)
        if len(real):
            title = f"{len(real)} windows after {agent.updates:,} updates"
            draw_returns(real, imagined, title, added("returns", "png"))
        return files, {f"world_model/{name}": value for name, value in metrics.items()}

    def _metrics(self, found: Windows, real: np.ndarray, imagined: np.ndarray) -> dict[str, float]:
        known = found.known.copy()
        known[: self.context] = False
        if not known.any():
            return {}
        metrics = {f"error/{key}": _error(found.truth[key], found.model[key], known) for key in found.truth}
        metrics["reward_error"] = _error(found.reward, found.imagined_reward, known)
        if real.std() > 0 and imagined.std() > 0:
            metrics["return_correlation"] = float(np.corrcoef(real, imagined)[0, 1])
        return metrics


def known_steps(is_first: np.ndarray, context: int) -> np.ndarray:
    """Steps of windows that a model which sees the first `context` ones can know anything about.

    Args:
        is_first: `[T, B]` bool, resets.
        context: steps that the model sees.

    Returns:
        `[T, B]` bool, False from the first reset after the context on.
    """
    unforeseen = is_first.copy()
    unforeseen[:context] = False
    return ~np.logical_or.accumulate(unforeseen, axis=0)


def objects_of(found: Windows, context: int) -> dict[str, Objects]:
    """Small objects in the imagined steps, by key of the images; empty where nothing is known of any step.

    The background is the median of all recorded frames.
    """
    known = torch.from_numpy(found.known[context:])
    known = known[: int(known.any(1).sum())]  # what is unknown once stays so
    objects: dict[str, Objects] = {}
    for key in (key for key, truth in found.truth.items() if truth.ndim == 5 and len(known)):
        background = usual_frame(torch.from_numpy(found.truth[key]).flatten(0, 1))
        model, truth = (
            object_pixels(torch.from_numpy(frames[key][context:][: len(known)]), background)
            for frames in (found.model, found.truth)
        )
        by_step = object_shares_by_step(model, truth, known)
        objects[key] = Objects(object_shares(model[known], truth[known]), by_step)
    return objects


def _metrics_of(objects: dict[str, Objects]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for key, (shares, by_step) in objects.items():
        for name, share, steps in zip(shares._fields, shares, by_step, strict=True):
            ends = {"": share, "/first_step": steps[0], "/last_step": steps[-1]}
            metrics |= {f"{name}/{key}{end}": float(value) for end, value in ends.items()}
    return metrics


def discounted(reward: np.ndarray, known: np.ndarray, discount: float) -> np.ndarray:
    """`sum_t discount^t reward_t` over the known steps `[T, B]`, for the `N <= B` windows that have any: `[N]`."""
    weights = discount ** np.arange(len(reward))[:, None] * known
    return (weights * reward).sum(axis=0)[known[0]]


def _error(truth: np.ndarray, model: np.ndarray, where: np.ndarray) -> float:
    """Root mean square of the difference over the chosen steps `[T, B]`."""
    return float(np.sqrt(np.mean((model[where] - truth[where].astype(np.float32)) ** 2)))


def _to_numpy(value: Tensor) -> np.ndarray:
    return value.cpu().numpy() if value.dtype == torch.uint8 else value.float().cpu().numpy()
