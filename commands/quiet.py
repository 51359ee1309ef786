"""Silences third-party noise and sets process-wide defaults; the command line imports this before torch and friends.

Every line answers one message that was seen; REVERIE_DEBUG=1 leaves the messages on. Environment variables that the
user has set always win.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import TextIO

from commands.messages import shorten

DEBUG = os.environ.get("REVERIE_DEBUG") == "1"

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # a training run sends nothing to anybody unasked
# Small networks lose up to 50x when several busy processes share cores between OpenMP threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tensors of 2 MiB and more on huge pages: random rows of a large replay then need half as many page look-ups.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

ROOT = Path(__file__).resolve().parents[1]
OURS = ("modules", "datamodules", "callbacks", "commands")


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Our own warnings speak to users, as one line; others keep the place in the code where they come from."""
    path = Path(filename)
    ours = path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in OURS
    text = (
        f"reverie: warning: {shorten(str(message))}\n"
        if ours
        else warnings.formatwarning(message, category, filename, lineno, line)
    )
    (file or sys.stderr).write(text)


if not DEBUG:
    warnings.showwarning = show_warning
    os.environ.setdefault("RL_LOGGING_LEVEL", "WARNING")  # torchrl: "Initialized LazyTensorStorage" on stdout
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    for name, level in {
        "pytorch_lightning.utilities.rank_zero": logging.WARNING,  # devices that exist, advertisements
        "lightning.pytorch.utilities.rank_zero": logging.WARNING,
        "lightning_fabric.utilities.seed": logging.WARNING,  # "Seed set to 0"
        "lightning_fabric.utilities.distributed": logging.WARNING,  # one line per process at the start
        "mlflow.store": logging.WARNING,
        "mlflow.tracking": logging.WARNING,
        "alembic": logging.WARNING,
        "torch.utils.cpp_extension": logging.ERROR,  # "No CUDA runtime is found" at the first compile
    }.items():
        logging.getLogger(name).setLevel(level)
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)")
    warnings.filterwarnings("ignore", message=r".*does not have many workers")
    warnings.filterwarnings("ignore", message=r"Checkpoint directory .* exists and is not empty")  # every resume
    # Agents log by their own update counter, across epochs; checkpoints are meant to hold the state after an update.
    warnings.filterwarnings("ignore", message=r"The number of training batches .* is smaller than the logging interval")
    warnings.filterwarnings("ignore", message=r"Using ModelCheckpoint with manual optimization")
    # Data that are collected have no held-out part, and recorded data need not have one.
    warnings.filterwarnings("ignore", message=r"Total length of `list` across ranks is zero")
    warnings.filterwarnings("ignore", message=r"You defined a `validation_step` but have no `val_dataloader`")
    # `validate` needs no callbacks of the training run; the evaluating process tells the others its return.
    warnings.filterwarnings("ignore", message=r"Be aware that when using `ckpt_path`, callbacks used to create")
    warnings.filterwarnings("ignore", message=r"It is recommended to use `self\.log\('evaluation/")
    warnings.filterwarnings("ignore", message=r".*Creating VanillaWeightUpdater")
