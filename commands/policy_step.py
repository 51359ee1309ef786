"""One step of a checkpoint's policy on named tensors: what an exported file computes, and what `reverie.load` plays."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from callbacks.evaluation.rollout import to_tensors
from commands.own_observations import to_plain
from datamodules.envs.joined import joined
from modules.agent.agent import Agent
from modules.batch import PLAIN, brief
from modules.functional.recurrent_state import leaves_of, restart, with_leaves


class PolicyStep(nn.Module):
    """The most likely action of one member, with everything that the step depends on as an input.

    Inputs, `[B, ...]` each, in the order of `names`: `observation`, or `observation/KEY` for each part of a Dict; then
    `reward`, which the previous action earned, if the agent looks at it; `noise`, if it draws any; `state/0`,
    `state/1`, ... of a memory. Outputs: `action`, then `next_state/0`, `next_state/1`, ...

    Args:
        agent: agent on the CPU.
        member: index of the member of a population.
        parts: spaces of the parts that the agent's observations were joined from, in order, which are then the inputs;
            or None.
        own: spaces by key of the inputs as the environment gives them, see `commands.own_observations`; None for those
            that the agent takes.

    Raises:
        ValueError: the parts do not make up an observation of the agent.
    """

    def __init__(
        self,
        agent: Agent,
        member: int = 0,
        parts: dict[str, gym.Space] | None = None,
        own: dict[str, gym.Space] | None = None,
    ) -> None:
        super().__init__()
        self.joined = parts is not None
        self.space = observed = agent.spaces.observation
        if parts is not None:
            self.space = gym.spaces.Dict(parts)
            if joined(self.space, list(parts)).space.shape != observed.shape:
                raise ValueError(f"the parts {brief(self.space)} do not make up an observation {brief(observed)}")
        self.plays: nn.Module = agent if type(agent).policy is Agent.policy else agent.policy(member).eval()
        self.keys = list(parts or (self.space.spaces if isinstance(self.space, gym.spaces.Dict) else []))
        self.names = [f"{PLAIN}/{key}" for key in self.keys] or [PLAIN]
        self.own = own
        if own is not None:
            self.space = gym.spaces.Dict(own) if self.keys else own[PLAIN]
        fresh = None
        noise = None
        self.rewarded = False
        if isinstance(self.plays, Agent):
            fresh = self.plays.initial_state(1) if self.plays.remembers else None
            noise = self.plays.acting_noise(1)
            self.rewarded = fresh is not None and type(agent).rewarded is not Agent.rewarded
        self.fresh = fresh
        self.states = [f"state/{i}" for i in range(len(leaves_of(fresh)))] if fresh is not None else []
        self.noisy = noise is not None
        self.names += ["reward"] * self.rewarded + ["noise"] * self.noisy + self.states

    @property
    def outputs(self) -> list[str]:
        """Names of what `forward` returns."""
        return ["action", *(f"next_{name}" for name in self.states)]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """`[B, ...]` actions in the environment's units, and the state for the next step."""
        given = dict(zip(self.names, inputs, strict=True))
        parts = {key: given[f"{PLAIN}/{key}"] for key in self.keys} if self.keys else {PLAIN: given[PLAIN]}
        if self.own is not None:
            parts = {key: to_plain(self.own[key], x) for key, x in parts.items()}
        observation: Any = parts if self.keys else parts[PLAIN]
        if self.joined:
            observation = _join(list(parts.values()))
        if not isinstance(self.plays, Agent):
            return (self.plays(observation),)
        state = with_leaves(self.fresh, [given[name] for name in self.states]) if self.states else None
        if self.rewarded:
            state = self.plays.rewarded(state, given["reward"])
        drawn = {"noise": given["noise"]} if self.noisy else {}
        action, after = self.plays.act(observation, state, explore=False, **drawn)
        return action, *(leaves_of(after) if self.states else ())

    def observed(self, observation: Any) -> dict[str, Tensor]:
        """The inputs that `[B, ...]` observations give, as numpy arrays of an environment."""
        tensors = to_tensors(observation, torch.device("cpu"))
        return {f"{PLAIN}/{key}": x for key, x in tensors.items()} if isinstance(tensors, dict) else {PLAIN: tensors}

    def started(self, rows: int) -> dict[str, Tensor]:
        """The inputs besides the observation at the start of `rows` episodes."""
        if not isinstance(self.plays, Agent):
            return {}
        leaves = leaves_of(self.plays.initial_state(rows)) if self.states else []
        return ({"reward": torch.zeros(rows)} if self.rewarded else {}) | dict(zip(self.states, leaves, strict=True))

    def drawn(self, rows: int) -> dict[str, Tensor]:
        """The input `noise`, drawn for one step of `rows` episodes, if there is one."""
        noise = self.plays.acting_noise(rows) if isinstance(self.plays, Agent) else None
        return {} if noise is None else {"noise": noise}

    def acted(self, states: Mapping[str, Tensor], action: Tensor) -> dict[str, Tensor]:
        """States by name, with other actions `[B, ...]` than those of the step that they are from."""
        assert isinstance(self.plays, Agent)
        state = self.plays.acted(with_leaves(self.fresh, [states[name] for name in self.states]), action)
        return dict(zip(self.states, leaves_of(state), strict=True))

    def step(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`forward` by names."""
        with torch.no_grad():
            return dict(zip(self.outputs, self(*(inputs[name] for name in self.names)), strict=True))


class RunningEpisodes:
    """The memory that a policy has of the episodes that it plays, one for each row of its observations.

    Args:
        state: `state` of other running episodes, which these go on; `{}` where they begin.
    """

    def __init__(self, state: Mapping[str, np.ndarray] = MappingProxyType({})) -> None:
        self._carried: dict[str, Tensor] = {name: torch.from_numpy(np.array(x)) for name, x in state.items()}

    @property
    def state(self) -> dict[str, np.ndarray]:
        """The memory after the last action, `[B, ...]` by name; `{}` without one, and where episodes begin."""
        return {name: x.numpy() for name, x in self._carried.items() if name != "reward"}

    def reset(self) -> None:
        """Forget the past: the next observations are the first of their episodes."""
        self._carried = {}

    def act(
        self,
        step: PolicyStep,
        observation: Any,
        *,
        first: np.ndarray | bool | None = None,
        reward: np.ndarray | float | None = None,
        action: np.ndarray | None = None,
    ) -> np.ndarray:
        """Actions `[B, ...]` in the environment's units.

        Args:
            step: the policy; other forms of the same one may take turns.
            observation: `[B, ...]`, or by key.
            first: `[B]` bool, the observation is the first of its episode; None where all go on.
            reward: `[B]` what the previous actions earned; None for nothing.
            action: `[B, ...]` the previous actions, where others were taken than the policy's; None for its own.

        Raises:
            ValueError: there are more or fewer rows than before.
        """
        inputs = step.observed(observation)
        rows = len(next(iter(inputs.values())))
        fresh = step.started(rows)
        carried = self._carried or fresh
        if carried and (before := len(next(iter(carried.values())))) != rows:
            raise ValueError(f"{rows} observations follow {before}: call reset() when other episodes begin")
        carried = fresh | carried  # a state that was given has no reward
        if action is not None and self._carried and step.states:
            carried = carried | step.acted(carried, torch.from_numpy(action))
        if first is not None and carried:
            begins = torch.from_numpy(np.broadcast_to(np.asarray(first, bool), (rows,)).copy())
            carried = restart(carried, fresh, begins)
        if reward is not None and "reward" in carried:
            earned = np.broadcast_to(np.asarray(reward, np.float32), (rows,)).copy()
            carried = {**carried, "reward": torch.from_numpy(earned)}
        found = step.step(inputs | carried | step.drawn(rows))
        self._carried = {name: found[f"next_{name}"] for name in step.states}
        if self._carried and "reward" in fresh:
            self._carried["reward"] = fresh["reward"]
        return found["action"].numpy()


def _join(parts: list[Tensor]) -> Tensor:
    """`[B, ...]` vectors behind each other, or images on their channels; as `datamodules.envs.joined.Joined` does."""
    if parts[0].ndim == 4:
        return torch.cat(parts, -1)
    return torch.cat([part.float().flatten(1) if part.ndim > 1 else part.float()[:, None] for part in parts], -1)


def by_slash(observation: Any, path: str = "") -> Any:
    """Parts of a nested dict by key, with a slash between keys; what is no dict stays as it is."""
    if not isinstance(observation, Mapping):
        return {path: observation} if path else observation
    parts: dict[str, Any] = {}
    for key, part in observation.items():
        parts |= by_slash(part, f"{path}/{key}" if path else key)
    return parts


def random_observations(space: gym.Space, rows: int, rng: np.random.Generator) -> Any:
    """`[rows, ...]` observations all over a space; floats within [-10, 10], as an unbounded one has no middle."""
    if isinstance(space, gym.spaces.Dict):
        return {key: random_observations(part, rows, rng) for key, part in space.items()}
    if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
        low, high = np.maximum(space.low, -10.0), np.minimum(space.high, 10.0)
        return rng.uniform(low, high, size=(rows, *space.shape)).astype(np.float32)
    if isinstance(space, gym.spaces.Box):
        low, high = space.low.astype(np.int64), space.high.astype(np.int64)
        return rng.integers(low, high + 1, size=(rows, *space.shape)).astype(space.dtype)
    space.seed(int(rng.integers(2**31)))
    return np.stack([np.asarray(space.sample()) for _ in range(rows)])
