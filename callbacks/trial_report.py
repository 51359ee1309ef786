"""A run that is part of a trial tells its sweep scores at each evaluation, which may end it, and at its end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from callbacks.evaluation.evaluation import Evaluation
from callbacks.evaluation.report import Score
from callbacks.mlflow.logger import MLflowLogger
from modules.run import run_of


class TrialReport(Callback):
    """Hands the scores of each regular evaluation to a sweep, and ends the run in good order where it is pruned.

    `reverie sweep` adds it to the runs of its trials. A pruned run keeps its `last.ckpt` and plays no final episodes.

    Args:
        tags: tags of the run in MLflow.
        metric: metric of the held-out data that is the score, such as `validation/action_error`; None for returns.

    Attributes:
        report: is called with the number of the evaluation, the first of which is 1, and its scores; whether to end. It
            is set by the sweep, and no argument: no config is to name a function.
        scores: all scores of the run, once it has ended.
        known: names of what was logged up to the last validation.
    """

    def __init__(self, tags: Mapping[str, str], metric: str | None = None) -> None:
        self.report: Callable[[int, Sequence[Score]], bool] = _go_on
        self.tags = dict(tags)
        self.metric = metric
        self.scores: list[Score] = []
        self.known: list[str] = []
        self.measured: list[Score] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Come after the evaluation; a metric is looked at before the checkpoint is written, which holds it."""
        run = run_of(trainer)
        if self.metric is None:
            run.callbacks = [*(callback for callback in run.callbacks if callback is not self), self]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tag the run's page."""
        for logger in trainer.loggers:
            if isinstance(logger, MLflowLogger) and self.tags:
                logger.put("tags", values=self.tags)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the metric of a validation, of each member that is finite."""
        if self.metric is None or trainer.sanity_checking:
            return
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.known = sorted(values)
        group, _, rest = self.metric.partition("/")
        for name, value in values.items():
            # Members have theirs under their own names, as validation/beta=4/seed=0/action_error.
            member = name.removeprefix(group).removesuffix(rest).strip("/")
            mine = name == self.metric or name == f"{group}/{member}/{rest}"
            if mine and math.isfinite(value):
                score = Score(trainer.global_step, self.metric, self.metric, member, 1, value, value, value)
                self.measured.append(score)
        self._tell(trainer, self.measured)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report an evaluation of this epoch."""
        if self.metric is None:
            self._tell(trainer, [score for score in _evaluation(trainer).history if score.kind == "curve"])

    def _tell(self, trainer: Trainer, scores: Sequence[Score]) -> None:
        """Report the newest scores, where they are of this moment."""
        numbers = list(dict.fromkeys(score.updates for score in scores))
        if not numbers or numbers[-1] != trainer.global_step:
            return
        latest = [score for score in scores if score.updates == numbers[-1]]
        if self.report(len(numbers), latest):
            _evaluation(trainer).final_episodes = 0  # the last evaluation is for those that are compared by it
            trainer.should_stop = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what the run is judged by; one that had ended before has it from its files."""
        evaluation = _evaluation(trainer)
        self.scores = [*evaluation.history, *evaluation.final, *self.measured]

    def state_dict(self) -> dict[str, Any]:
        """The metric at all validations, for a run that goes on."""
        return {"measured": [asdict(score) for score in self.measured]} if self.metric else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.measured = [Score(**row) for row in state_dict.get("measured", [])]


def _go_on(number: int, scores: Sequence[Score]) -> bool:
    return False


def _evaluation(trainer: Trainer) -> Evaluation:
    return next(callback for callback in run_of(trainer).callbacks if isinstance(callback, Evaluation))
