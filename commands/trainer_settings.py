"""Settings of Lightning's trainer that agents would ignore, or that end in a division by zero, refused in one line."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

PRECISIONS = (None, 32, "32", "32-true", "bf16-mixed", "bf16")
"""Agents compute gradients of float32 weights themselves, without the loss scaling that float16 needs."""

LAUNCHERS = ("MASTER_ADDR", "SLURM_JOB_ID", "LSB_JOBID", "OMPI_COMM_WORLD_RANK", "KUBERNETES_PORT")
"""Variables of what starts the processes of several machines."""


def check_trainer(settings: Mapping[str, Any], arguments: Sequence[str]) -> None:
    """Refuse what agents cannot train with.

    Args:
        settings: settings of the trainer, by name.
        arguments: names of those of the agent, which advice is made of.

    Raises:
        ValueError: it names the first setting and what to use instead.
    """
    for name, advice in _mistakes(settings, arguments):
        raise ValueError(f"trainer.{name}: {settings[name]}: {advice}")


def _mistakes(settings: Mapping[str, Any], arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names of settings, and what to say about them."""
    clips = [f"model.{name}" for name in arguments if name.endswith("clip_norm")]
    clip = f"agents clip their gradients themselves: {_set(clips)}"
    positive = "it must be positive; trainer.limit_val_batches: 0 leaves validation out"
    launched = any(name in os.environ for name in LAUNCHERS)
    table = (
        ("log_every_n_steps", lambda x: x >= 1, "it must be at least 1"),
        ("accumulate_grad_batches", lambda x: x == 1, "agents step at every batch; raise data.batch_size instead"),
        ("gradient_clip_val", lambda x: x is None, clip),
        ("gradient_clip_algorithm", lambda x: x is None, clip),
        ("precision", lambda x: x in PRECISIONS, "agents keep float32 weights: use 32-true or bf16-mixed"),
        ("val_check_interval", lambda x: not isinstance(x, int | float) or x > 0, positive),
        ("check_val_every_n_epoch", lambda x: x is None or x > 0, positive),
        ("barebones", lambda x: not x, "runs of agents log, report and save; leave it out"),
        (
            "num_nodes",
            lambda x: x <= 1 or launched,
            "nothing starts the other machines: set MASTER_ADDR, MASTER_PORT and NODE_RANK on each",
        ),
    )
    yield from ((name, advice) for name, good, advice in table if not good(settings[name]))
    for least, most in (("min_epochs", "max_epochs"), ("min_steps", "max_steps")):
        low, high = settings[least], settings[most]
        if low is not None and high is not None and low > high >= 0:
            yield least, f"{most} is {high} and ends the run before"


def _set(names: Sequence[str]) -> str:
    """Advice to set one of these."""
    return f"set {' or '.join(names)}" if names else "this one does not; leave it out"
