"""Set before anything imports torch: one thread per process, no third-party noise."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import commands.quiet  # noqa: F401
