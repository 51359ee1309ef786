"""Evaluation: how good the policy is in its environment, while it trains and when it is done."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from rich.table import Table

from callbacks.evaluation.played_environment import choose_environment
from callbacks.evaluation.player import EvaluationPlayer
from callbacks.evaluation.report import (
    BASELINES,
    Score,
    draw_learning_curve,
    loss_table,
    other_numbers,
    print_table,
    read_final,
    score,
    score_table,
    scores_of,
    write_csv,
    write_final,
)
from callbacks.evaluation.summary import environment_steps, footer, kept_checkpoint, subject
from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.recorded_environment import Changes
from datamodules.envs.restarting import Protection
from datamodules.envs.stepping import MAX_EPISODE_STEPS
from datamodules.recorded.dataset_info import DatasetInfo
from modules.agent.agent import Agent, agent_of
from modules.agent.random_state import isolated_randomness
from modules.arguments.checks import check_counts, check_ranges, check_seed, check_sizes
from modules.arguments.memory import check_memory
from modules.experts.parallel import whole_experts
from modules.run import run_of

# The final evaluation starts its episodes elsewhere than the regular ones, which chose the best checkpoint.
_FINAL_SEED_OFFSET = 1_000_000


class Evaluation(Callback):
    """Plays episodes with the deterministic policy and reports raw and normalised returns with 95% intervals.

    The environment is the one that the dataset was recorded in, or that the run collects its data from; a test plays in
    the one that the training of its checkpoint evaluated in. A run without a dataset is compared with random actions,
    which play the regular episodes once at the start.

    During training every `every_n_epochs` epochs, logged as `evaluation/return` (the metric that chooses the best
    checkpoint), `evaluation/normalized_return` and their intervals, per member where there are several. When the
    agent's phase changes, and at the end, `final_episodes` are played: the policy at the end of each phase, the last
    one and the best checkpoint are reported apart, on other starting states than those that chose the checkpoint.

    The run directory receives `evaluation.csv` and `learning_curve.png`; a table is printed when training is done.
    Episodes start from fixed seeds and never touch the generators of training. With several processes the first one
    plays and the others wait. The success that an environment reports in the info of last steps (`is_success`,
    `success`) is logged as `evaluation/success_rate`. An episode in which the environment fails is played again from
    its start, three times at most; then the run ends with an error that names environment and seed.

    Args:
        environment: registered gymnasium id; by default that of the data. The wrappers of the data's environment stay.
        environment_arguments: arguments of `gymnasium.make`, on top of the data's arguments where the id is the data's.
        episodes: episodes of each member at a regular evaluation.
        every_n_epochs: epochs between regular evaluations.
        final_episodes: episodes of each member at the end of each phase and of training; 0 for none,
            and for no `learning_curve.png`.
        seed: seed of the first episode.
        parallel: environments of each member that step together.
        phase_labels: names in the table for the policy at the end of a phase, by the phase's name.
        episode_infos: names of further numbers in those infos, whose means are logged; `a/b` is `b` in the dict `a`.
        video_every: every so many regular evaluations the best member's first episode is filmed, and at the end, as
            `videos/*.mp4` in the run directory and in MLflow; 0 for no films.
        max_episode_steps: an episode that is longer has no end, which is an error.
        step_timeout: seconds after which a step counts as a failure, where Python can interrupt it; 0 for no limit.
    """

    def __init__(
        self,
        environment: str | None = None,
        environment_arguments: dict[str, Any] | None = None,
        episodes: int = 10,
        every_n_epochs: int = 1,
        final_episodes: int = 100,
        seed: int = 0,
        parallel: int = 10,
        phase_labels: dict[str, str] | None = None,
        episode_infos: list[str] | None = None,
        video_every: int = 0,
        max_episode_steps: int = MAX_EPISODE_STEPS,
        step_timeout: float = 0.0,
    ) -> None:
        check_sizes(
            episodes=episodes,
            every_n_epochs=every_n_epochs,
            max_episode_steps=max_episode_steps,
        )
        check_counts(0, video_every=video_every, final_episodes=final_episodes)
        check_seed(seed=seed)
        check_ranges(("parallel", parallel, 1, 10_000))
        check_memory("evaluation.episodes or final_episodes", 16 * max(episodes, final_episodes))
        # Arguments as they are given, and who plays by them.
        self.environment = environment
        self.environment_arguments = environment_arguments or {}
        self.episodes = episodes
        self.every_n_epochs = every_n_epochs
        self.final_episodes = final_episodes
        self.seed = seed
        protection = Protection(step_timeout=step_timeout, same_episodes=True, infos=tuple(episode_infos or ()))
        self._player = EvaluationPlayer(parallel, max_episode_steps, protection, video_every)
        self.phase_labels = {"warm start": "cloned policy"} if phase_labels is None else phase_labels
        # What a run has told so far; a checkpoint carries it.
        self.history: list[Score] = []
        self.final: list[Score] = []
        self.table: Table | None = None
        self.footer: dict[str, str] = {}
        self._steps_of_checkpoint = 0
        self._final_is_known = False
        self._phase: str | None = None
        self._info: DatasetInfo | None = None
        self._spec: EnvironmentSpec | None = None
        self._prepared_for: object = None

    # --------------------------------------------------------------------------------------------------------- set-up
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the environment and refuse one that does not fit the agent; a test does when its checkpoint is known.

        Raises:
            ValueError: the environment cannot be made, or is another one than the dataset's.
        """
        data = run_of(trainer).datamodule
        if stage != "test" and (data is None or data is not self._prepared_for):
            self.prepare(data, agent_of(pl_module))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As `setup`, for the environment that the training of the checkpoint evaluated in."""
        self.prepare(run_of(trainer).datamodule, agent_of(pl_module), trainer.ckpt_path)

    def prepare(self, data: object, agent: Agent, checkpoint: str | Path | None = None) -> None:
        """Find the environment as `setup` does, before there is a run to refuse; see `choose_environment`."""
        self._prepared_for = data
        asked = Changes(self.environment, self.environment_arguments)
        self._spec, self._info = choose_environment(data, agent, asked, checkpoint)
        if checkpoint is None:
            self._player.check_films(self._spec)

    @property
    def environment_spec(self) -> EnvironmentSpec | None:
        """Specification of the environment of the episodes; a checkpoint holds it."""
        return self._spec

    @property
    def info(self) -> DatasetInfo | None:
        """Identity of the dataset, with the references that scores are measured between."""
        return self._info

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the environments."""
        self._player.close()

    # ------------------------------------------------------------------------------------------------------- training
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the phase; a resumed run remembers it from its checkpoint."""
        agent = agent_of(pl_module)
        self._phase = self._phase or agent.phase
        if agent.updates == 0:
            for s in self._behaviour():
                agent.log_metrics(s.metrics("behaviour"))
        if self._spec is not None and self._info is None and not self._baselines():
            played = self._play_random(agent) if trainer.is_global_zero else []
            self._record(trainer, agent, trainer.strategy.broadcast(played))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Evaluate the policy that a phase ended with."""
        agent = agent_of(pl_module)
        if agent.phase == self._phase:
            return
        ended, self._phase = str(self._phase), agent.phase
        if self._spec is None or not self.final_episodes:
            return
        label = self.phase_labels.get(ended, f"end of {ended}")
        self._record(trainer, agent, self._evaluate(trainer, agent, self.final_episodes, "phase", label))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A regular evaluation; its values are there when the checkpoint callback looks for its monitor."""
        if self._spec is None or (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        agent = agent_of(pl_module)
        scores = self._evaluate(trainer, agent, self.episodes, "curve", "policy")
        self._record(trainer, agent, scores)
        for s in scores:
            pl_module.log_dict(
                s.metrics("evaluation"), logger=False, on_step=False, on_epoch=True, batch_size=1, sync_dist=True
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate the last policy and the kept checkpoints, and draw the learning curve."""
        if self._spec is not None and self.final_episodes:
            self._play_final(trainer, agent_of(pl_module), environment_steps(self._prepared_for))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table and where everything is, when the progress bar is gone.

        A run that had nothing left to train, because it ended within its last evaluation, gets that one here.
        """
        self._catch_up(trainer, agent_of(pl_module))
        if not trainer.is_global_zero:
            return
        title = f"{type(pl_module).__name__} on {subject(trainer, self._info, self._spec)}"
        told: dict[str, str] = {}
        if self._spec is None:
            self.table = loss_table({k: float(v) for k, v in trainer.callback_metrics.items()}, title)
        else:
            scores = [*self._baselines(), *(s for s in self.history if s.kind == "phase"), *self.final]
            self.table, told = score_table(scores, title), other_numbers(scores)
        self.footer = {**told, **footer(trainer, self._info, self._spec)}
        print_table(self.table, self.footer)

    # ----------------------------------------------------------------------------------------------------------- test
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate the tested checkpoint: `test/return` and the normalised one, with their intervals."""
        if self._spec is None:
            return
        agent = agent_of(pl_module)
        for s in self._evaluate(trainer, agent, self.final_episodes, "test", "checkpoint"):
            pl_module.log_dict(s.metrics("test"), on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    # --------------------------------------------------------------------------------------------------------- resume
    def state_dict(self) -> dict[str, Any]:
        """The scores so far, the phase and the steps of the environment, as plain numbers and strings."""
        steps = environment_steps(self._prepared_for)
        return {"history": [asdict(s) for s in self.history], "phase": self._phase, "environment_steps": steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.history = [Score(**s) for s in state_dict["history"]]
        self._phase = state_dict["phase"]
        known = max((s.environment_steps for s in self.history), default=0)
        self._steps_of_checkpoint = state_dict.get("environment_steps", known)

    # -------------------------------------------------------------------------------------------------------- playing
    def _catch_up(self, trainer: Trainer, agent: Agent) -> None:
        """Play the last evaluation of a run that ended within it, unless its file holds all of it."""
        if self._spec is None or self._final_is_known or not agent.updates or not self.final_episodes:
            return
        played = read_final(Path(trainer.default_root_dir), agent.updates) if trainer.is_global_zero else None
        self.final, self._final_is_known = trainer.strategy.broadcast((played or [], played is not None))
        if not self._final_is_known:
            if trainer.is_global_zero:
                print("playing the last evaluation, within which the run ended", file=sys.stderr, flush=True)
            # The data is restored when training starts, which it does not here.
            self._play_final(trainer, agent.to(trainer.strategy.root_device), self._steps_of_checkpoint)

    def _play_final(self, trainer: Trainer, agent: Agent, steps: int) -> None:
        """Play the last policy and the kept checkpoints; a resume does so again unless all of this was done."""
        assert self._spec is not None
        last = self._evaluate(trainer, agent, self.final_episodes, "last", "last", steps)
        kept = [s for kind in ("best", "trusted") for s in self._score_kept(trainer, kind, last)]
        self.final = last + trainer.strategy.broadcast(kept)
        self._final_is_known = True
        for s in self.final:
            agent.log_metrics(s.metrics(s.kind))
        if trainer.is_global_zero:
            folder = Path(trainer.default_root_dir)
            write_csv([*self._behaviour(), *self.history, *self.final], folder / "evaluation.csv")
            title = f"{type(agent).__name__} on {subject(trainer, self._info, self._spec)}"
            baseline = next(iter(self._baselines()), None)
            draw_learning_curve(self.history, baseline, title, folder / "learning_curve.png")
            write_final(self.final, agent.updates, folder)

    def _evaluate(
        self, trainer: Trainer, agent: Agent, episodes: int, kind: str, label: str, steps: int | None = None
    ) -> list[Score]:
        """Play on the first process; every process receives the same scores, so that all take the same decisions."""
        steps = environment_steps(self._prepared_for) if steps is None else steps
        with whole_experts(agent):
            scores = self._play(agent, episodes, kind, label, steps) if trainer.is_global_zero else []
            if trainer.is_global_zero:
                self._player.film(trainer, agent, scores, self._spec, self._seed_of(kind), self.history)
        shared: list[Score] = trainer.strategy.broadcast(scores)
        return shared

    def _play(self, agent: Agent, episodes: int, kind: str, label: str, environment_steps: int) -> list[Score]:
        assert self._spec is not None
        rollouts = self._player.play(agent, self._spec, episodes, self._seed_of(kind))
        where = {"kind": kind, "label": label, "updates": agent.updates, "environment_steps": environment_steps}
        return scores_of(rollouts, agent.member_names, self._info, **where)

    def _seed_of(self, kind: str) -> int:
        return self.seed if kind == "curve" else self.seed + _FINAL_SEED_OFFSET

    def _play_random(self, agent: Agent) -> list[Score]:
        """The baseline of a run without a dataset, on the starting states of the learning curve."""
        assert self._spec is not None
        rollouts = self._player.play_random(agent, self._spec, self.episodes, self.seed)
        return scores_of(rollouts, [""], None, kind="random", label="random policy", updates=0)

    def _score_kept(self, trainer: Trainer, kind: str, last: Sequence[Score]) -> list[Score]:
        """Scores of a kept checkpoint, from its file; those of the last policy when it is the same one."""
        path = kept_checkpoint(trainer, kind)
        if path is None or not trainer.is_global_zero:
            return []
        with isolated_randomness(self.seed, trainer.strategy.root_device):  # building networks draws initial weights
            kept = agent_of(trainer.lightning_module).with_weights_of(path).to(trainer.strategy.root_device)
        if last and kept.updates == last[0].updates:
            scores = [replace(s, kind=kind, label=f"{kind} checkpoint") for s in last]
        else:
            steps = next((s.environment_steps for s in self.history if s.updates == kept.updates), 0)
            scores = self._play(kept, self.final_episodes, kind, f"{kind} checkpoint", steps)
        self._player.film(trainer, kept, scores, self._spec, self._seed_of(kind), self.history)
        return scores

    def _record(self, trainer: Trainer, agent: Agent, scores: Sequence[Score]) -> None:
        self.history += scores
        # A phase's end has more episodes than the curve and a name of its own: two values at one step make a kink.
        agent.log_metrics(
            {
                name: value
                for s in scores
                for name, value in s.metrics("evaluation" if s.kind == "curve" else s.label.replace(" ", "_")).items()
            }
        )
        if trainer.is_global_zero:
            write_csv(self.history, Path(trainer.default_root_dir) / "evaluation.csv")

    def _behaviour(self) -> list[Score]:
        """The dataset's own episodes as one row, or none where their returns are not known."""
        if self._info is None or not len(self._info.episode_returns):
            return []
        returns = self._info.episode_returns
        return [score(returns, self._info, updates=0, kind="behaviour", label="behaviour (data)", member="")]

    def _baselines(self) -> list[Score]:
        """Scores to compare the policy with: those of the dataset's episodes, or of random actions."""
        return [*self._behaviour(), *(s for s in self.history if s.kind in BASELINES)]
