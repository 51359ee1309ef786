"""Addresses within MLflow's pages; importing this costs nothing."""

from __future__ import annotations

TRAINING = "workflowType=machine_learning"
"""MLflow shows its pages about language models unless the address says that it is about training."""

EXPERIMENTS = f"#/experiments?{TRAINING}"
"""The part of an address behind the server's that lists the experiments."""


def run_page(experiment_id: str, run_id: str) -> str:
    """The part of an address behind the server's that shows the curves of one run."""
    return f"#/experiments/{experiment_id}/runs/{run_id}/model-metrics?{TRAINING}"
