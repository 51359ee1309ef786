"""Collecting in the learning process: the environment steps that an update waits for are taken before it."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

from datamodules.played.collector import Collector
from datamodules.played.policies import AgentPolicy, RandomPolicy
from datamodules.played.setting import Setting
from datamodules.replay.streams import StreamReplay
from modules.contracts import Acting
from modules.wall_time import timed

CHUNK = 64
"""Rows of each stream that are collected before they are stored."""


class InlineCollection(Collector):
    """Environments in which the random policy acts first, and then the agent.

    Args:
        setting: environments and how they are collected from.
        replay: replay that the rows are written into.
        agent: agent that acts.
    """

    def __init__(self, setting: Setting, replay: StreamReplay, agent: Acting) -> None:
        super().__init__(setting.make(setting.seed), setting.spec.id, setting.seed, setting.protection.infos)
        self.setting = setting
        self.replay = replay
        self.agent = agent
        self.random = RandomPolicy(self.env.single_action_space, setting.environments, setting.seed)

    @functools.cached_property
    def acting(self) -> AgentPolicy:
        """The agent with its recurrent states, which are made at the first use, on the agent's device of then."""
        return AgentPolicy(self.agent, self.setting.environments)

    @timed("collecting")
    def provide(self, steps: int, rows: int) -> None:
        """Collect until `steps` environment steps were taken in total and `rows` rows of each stream can be sampled."""
        environments = self.setting.environments
        while True:
            random = self.steps < self.setting.prefill
            left = (self.setting.prefill if random else steps) - self.steps
            if left <= 0:
                left = (rows - len(self.replay)) * environments
            if left <= 0:
                return
            count = min(CHUNK, math.ceil(left / environments))
            self.replay.extend(self.collect(count, self.random if random else self.acting))

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "random": self.random.state_dict(), "acting": self.acting.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], *, continue_episodes: bool = True) -> str | None:
        if "random" in state:  # not after a run whose environments were played elsewhere
            self.random.load_state_dict(state["random"])
            self.acting.load_state_dict(state["acting"])
        return super().load_state_dict(state, continue_episodes=continue_episodes)
