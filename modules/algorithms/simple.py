"""SimPLe: a policy learns by PPO inside a model of the next frame, which learns from what the policy did.

Source: Kaiser et al. 2020, "Model-Based Reinforcement Learning for Atari" (https://arxiv.org/abs/1903.00374); constants
of github.com/tensorflow/tensor2tensor, `rlmb_base_stochastic_discrete`. Differences: an episode may end inside the
model, which foresees it; as many games are imagined at once as are asked for, and each starts in another real frame.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from modules.agent.descent import descend_clipped, make_adam, set_learning_rate, weighted_sum
from modules.agent.on_policy import MakeCritic
from modules.agent.proximal_updates import Proximal, count_steps
from modules.arguments.checks import check_positive, check_ranges, check_sizes
from modules.batch import SequenceBatch, Spaces, StoredWindows, brief
from modules.contracts import ReplayOffer, Update
from modules.functional.schedules import bounded_schedule
from modules.networks.actors import DiscreteActor
from modules.networks.blocks import DenseStack
from modules.networks.encoders import Encoder
from modules.networks.make_actor import MakeContinuous, MakeDiscrete
from modules.networks.normal_actor import NormalActor
from modules.networks.perception import MakeEncoder
from modules.networks.trunks import Trunk
from modules.networks.value_heads import Head
from modules.networks.video_model import Clip, MakeVideoModel, last_frames, whole_context
from modules.networks.video_unet import VideoUNet

RANGES = {
    "model_lr": (0.0, 1e3),
    "model_clip_norm": (1e-12, 1e12),
    "discount": (0.0, 1.0),
    "lambda_": (0.0, 1.0),
    "entropy": (0.0, 1e12),
    "critic_scale": (0.0, 1e12),
    "adam_eps": (0.0, 1e3),
    "clip_norm": (1e-12, 1e12),
}
"""The least and the largest value of arguments that are single numbers."""


class Foresight(NamedTuple):
    """Windows of which the model sees the beginning, and foresees the rest.

    Attributes:
        observation: `[T, B, ...]` float32 by key, images in [0, 255]; recorded ones as far as the model sees.
        reward: `[T, B]`, likewise.
    """

    observation: dict[str, Tensor]
    reward: Tensor


class SimPLe(Proximal):
    """A policy that learns from short games which a video model plays on from real frames.

    Updates come in cycles: `model_updates` of the model, each on a batch of real windows; then `policy_updates` of the
    policy, each of all passes of PPO over games of `horizon` steps that the model imagines under the present policy.
    Real steps come before a cycle, all at once, where the data's `block` says so. The agent acts by the policy alone.

    Rewards are learned and foreseen by their sign. Where a game ends early nothing follows; at the horizon the value is
    bootstrapped.

    Args:
        spaces: announced by the datamodule; the observation is one image.
        video: makes the model of the next frame, called with the space of a frame and the width of an action.
        encoder: makes the network that reads observations, called with their spaces, `trunk` and `units`.
        trunk: makes dense networks from their widths of input and output: in the encoder, and the one behind it.
        units: width that each trunk gives.
        discrete: makes the policy where actions are numbers.
        continuous: makes the policy where actions are a box.
        critic: makes the value head.
        model_updates: updates of the model in each cycle.
        policy_updates: updates of the policy in each cycle, behind those of the model.
        own: share of the frames that the model looks back at while it learns which are its own predictions, or a
            schedule over updates of the model.
        model_lr: Adam learning rate of the model.
        model_clip_norm: Euclidean norm that the model's gradient is scaled down to.
        games: games that are imagined for an update of the policy.
        horizon: steps of each.
        random_starts: whether games start in any real frame; otherwise in first frames of episodes alone, as far as the
            batch has any.
        discount: discount factor gamma per step.
        lambda_: share of later errors in the generalised advantages.
        passes: passes over the steps of an update of the policy.
        minibatches: minibatches that each pass deals them to.
        clip: distance from 1 that the ratio of the policies' probabilities may reach.
        entropy: scale of the policy's entropy.
        critic_scale: weight of the value's loss, which is half a squared error.
        lr: Adam learning rate of policy and value, or a schedule over updates.
        adam_eps: Adam's epsilon, of both.
        clip_norm: Euclidean norm that the gradient of policy and value is scaled down to.

    Raises:
        ValueError: observations are no single image, or a number is out of range.
    """

    batch_type = SequenceBatch
    stored_width = 0
    batch_source = "OnlineDataModule"
    reward_transform = staticmethod(torch.sign)

    def __init__(
        self,
        spaces: Spaces | None = None,
        video: MakeVideoModel = VideoUNet,
        encoder: MakeEncoder = Encoder,
        trunk: Trunk = DenseStack,
        units: int = 64,
        discrete: MakeDiscrete = DiscreteActor,
        continuous: MakeContinuous = NormalActor,
        critic: MakeCritic = Head,
        model_updates: int = 15_000,
        policy_updates: int = 1000,
        own: float | str = "warmup(40000, 1)",
        model_lr: float = 1e-3,
        model_clip_norm: float = 1.0,
        games: int = 16,
        horizon: int = 50,
        random_starts: bool = True,
        discount: float = 0.99,
        lambda_: float = 0.95,
        passes: int = 3,
        minibatches: int = 4,
        clip: float = 0.1,
        entropy: float = 0.01,
        critic_scale: float = 1.0,
        lr: float | str = 1e-4,
        adam_eps: float = 1e-5,
        clip_norm: float = 0.5,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["spaces"])
        # Before any network is made, so that a mistake is named at once.
        check_sizes(model_updates=model_updates, policy_updates=policy_updates, games=games, horizon=horizon)
        check_sizes(passes=passes, minibatches=minibatches)
        check_positive(clip=clip)
        check_ranges(*((name, self.hparams[name], *bounds) for name, bounds in RANGES.items()))
        if games < minibatches:
            raise ValueError(f"minibatches: {minibatches} are more than the {games} games that may be one step long")
        self.keep_makers(encoder, trunk, units, discrete, continuous, critic, task_key=None)
        self.make_video = video
        self.model_updates = model_updates
        self.policy_updates = policy_updates
        self.own = bounded_schedule("own", own, 0.0, 1.0)
        self.model_lr = model_lr
        self.model_clip_norm = model_clip_norm
        # Games inside it, and what is learned from them.
        self.games = games
        self.horizon = horizon
        self.random_starts = random_starts
        self.discount = discount
        self.lambda_ = lambda_
        self.passes = passes
        self.minibatches = minibatches
        self.clip = clip
        self.scales = {"policy": 1.0, "critic": critic_scale, "entropy": entropy}
        self.lr = bounded_schedule("lr", lr, 0.0, 1e3)
        self.adam_eps = adam_eps
        self.clip_norm = clip_norm
        self.build_for(spaces)

    def build(self, spaces: Spaces) -> None:
        parts = spaces.observations_by_key()
        if len(parts) != 1:
            raise ValueError(
                f"SimPLe foresees one image, and the observation has {len(parts)} parts, got "
                f"{brief(spaces.observation)}; name the image alone in data.observation_keys"
            )
        ((self.key, space),) = parts.items()
        self.build_networks(spaces)
        self.optimizer = make_adam(self.parameters(), self.lr(0), self.adam_eps)
        self.video = self.make_video(space, self.actor.width)
        self.model_optimizer = make_adam(self.video.parameters(), self.model_lr, self.adam_eps)

    # --------------------------------------------------------------------------------------------------------- batches
    def meet(self, replay: ReplayOffer | None) -> None:
        """See that windows have rows behind those that the model only looks at.

        Raises:
            ValueError: they are too short, or no windows.
        """
        super().meet(replay)
        if replay is not None:
            self._check_rows(replay.rows)

    def check_batch(self, batch: SequenceBatch) -> None:  # type: ignore[override]
        self._check_rows(len(batch.reward))

    def _check_rows(self, rows: int) -> None:
        if rows <= self.video.context:
            raise ValueError(
                f"data.sequence_length: {rows} rows are no more than the {self.video.context} frames that the model "
                "looks back at; lengthen it"
            )

    # --------------------------------------------------------------------------------------------------------- updates
    @property
    def place(self) -> tuple[int, int]:
        """Number of whole cycles so far, and of updates in the present one."""
        return divmod(self.updates, self.model_updates + self.policy_updates)

    @property
    def learner(self) -> str:
        """`model` or `policy`, which of the two the next update is for."""
        return "model" if self.place[1] < self.model_updates else "policy"

    def noise_for(self, batch: SequenceBatch) -> Tensor | None:  # type: ignore[override]
        """The share of own frames where the model learns; None where the policy does, whose learning rate is set."""
        cycles, within = self.place
        if self.learner == "policy":
            set_learning_rate(self.optimizer, self.lr(self.updates))
            return None
        return torch.tensor(self.own(cycles * self.model_updates + within), device=batch.reward.device)

    def learn(self, batch: SequenceBatch, own: Tensor | None = None) -> Update:  # type: ignore[override]
        """An update of the model on real windows, or one of the policy on games that start in them."""
        if own is not None:
            return Update(self.learn_model(batch, own))
        games = self.imagine(batch)
        played = count_steps(games) / self.games
        outcome = super().learn(games, self.draw_order(games))
        reward = games.sequence.reward.sum(0).mean()
        return Update(outcome.metrics | {"imagined_return": reward, "imagined_steps": reward.new_tensor(played)})

    def learn_model(self, batch: SequenceBatch, own: Tensor) -> dict[str, Tensor]:
        """One step of Adam of the model on real windows; returns metrics."""
        terms, metrics = self.video.losses(self.clip_of(batch), own)
        loss = weighted_sum(terms, dict.fromkeys(terms, 1.0))
        norm = descend_clipped(self.model_optimizer, loss, self.model_clip_norm)
        told = {f"{name}_loss": term.detach() for name, term in terms.items()} | metrics
        return {f"model/{name}": value for name, value in (told | {"norm": norm, "own": own}).items()}

    def clip_of(self, batch: SequenceBatch) -> Clip:
        """Windows as the model sees them."""
        action = self.actor.encode(batch.previous_action) * ~batch.is_first.unsqueeze(-1)
        reward = self.reward_transform(batch.reward)
        return Clip(batch.observation[self.key], action, reward, batch.terminated, batch.is_first)

    # ----------------------------------------------------------------------------------------------------- imagination
    def starts(self, batch: SequenceBatch) -> Tensor:
        """Last frames of real rows that games go on from, drawn at random with replacement: `[context, G, H, W, C]`.

        Rows at which an episode ended are none, nor those of whose last frames the window lacks some.
        """
        context = self.video.context
        frames = last_frames(batch.observation[self.key], batch.is_first, context).flatten(1, 2)
        usable = (whole_context(batch.is_first, context) & ~batch.terminated & ~batch.truncated).flatten()
        first = usable & batch.is_first.flatten()
        # Where there are none of those that are wanted, any others: no shape may depend on what is found.
        weight = (1.0 if self.random_starts else 1e-6) * usable.float() + first.float() + 1e-12
        return frames[:, torch.multinomial(weight, self.games, replacement=True)]

    @torch.no_grad()
    def imagine(self, batch: SequenceBatch) -> StoredWindows:
        """Games of `horizon` steps under the present policy, `[H + 1, G]`; rows behind an end are first ones."""
        frames = self.starts(batch)
        state, frame, games = self.video.begin(frames), frames[-1], self.games
        nothing = torch.zeros(games, device=frame.device)
        over = torch.zeros(games, dtype=torch.bool, device=frame.device)
        action, _ = self.act({self.key: frame}, None, explore=False)
        rows = [(frame, torch.zeros_like(action), nothing, ~over, over, nothing)]
        for _ in range(self.horizon):
            action, log_prob = self.act({self.key: frame}, None, explore=True)
            assert isinstance(log_prob, Tensor)  # it has no memory
            noise = torch.rand(games, self.video.d_noise, device=frame.device)
            state, frame, reward, ended = self.video.step(state, self.actor.encode(action), noise)
            rows.append((frame, action, torch.where(over, 0.0, reward), over, ended & ~over, log_prob))
            over = over | ended
        frame, action, reward, is_first, terminated, log_prob = (torch.stack(x) for x in zip(*rows, strict=True))
        cut = torch.zeros_like(terminated)
        sequence = SequenceBatch({self.key: frame}, action, reward, is_first, terminated, cut)
        return StoredWindows(sequence, log_prob.unsqueeze(-1))

    @torch.no_grad()
    def open_loop(self, batch: SequenceBatch, context: int) -> Foresight:
        """`[T, B]` windows as the model foresees them from their first `context` rows and all actions."""
        clip, seen = self.clip_of(batch), slice(None, context)
        frames, rewards = list(clip.frame[seen].float()), list(clip.reward[seen])
        state = self.video.begin(last_frames(clip.frame[seen], clip.is_first[seen], self.video.context)[:, -1])
        for action in clip.action[context:]:
            noise = torch.rand(len(action), self.video.d_noise, device=action.device)
            state, frame, reward, _ = self.video.step(state, action, noise)
            frames.append(frame.float())
            rewards.append(reward)
        return Foresight({self.key: torch.stack(frames)}, torch.stack(rewards))
