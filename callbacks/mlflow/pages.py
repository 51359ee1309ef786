"""Addresses within MLflow's pages; importing this costs nothing."""

from __future__ import annotations

TRAINING = "workflowType=machine_learning"
"""MLflow shows its pages about language models unless the address says that it is about training."""

EXPERIMENTS = f"#/experiments?{TRAINING}"
"""What follows a server's address to list the experiments."""


def run_page(experiment_id: str, run_id: str) -> str:
    """What follows a server's address to show the curves of one run."""
    return f"#/experiments/{experiment_id}/runs/{run_id}/model-metrics?{TRAINING}"
