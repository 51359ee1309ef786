"""The player of an evaluation's episodes, which films some of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gymnasium.vector import VectorEnv
from pytorch_lightning import Trainer
from pytorch_lightning.utilities import rank_zero_warn

from callbacks.evaluation.films import check_renderable, record_episode
from callbacks.evaluation.report import Score
from callbacks.evaluation.rollout import (
    Rollouts,
    evaluate_policy,
    evaluate_random,
    evaluation_environments,
    warn_of_silence,
)
from callbacks.files.keepers import keepers
from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.restarting import Protection
from modules.agent.agent import Agent
from modules.wall_time import timed

VIDEOS = "videos"
"""Folder of the films, in the run's folder and among its artifacts."""


class EvaluationPlayer:
    """Plays and films episodes in environments that are kept from one evaluation to the next.

    Args:
        parallel: number of environments of each member.
        max_episode_steps: steps beyond which an episode is taken to have no end.
        protection: protection of each environment.
        video_every: regular evaluations from one film to the next; 0 for no films.
    """

    def __init__(self, parallel: int, max_episode_steps: int, protection: Protection, video_every: int) -> None:
        self.parallel = parallel
        self.max_episode_steps = max_episode_steps
        self.protection = protection
        self.video_every = video_every
        self._kept: VectorEnv | None = None
        self._warned = False

    def check_films(self, spec: EnvironmentSpec | None) -> None:
        """Refuse films of what cannot be rendered.

        Raises:
            ValueError: films are asked for, and there is no environment, or it has no pictures here.
        """
        if not self.video_every:
            return
        if spec is None:
            raise ValueError("evaluation.video_every: there is no environment to film; leave it at 0")
        try:
            check_renderable(spec)
        except ValueError as error:
            raise ValueError(f"evaluation.video_every: {error}; leave it at 0 for no films") from error

    @timed("evaluating")
    def play(self, agent: Agent, spec: EnvironmentSpec, episodes: int, seed: int) -> Rollouts:
        """Episodes of all members, see `evaluate_policy`."""
        environments = self._environments(agent, spec, seed)
        rollouts = evaluate_policy(agent, environments, episodes, seed, max_episode_steps=self.max_episode_steps)
        if not self._warned:
            warn_of_silence(rollouts, self.protection.infos)
            self._warned = True
        return rollouts

    @timed("evaluating")
    def play_random(self, agent: Agent, spec: EnvironmentSpec, episodes: int, seed: int) -> Rollouts:
        """The same episodes with random actions."""
        environments = self._environments(agent, spec, seed)
        return evaluate_random(environments, episodes, seed, max_episode_steps=self.max_episode_steps)

    def _environments(self, agent: Agent, spec: EnvironmentSpec, seed: int) -> VectorEnv:
        if self._kept is None:
            self._kept = evaluation_environments(spec, len(agent.member_names) * self.parallel, seed, self.protection)
        return self._kept

    @timed("evaluating")
    def film(
        self,
        trainer: Trainer,
        agent: Agent,
        scores: Sequence[Score],
        spec: EnvironmentSpec | None,
        seed: int,
        history: Sequence[Score],
    ) -> None:
        """Film what was scored, where that is due: every so many points of the curve, the last and the best policy.

        The film shows the first episode of the best member, as `videos/*.mp4` in the run's folder and among its
        artifacts. One that fails is a warning: the run goes on.

        Args:
            trainer: trainer of the run.
            agent: agent that was scored.
            scores: scores that it got.
            spec: specification of the environment.
            seed: seed of the episode.
            history: scores before these.
        """
        if not self.video_every or not scores or spec is None:
            return
        kind = scores[0].kind
        points = len({s.updates for s in history if s.kind == "curve"}) + 1
        if kind not in ("curve", "last", "best") or (kind == "curve" and points % self.video_every):
            return
        best = max(scores, key=lambda s: s.mean if s.member or len(scores) == 1 else float("-inf"))
        name = f"updates_{agent.updates:08d}" if kind == "curve" else kind
        file = Path(trainer.default_root_dir) / VIDEOS / f"{name}.mp4"
        try:
            record_episode(agent, agent.member_names.index(best.member), spec, seed, file)
        except (ValueError, OSError) as error:
            rank_zero_warn(f"no film {file}: {error}")
            return
        for logger in keepers(trainer):
            logger.put_file(file, VIDEOS)

    def close(self) -> None:
        """Close the environments."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None
