"""PPO: proximal policy optimisation, several passes of minibatches over what the policy just did.

Sources: Schulman et al. 2017, "Proximal Policy Optimization Algorithms" (https://arxiv.org/abs/1707.06347); Schulman et
al. 2016, "High-Dimensional Continuous Control Using Generalized Advantage Estimation"
(https://arxiv.org/abs/1506.02438), for the advantages.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch.distributed as dist
from torch import Tensor

from modules.agent.compiled import check_one_graph, compile_any_length
from modules.agent.descent import make_adam, set_learning_rate
from modules.agent.event_rewards import EventRewards
from modules.agent.on_policy import MakeCritic
from modules.agent.proximal_updates import Proximal, count_steps
from modules.arguments.checks import check_choice, check_positive, check_ranges, check_sizes
from modules.arguments.tunable import Change
from modules.batch import Spaces, StoredWindows
from modules.contracts import ReplayOffer
from modules.functional.schedules import bounded_schedule
from modules.networks.actors import DiscreteActor
from modules.networks.blocks import DenseStack
from modules.networks.encoders import Encoder
from modules.networks.make_actor import MakeContinuous, MakeDiscrete
from modules.networks.normal_actor import NormalActor
from modules.networks.perception import MakeEncoder
from modules.networks.trunks import Trunk
from modules.networks.value_heads import Head


class PPO(Proximal):
    """A policy and a value that learn in several passes from each batch of what the policy just did.

    An update is all that is learned from one batch of fresh windows `[B, T]`, of the replay LatestWindows. Advantages
    and targets are computed once, with the values as they are before it; a time-out is bootstrapped. Then each pass
    deals all steps of the batch to minibatches at random, and each minibatch is a step of Adam. The ratio is against
    the log-probabilities that were stored when the actions were taken.

    Args:
        spaces: announced by the datamodule.
        encoder: makes the network that reads observations, called with their spaces, `trunk` and `units`.
        trunk: makes dense networks from their widths of input and output: in the encoder, and the one behind it.
        units: width that each trunk gives.
        discrete: makes the policy where actions are numbers.
        continuous: makes the policy where actions are a box.
        critic: makes the value head. With the codec Normalized, as of `PopArtHead`, advantages are in units of its
            sigma.
        separate: whether the value has an encoder and a trunk of its own; by default it shares the policy's.
        task_key: key of the observation that tells the task as a one-hot vector, for a value head with an output per
            task; the policy sees it as all others.
        internal: rewards of events, which are learned from in place of the environment's; evaluations report the
            environment's.
        discount: discount factor gamma per step.
        lambda_: share of later errors in the generalised advantages; 1 sums all rewards of the window.
        passes: passes over the steps of a batch.
        minibatches: minibatches that each pass deals them to, of the same size give or take one.
        clip: distance from 1 that the ratio of the policies' probabilities may reach.
        value_clip: distance that a value may move from what it was, in units of the value head's prediction; None for
            any.
        target_kl: the steps on a batch end where the policy has moved by 1.5 times this, in nats; None for all passes.
        entropy: scale of the policy's entropy.
        critic_scale: weight of the value's loss, which is half a squared error.
        lr: Adam learning rate, or a schedule over updates, see `modules.functional.schedules.parse_schedule`.
        adam_eps: Adam's epsilon.
        clip_norm: Euclidean norm that the gradient is scaled down to.
        compile: `step` compiles a step on a minibatch as one graph.

    Raises:
        ValueError: the spaces are not of a kind that it can learn from or tell no events, `task_key` or `value_clip`
            does not fit the value head, or a number is out of range.
    """

    batch_source = "OnlineDataModule, for PPO learns from what it did itself"
    tunable: ClassVar[dict[str, Change]] = {
        **dict.fromkeys(("lr", "entropy", "critic_scale", "clip", "clip_norm", "internal.weights"), "scale"),
        **dict.fromkeys(("discount", "lambda_"), "horizon"),
        "passes": "whole",
    }

    def __init__(
        self,
        spaces: Spaces | None = None,
        encoder: MakeEncoder = Encoder,
        trunk: Trunk = DenseStack,
        units: int = 64,
        discrete: MakeDiscrete = DiscreteActor,
        continuous: MakeContinuous = NormalActor,
        critic: MakeCritic = Head,
        separate: bool = False,
        task_key: str | None = None,
        internal: EventRewards | None = None,
        discount: float = 0.99,
        lambda_: float = 0.95,
        passes: int = 10,
        minibatches: int = 4,
        clip: float = 0.2,
        value_clip: float | None = None,
        target_kl: float | None = None,
        entropy: float = 0.0,
        critic_scale: float = 1.0,
        lr: float | str = 3e-4,
        adam_eps: float = 1e-5,
        clip_norm: float = 0.5,
        compile: Literal["off", "step"] = "off",
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["spaces"])
        # Before any network is made, so that a mistake is named at once.
        check_choice("compile", compile, ("off", "step"))
        check_sizes(passes=passes, minibatches=minibatches)
        bounds = {"clip": clip, "value_clip": value_clip, "target_kl": target_kl}
        check_positive(**{name: value for name, value in bounds.items() if value is not None})
        check_ranges(
            ("discount", discount, 0.0, 1.0),
            ("lambda_", lambda_, 0.0, 1.0),
            ("entropy", entropy, 0.0, 1e12),
            ("critic_scale", critic_scale, 0.0, 1e12),
            ("adam_eps", adam_eps, 0.0, 1e3),
            ("clip_norm", clip_norm, 1e-12, 1e12),
        )
        self.keep_makers(encoder, trunk, units, discrete, continuous, critic, task_key, separate)
        self.internal = internal
        self.discount = discount
        self.lambda_ = lambda_
        self.passes = passes
        self.minibatches = minibatches
        self.clip = clip
        self.value_clip = value_clip
        self.target_kl = target_kl
        self.scales = {"policy": 1.0, "critic": critic_scale, "entropy": entropy}
        self.lr = bounded_schedule("lr", lr, 0.0, 1e3)
        check_one_graph(lr=None if compile == "off" else self.lr)
        self.adam_eps = adam_eps
        self.clip_norm = clip_norm
        self.compile_mode = compile
        self.build_for(spaces)

    def build(self, spaces: Spaces) -> None:
        self.build_networks(spaces)
        codec = self.critic.codec
        if self.value_clip is not None and not codec.squared:
            raise ValueError(
                f"value_clip: predictions of the codec {type(codec).__name__} are no values that could be held near "
                "others; leave it out, or take the codec Scalar or Normalized"
            )
        self.optimizer = make_adam(self.parameters(), self.lr(0), self.adam_eps)

    def compile_parts(self) -> None:
        self.step = compile_any_length(self.step)  # type: ignore[method-assign]

    # --------------------------------------------------------------------------------------------------------- batches
    def meet(self, replay: ReplayOffer | None) -> None:
        """See that batches hold every step of the present policy once, and enough of them.

        Raises:
            ValueError: they hold others, or fewer than there are minibatches.
        """
        super().meet(replay)
        if replay is None:
            return
        if not replay.fresh:
            raise ValueError(
                "PPO learns from what its present policy just did: set data.replay to "
                "datamodules.replay.sequences.LatestWindows"
            )
        world = dist.get_world_size() if dist.is_initialized() else 1
        if abs(replay.between / replay.steps - 1.0) > 1e-6:
            raise ValueError(
                f"data.updates_per_step: PPO learns from every step in one update, and a batch of all processes has "
                f"{world * replay.steps} steps: set it to {1.0 / (world * replay.steps)!r}, not "
                f"{1.0 / (world * replay.between):g}"
            )
        self._check_minibatches(replay.steps)

    def check_batch(self, batch: StoredWindows) -> None:
        super().check_batch(batch)
        self._check_minibatches(count_steps(batch))

    def _check_minibatches(self, steps: int) -> None:
        if steps < self.minibatches:
            raise ValueError(
                f"minibatches: {self.minibatches} are more than the {steps} steps of a batch; lengthen "
                "data.sequence_length, or ask for fewer"
            )

    # --------------------------------------------------------------------------------------------------------- update
    def noise_for(self, batch: StoredWindows) -> Tensor:
        """Set the learning rate, and draw the order of the `n` steps in each pass: int64 `[P, n]`."""
        set_learning_rate(self.optimizer, self.lr(self.updates))
        return self.draw_order(batch)
