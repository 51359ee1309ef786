"""Acts with an exported policy; needs numpy and onnxruntime alone.

python act.py "0.1 0.2 0.3"   prints the action for one observation.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime

FILE = Path(__file__).with_name("policy.onnx")


class Policy:
    """Raw observations `[D]` or `[B, D]` to actions `[A]` or `[B, A]` in the environment's units."""

    def __init__(self, file: str | Path = FILE) -> None:
        self.session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """The deterministic action; a single observation gives a single action."""
        rows = np.asarray(observation, dtype=np.float32)
        actions = self.session.run(None, {"observation": np.atleast_2d(rows)})[0]
        return actions[0] if rows.ndim == 1 else actions


if __name__ == "__main__":
    print(*Policy()(np.array(sys.argv[1].split(), dtype=np.float32)))
