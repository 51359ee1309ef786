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
        file: name of the ONNX file in it.
    """

    def __init__(self, folder: str | Path = FOLDER, seed: int = 0, file: str = "policy.onnx") -> None:
        path = str(Path(folder) / file)
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
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

        Raises:
            ValueError: a part of the observation or of the state, or the reward, is not what the policy takes.
        """
        feed = self.observed(observation)
        first = next(iter(feed.values()))
        rows = len(first) if first.ndim else 1
        kept = [name for name in self.inputs if name.startswith("state/")]
        if not isinstance(state, dict) or state.keys() != set(kept):
            given = sorted(state) if isinstance(state, dict) else f"a {type(state).__name__}"
            raise ValueError(f"the state has the parts {given}, the policy takes {kept}, see initial_state")
        feed |= {name: self._array(name, value) for name, value in state.items()}
        if "reward" in self.inputs:
            earned = self._array("reward", reward)
            feed["reward"] = np.broadcast_to(earned, (rows,)) if earned.shape in ((), (1,)) else earned
        for name, value in feed.items():
            expected = (rows, *self.inputs[name]["shape"])
            if value.shape != expected:
                raise ValueError(f"{name} has the shape {list(value.shape)}, the policy takes {list(expected)}")
        if "noise" in self.inputs:
            draw = self.rng.random if self.inputs["noise"]["distribution"] == "uniform" else self.rng.standard_normal
            feed["noise"] = draw((rows, *self.inputs["noise"]["shape"]), np.float32)
        action, *after = self.session.run(None, {name: np.ascontiguousarray(feed[name]) for name in self.inputs})
        return action, dict(zip(kept, after, strict=True))

    def observed(self, observation: Any) -> dict[str, np.ndarray]:
        """The parts of an observation by the names of their inputs.

        Raises:
            ValueError: the parts have other names than the policy's, or one is no array of numbers.
        """
        wanted = {name for name in self.inputs if name.partition("/")[0] == PLAIN}
        nested = isinstance(observation, dict) or (isinstance(observation, tuple) and wanted != {PLAIN})
        parts = flat(observation) if nested else {"": observation}
        named = {f"{PLAIN}/{key}" if key else PLAIN: value for key, value in parts.items()}
        if named.keys() > wanted:  # an environment may give more than the policy looks at
            named = {name: named[name] for name in self.inputs if name in wanted}
        if named.keys() != wanted:
            given = sorted(parts) if nested else "one array"
            keys = "one array" if wanted == {PLAIN} else f"a dict of {sorted(n.partition('/')[2] for n in wanted)}"
            raise ValueError(f"the observation is {given}, the policy takes {keys}")
        return {name: self._array(name, value) for name, value in named.items()}

    def _array(self, name: str, value: Any) -> np.ndarray:
        """An input as an array of its type.

        Raises:
            ValueError: it holds no numbers, or such as the type cannot hold.
        """
        kind = np.dtype(self.inputs[name]["dtype"])
        try:
            given = np.asarray(value)
        except ValueError as error:
            raise ValueError(f"{name} is no array: {error}") from error
        if given.dtype.kind not in "biuf":
            raise ValueError(f"{name} holds {given.dtype}, the policy takes {kind}")
        with np.errstate(invalid="ignore"):  # not-a-number is told as all others
            cast = given.astype(kind)
        if kind.kind in "biu" and not np.array_equal(cast, given):
            raise ValueError(f"{name} holds {given.dtype} from {given.min()} to {given.max()}, the policy takes {kind}")
        low, high = (self.inputs[name].get(end) for end in ("low", "high"))
        if low is not None and high is not None and not ((low <= cast) & (cast <= high)).all():
            raise ValueError(f"{name} holds {given.min()} to {given.max()}, the policy takes {low} to {high}")
        return cast

    def act(
        self, observation: Any, state: dict[str, np.ndarray] | None = None, reward: Any = 0.0
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The action for one observation, or one for each of a batch, and the next state; nothing is remembered here.

        Args:
            observation: one, or a batch along a new first axis.
            state: state that the previous call gave, `[1, ...]` of one observation; None where episodes begin.
            reward: reward that the previous action earned; only some policies look at it.
        """
        parts = self.observed(observation)
        ranks = {value.ndim - len(self.inputs[name]["shape"]) for name, value in parts.items()}
        single = ranks == {0}
        if single:
            parts = {name: value[None] for name, value in parts.items()}
        first = next(iter(parts.values()))
        rows = len(first) if first.ndim else 1  # `step` refuses a number in the place of an array
        by_key = {name.partition("/")[2]: value for name, value in parts.items()}
        batch = by_key if parts.keys() != {PLAIN} else parts[PLAIN]
        action, after = self.step(batch, self.initial_state(rows) if state is None else state, reward)
        return (action[0] if single else action), after

    def __call__(self, observation: Any, reward: Any = 0.0) -> np.ndarray:
        """The action for one observation, or one for each of a batch; the memory goes on from the previous call.

        Args:
            observation: one, or a batch along a new first axis.
            reward: reward that the previous action earned; only some policies look at it.
        """
        action, self.state = self.act(observation, self.state or None, reward)
        return action


def flat(parts: Any, path: str = "") -> dict[str, Any]:
    """Parts of nested dicts and tuples by key or place, with a slash between these."""
    found: dict[str, Any] = {}
    for key, part in parts.items() if isinstance(parts, dict) else enumerate(parts):
        name = f"{path}/{key}" if path else str(key)
        found |= flat(part, name) if isinstance(part, dict | tuple) else {name: part}
    return found


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
        for name, part in policy.observed(seen).items():
            shape = policy.inputs[name]["shape"]
            if list(part.shape) != shape:
                raise ValueError(f"{name} has the shape {list(part.shape)}, the policy takes {shape}")
        print(*np.ravel(policy(seen)))
    except (ValueError, OSError) as error:
        usage = 'python act.py "0.1 0.2 ...", observation.npy, or observation.npz for a Dict'
        sys.exit(f"act.py: error: {error}; usage: {usage}")


if __name__ == "__main__":
    main(sys.argv[1:])
