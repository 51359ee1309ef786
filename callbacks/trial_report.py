"""A run that is part of a trial tells its sweep scores at each evaluation, which may end it, and at its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

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

    Attributes:
        report: is called with the number of the evaluation, the first of which is 1, and its scores; whether to end. It
            is set by the sweep, and no argument: no config is to name a function.
        scores: all scores of the run, once it has ended.
    """

    def __init__(self, tags: Mapping[str, str]) -> None:
        self.report: Callable[[int, Sequence[Score]], bool] = _go_on
        self.tags = dict(tags)
        self.scores: list[Score] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Come after the evaluation."""
        run = run_of(trainer)
        run.callbacks = [*(callback for callback in run.callbacks if callback is not self), self]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tag the run's page."""
        for logger in trainer.loggers:
            if isinstance(logger, MLflowLogger) and self.tags:
                logger.put("tags", values=self.tags)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report an evaluation of this epoch."""
        evaluation = _evaluation(trainer)
        curve = [score for score in evaluation.history if score.kind == "curve"]
        numbers = list(dict.fromkeys(score.updates for score in curve))
        if not numbers or numbers[-1] != trainer.global_step:
            return
        latest = [score for score in curve if score.updates == numbers[-1]]
        if self.report(len(numbers), latest):
            evaluation.final_episodes = 0  # the last evaluation is for those that are compared by it
            trainer.should_stop = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what the run is judged by; one that had ended before has it from its files."""
        evaluation = _evaluation(trainer)
        self.scores = [*evaluation.history, *evaluation.final]


def _go_on(number: int, scores: Sequence[Score]) -> bool:
    return False


def _evaluation(trainer: Trainer) -> Evaluation:
    return next(callback for callback in run_of(trainer).callbacks if isinstance(callback, Evaluation))
