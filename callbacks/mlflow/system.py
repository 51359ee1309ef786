"""Use of the machine while a run lasts, sent like all that a run logs."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from callbacks.mlflow.logger import MLflowLogger
from callbacks.mlflow.store import metric_name


class Sender:
    """Takes the place of what MLflow's monitor sends with: it would give up at the first failure of a server.

    Args:
        logger: sends in its place.
    """

    data: tuple[()] = ()
    """The number of values that wait: none, the logger takes all."""

    def __init__(self, logger: MLflowLogger) -> None:
        self._logger = logger

    def record_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Hand over values at a step, which counts samples."""
        now = int(time.time() * 1000)
        self._logger.put("metrics", values=[(metric_name(k), float(v), now, step) for k, v in metrics.items()])

    def flush(self) -> None:
        """Nothing waits here."""


def start_monitor(logger: MLflowLogger) -> Any:
    """MLflow's monitor of CPU, memory and GPU, started; it samples whatever the server does until its `finish`."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    class Monitor(SystemMetricsMonitor):
        """Without the question before each sample whether the run is still there."""

        def __init__(self) -> None:
            super().__init__(logger.run_id, resume_logging=True, tracking_uri=logger.tracking_uri)
            self.ended = threading.Event()

        def monitor(self) -> None:
            self.collect_metrics()
            while not self.ended.wait(self.sampling_interval):
                self.publish_metrics(self.aggregate_metrics())
                self.collect_metrics()

        def finish(self) -> None:
            self.ended.set()
            super().finish()

    monitor = Monitor()
    monitor.mlflow_logger = Sender(logger)
    monitor.start()
    return monitor
