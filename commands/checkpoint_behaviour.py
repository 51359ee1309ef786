"""The policy of a checkpoint as a behaviour that data are collected with."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from commands.checkpoints import load_agent, member_index
from commands.policy_step import PolicyStep, RunningEpisodes
from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.recorded_environment import Changes
from datamodules.played.behaviours import Behaviour, Moment
from modules.batch import Spaces
from modules.same_spaces import check_same_spaces


def checkpoint_behaviour(
    path: str, member: str | None, environment: EnvironmentSpec, observation: gym.Space, action: gym.Space
) -> Behaviour:
    """The deterministic policy of a checkpoint's agent, which remembers the running episodes where the agent does.

    It is told the actions that were really taken, so that noise on them does not mislead its memory. Of a Dict it looks
    at the parts that the agent knows.

    Raises:
        ValueError: the agent was trained on spaces of another shape than the environment's, or its policy has diverged.
    """
    agent, origin = load_agent(path, Changes(environment.id, environment.arguments, environment.wrappers))
    parts, known = None, agent.spaces
    if isinstance(observation, gym.spaces.Dict) and origin.parts is not None:
        parts, known = origin.parts, Spaces(gym.spaces.Dict(origin.parts), known.action)
    if isinstance(observation, gym.spaces.Dict) and isinstance(known.observation, gym.spaces.Dict):
        keys = known.observation.keys()
        observation = gym.spaces.Dict({key: part for key, part in observation.items() if key in keys})
    check_same_spaces(path, known, environment.id, Spaces(observation, action), "--wrappers")
    step = PolicyStep(agent, member_index(agent.member_names, member), parts)
    running = RunningEpisodes()

    box = action if isinstance(action, gym.spaces.Box) else None

    def act(moment: Moment) -> np.ndarray:
        seen = moment.observation
        seen = {key: seen[key] for key in step.keys} if step.keys else seen
        actions = running.act(step, seen, first=moment.first, reward=moment.reward, action=moment.action)
        if box is None:
            return actions
        if not np.isfinite(actions).all():
            raise ValueError(f"{path}: an action of its policy is not finite: its training diverged; take another one")
        return np.clip(actions, box.low, box.high).astype(box.dtype)

    return act
