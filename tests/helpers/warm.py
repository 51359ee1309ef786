"""Imported once by the server that processes of tests are forked off: whatever a run would import, for seconds."""

from __future__ import annotations

import gc
import importlib
import tempfile

import copied_tables  # noqa: F401 - before MLflow's store

import commands.quiet  # noqa: F401 - before torch and friends
from callbacks.mlflow.mlflow_private import make_tables
from commands.lightning import import_classes
from commands.quick_imports import quick_imports

with quick_imports():
    import_classes()
    for name in (
        "commands.collect",
        "commands.datasets",
        "commands.evaluate",
        "commands.export",
        "gymnasium.envs.classic_control",
        "matplotlib.backends.backend_agg",
        "mlflow.store.tracking.sqlalchemy_store",
        "pytorch_lightning.strategies.launchers.subprocess_script",
        "torch._dynamo",
    ):
        importlib.import_module(name)

with tempfile.TemporaryDirectory() as folder:
    make_tables(f"sqlite:///{folder}/first.db")

gc.freeze()  # the collector would write to pages that all processes share
