"""Acts with an exported policy; needs numpy and onnxruntime alone.

python act.py "0.1 0.2 0.3"       prints the action for one observation of a few numbers;
python act.py observation.npy     for one of any shape; observation.npz, with the arrays by key, for a Dict.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

FOLDER = Path(__file__).parent
PLAIN = "observation"


class Policy:
    """Raw observations to actions in the environment's units, with the memory of the running episodes if there is one.

    Args:
        folder: folder that `reverie export` wrote.
        seed: seed of the noise that some policies draw.
    """

    def __init__(self, folder: str | Path = FOLDER, seed: int = 0) -> None:
        file = str(Path(folder) / "policy.onnx")
        self.session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        self.inputs: dict[str, dict[str, Any]] = json.loads((Path(folder) / "policy.json").read_text())["inputs"]
        self.rng = np.random.default_rng(seed)
        self.state: dict[str, np.ndarray] = {}

    def reset(self) -> None:
        """Forget the past: the next observation is the first of its episode."""
        self.state = {}

    def initial_state(self, rows: int) -> dict[str, np.ndarray]:
        """The state `[rows, ...]` before the first observation of an episode; empty for a policy without a memory."""
        return {
            name: np.broadcast_to(np.array(about["initial"], about["dtype"]), (rows, *about["shape"]))
            for name, about in self.inputs.items()
            if name.startswith("state/")
        }

    def step(
        self, observation: Any, state: dict[str, np.ndarray], reward: Any = 0.0
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Actions for a batch, and the next state; nothing is remembered here.

        Args:
            observation: `[B, ...]`, or a dict of such arrays by key.
            state: state that `initial_state` or the previous step gave; rows whose episode begins take those of the
                first.
            reward: `[B]` or one number: what the previous actions earned.
        """
        named = {PLAIN: observation} if PLAIN in self.inputs else {f"{PLAIN}/{k}": v for k, v in observation.items()}
        feed = {name: np.asarray(value, self.inputs[name]["dtype"]) for name, value in named.items()} | state
        rows = len(next(iter(feed.values())))
        if "reward" in self.inputs:
            feed["reward"] = np.broadcast_to(np.asarray(reward, np.float32), (rows,))
        if "noise" in self.inputs:
            draw = self.rng.random if self.inputs["noise"]["distribution"] == "uniform" else self.rng.standard_normal
            feed["noise"] = draw((rows, *self.inputs["noise"]["shape"]), np.float32)
        action, *after = self.session.run(None, {name: np.ascontiguousarray(feed[name]) for name in self.inputs})
        return action, dict(zip(state, after, strict=True))

    def __call__(self, observation: Any, reward: Any = 0.0) -> np.ndarray:
        """The action for one observation, or one for each of a batch; the memory goes on from the previous call.

        Args:
            observation: one, or a batch along a new first axis.
            reward: reward that the previous action earned; only some policies look at it.
        """
        parts = observation if isinstance(observation, dict) else {PLAIN: observation}
        name = next(iter(self.inputs))
        part = np.asarray(parts[name.removeprefix(f"{PLAIN}/")])
        single = part.ndim == len(self.inputs[name]["shape"])
        rows = 1 if single else len(part)
        if single:
            parts = {key: np.asarray(value)[None] for key, value in parts.items()}
        if not self.state:
            self.state = self.initial_state(rows)
        batch = parts if isinstance(observation, dict) else parts[PLAIN]
        action, self.state = self.step(batch, self.state, reward)
        return action[0] if single else action


def read(given: list[str]) -> Any:
    """The observation that a command line names: numbers, or a file.

    Raises:
        ValueError: it names none.
    """
    if len(given) == 1 and given[0].endswith(".npz"):
        return dict(np.load(given[0]))
    if len(given) == 1 and given[0].endswith(".npy"):
        return np.load(given[0])
    numbers = " ".join(given).replace(",", " ").split()
    if not numbers:
        raise ValueError("no observation was given")
    return np.array([float(number) for number in numbers], np.float32)


def main(given: list[str]) -> None:
    """Print the action for the observation that a command line names; a mistake is one line."""
    policy = Policy()
    try:
        seen = read(given)
        for name, part in (seen if isinstance(seen, dict) else {"": seen}).items():
            shape = policy.inputs[f"{PLAIN}/{name}" if name else PLAIN]["shape"]  # a KeyError names an unknown part
            if list(part.shape) != shape:
                raise ValueError(f"{name or PLAIN} has the shape {list(part.shape)}, the policy takes {shape}")
        print(*np.ravel(policy(seen)))
    except (ValueError, KeyError, OSError) as error:
        usage = 'python act.py "0.1 0.2 ...", observation.npy, or observation.npz for a Dict'
        sys.exit(f"act.py: error: {error}; usage: {usage}")


if __name__ == "__main__":
    main(sys.argv[1:])
