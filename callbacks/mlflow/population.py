"""The page of a population in MLflow: a run of its own, with the runs of its members below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from callbacks.mlflow.afterwards import logged_run
from callbacks.mlflow.logger import MLflowLogger
from callbacks.population import numbered


class PopulationPage:
    """Keeps what a population does, generation by generation.

    Metrics are `population/best` and `population/mean` of the returns, `population/rating/MEMBER` where members play
    each other, and `genes/NAME/MEMBER` of each gene, at the number of the generation. Artifacts are `population.json`,
    the whole history, and `population.png`.

    Args:
        folder: folder of the population; its members' are below it.
        name: name of the run.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self.logger: MLflowLogger | None = None

    def open(self, members: Sequence[Path]) -> None:
        """Make or continue the run beside those of the members, which are then its children.

        Does nothing where the members were not logged to MLflow.
        """
        found = [run for folder in members if (run := logged_run(folder)) is not None]
        if not found or self.logger is not None:
            return
        from mlflow import MlflowClient

        client = MlflowClient(found[0].tracking_uri)
        experiment = client.get_experiment(client.get_run(found[0].run_id).info.experiment_id)
        self.logger = MLflowLogger(
            experiment.name, found[0].tracking_uri, run_name=self.name, run_directory=str(self.folder)
        )
        parent = self.logger.run_id
        for folder, run in zip(members, found, strict=False):
            client.set_tag(run.run_id, "mlflow.parentRunId", parent)
            client.set_tag(run.run_id, "member", folder.name)

    def add(self, members: Sequence[Path], number: int, generation: Mapping[str, Any]) -> None:
        """Log one generation, the first of which has the number 1; open the run at the first one."""
        self.open(members)
        if self.logger is None:
            return
        means = [returns[0] for returns in generation["returns"]]
        living = [mean for mean in means if mean > float("-inf")]
        metrics = {"population/best": max(living), "population/mean": sum(living) / len(living)}
        for member, rating in enumerate(generation["ratings"] or ()):
            if rating > float("-inf"):
                metrics[f"population/rating/{member}"] = rating
        for member, genes in enumerate(generation["genes"]):
            metrics |= {f"{name}/{member}": value for name, value in numbered(genes).items()}
        self.logger.log_metrics(metrics, step=number)

    def close(self, files: Sequence[Path]) -> None:
        """Keep the files, and end the run."""
        if self.logger is None:
            return
        for path in files:
            self.logger.put_file(path)
        self.logger.finalize("success")
