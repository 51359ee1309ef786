"""Jobs of SLURM: the signal before their time ends, and the queue that they go back to."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from typing import Any

from lightning_fabric.plugins.environments import ClusterEnvironment, SLURMEnvironment, TorchElasticEnvironment

from modules.trust.names import cut

WARNING = signal.SIGUSR1
"""The signal by which `sbatch --signal=USR1@90` says that the job's time ends."""


def slurm_job() -> str | None:
    """The job of this process, `17`, or `17_3` of an array; None outside of SLURM, or where a person types.

    A job that is called `bash` or `interactive` is a person's.
    """
    if SLURMEnvironment.job_id() is None:
        return None
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    return os.environ["SLURM_JOB_ID"] if array is None or task is None else f"{array}_{task}"


def slurm_tasks() -> int:
    """The number of processes that SLURM has started for this job; 1 outside of it."""
    return int(os.environ.get("SLURM_NTASKS", "1")) if slurm_job() is not None else 1


def with_slurm(plugins: Sequence[Any]) -> list[Any]:
    """Plugins of a trainer, and SLURM where Lightning would find it, but without Lightning's answer to the signal.

    That one writes a checkpoint in the middle of an update, by collectives, wherever each process is.
    """
    chosen = any(isinstance(plugin, ClusterEnvironment) for plugin in plugins)
    if chosen or slurm_job() is None or TorchElasticEnvironment.detect() or not SLURMEnvironment.detect():
        return list(plugins)
    return [*plugins, SLURMEnvironment(auto_requeue=False)]


def requeue(job: str) -> str:
    """Put a job back into its queue; what came of it, in words."""
    command = ["scontrol", "requeue", job]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"SLURM's job {job} is not queued again: {cut(str(error), 100)}"
    if done.returncode:
        return f"SLURM's job {job} is not queued again: {cut(done.stderr.strip(), 100)}"
    return f"SLURM's job {job} is queued again"
