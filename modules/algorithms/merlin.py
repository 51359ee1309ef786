"""MERLIN: a policy on an external memory, which is filled and read by a predictor of what will be seen.

Source: Wayne et al. 2018, "Unsupervised Predictive Memory in a Goal-Directed Agent" (https://arxiv.org/abs/1803.10760),
algorithm 1 and methods.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from modules.agent.agent import Agent
from modules.agent.descent import descend_clipped, make_adam, weighted_sum
from modules.arguments.checks import check_ranges, check_widths
from modules.arguments.tunable import Change
from modules.batch import PLAIN, SequenceBatch, Spaces, StoredWindows, by_key
from modules.contracts import ReplayOffer, Update
from modules.functional.recurrent_state import leaves_of, map_leaves, restart
from modules.functional.returns import discount_unless_terminal, generalised_advantages, vtrace
from modules.networks.actors import DiscreteActor, TruncatedNormalActor
from modules.networks.auxiliary_losses import collecting
from modules.networks.blocks import DenseStack
from modules.networks.make_actor import MakeContinuous, MakeDiscrete, check_makers, make_actor
from modules.networks.trunks import Trunk
from modules.networks.updates import set_noise
from modules.networks.value_codecs import Normalized
from modules.networks.value_heads import Head
from modules.world_model.memory_predictor import Filtered, MemoryPredictor, Recalled


class Carried(NamedTuple):
    """State that the agent carries from one step to the next.

    Attributes:
        recalled: state of the networks and the memory.
        action: `[B, ...]` last action.
        reward: `[B]` reward of that action.
        first: `[B]` bool, whether no action was taken yet.
        log_prob: `[B]` log-probability of the last action.
        noise: `[B, S]` that the latent was sampled with.
        weights: `[B, H, R]` weights with which each head read the memory, the policy's last; None without a memory.
    """

    recalled: Recalled
    action: Tensor
    reward: Tensor
    first: Tensor
    log_prob: Tensor
    noise: Tensor
    weights: Tensor | None


class MERLIN(Agent):
    """Memory, reinforcement learning and inference: a predictor with an external memory, and a policy that reads it.

    It learns from the windows that its present policy just played, every step once (`replay: LatestWindows`). A window
    begins with the state that the one before ended with: the agent keeps it, detached, one for each environment, and it
    is part of the checkpoint. With its rows the replay stores the noise of the latents, so that the learner comes to
    the same latents and the same memory as the policy that acted.

    Args:
        spaces: announced by the datamodule.
        predictor: makes the predictor, called with the spaces; its `memory: null` leaves the external memory out.
        trunk: makes the dense layers of policy and returns from their widths of input and output.
        units: width that they give.
        discrete: makes the policy where actions are numbers.
        continuous: makes the policy where actions are a box.
        critic: makes the value head of `V(z, log pi)`, as of A2C; with the codec Normalized, as of `PopArtHead`,
            advantages are in units of its sigma.
        prediction: whether the predictor learns by prediction, apart from the policy; without, latents are not sampled
            and all learns end to end from returns alone, as the paper's RL-MEM, and its RL-LSTM without a memory.
        discount: discount factor gamma per step.
        lambda_: share of later corrections in the advantages.
        entropy: scale of the policy's entropy.
        kl_scale: weight of the divergence of posterior and prior.
        observation_scale: weight of the observations' loss.
        action_scale: weight of the previous action's loss.
        reward_scale: weight of the previous reward's loss.
        return_scale: weight of the two losses of the return.
        lr: Adam learning rate.
        clip_norm: Euclidean norm that the gradient is scaled down to.

    Raises:
        ValueError: the spaces are not of a kind that it can learn from, or a number is out of range.
    """

    events = frozenset({"on_kl", "on_targets"})
    batch_type = StoredWindows
    tunable: ClassVar[dict[str, Change]] = {
        **dict.fromkeys(("lr", "entropy", "kl_scale", "observation_scale", "action_scale", "reward_scale"), "scale"),
        **dict.fromkeys(("return_scale", "clip_norm"), "scale"),
        **dict.fromkeys(("discount", "lambda_"), "horizon"),
    }
    batch_source = "OnlineDataModule with data.replay: datamodules.replay.sequences.LatestWindows"
    held_out_loss = None

    def __init__(
        self,
        spaces: Spaces | None = None,
        predictor: Callable[[Spaces], MemoryPredictor] = MemoryPredictor,
        trunk: Trunk = DenseStack,
        units: int = 200,
        discrete: MakeDiscrete = DiscreteActor,
        continuous: MakeContinuous = TruncatedNormalActor,
        critic: Callable[[int, int, Trunk], Head] = Head,
        prediction: bool = True,
        discount: float = 0.96,
        lambda_: float = 0.9,
        entropy: float = 0.01,
        kl_scale: float = 1.0,
        observation_scale: float = 1.0,
        action_scale: float = 1.0,
        reward_scale: float = 1.0,
        return_scale: float = 1.0,
        lr: float = 1e-4,
        clip_norm: float = 10.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["spaces"])
        # Before any network is made, so that a mistake is named at once.
        check_widths(units=units)
        scales = {"kl": kl_scale, "observation": observation_scale, "action": action_scale, "reward": reward_scale}
        scales |= {"return": return_scale, "entropy": entropy}
        check_ranges(
            ("discount", discount, 0.0, 1.0),
            ("lambda_", lambda_, 0.0, 1.0),
            *((name if name == "entropy" else f"{name}_scale", scale, 0.0, 1e12) for name, scale in scales.items()),
            ("lr", lr, 0.0, 1e3),
            ("clip_norm", clip_norm, 1e-12, 1e12),
        )
        self.make_predictor = predictor  # made in `build`, when the spaces are known
        self.make_trunk = trunk
        self.units = units
        self.make_policy = {"discrete": discrete, "continuous": continuous}
        self.make_critic = critic
        self.prediction = prediction
        self.discount = discount
        self.lambda_ = lambda_
        self.scales = scales
        self.lr = lr
        self.clip_norm = clip_norm
        self.ended: tuple[Recalled, Tensor] | None = None
        """State before the last row of the latest windows, and what is stored with that row."""
        self.build_for(spaces)

    def build(self, spaces: Spaces) -> None:
        check_makers(type(self), spaces.action, **self.make_policy)  # type: ignore[arg-type]
        self.predictor = self.make_predictor(spaces)
        latents, policy = self.predictor.latent.width, self.predictor.policy.width
        self.actor = make_actor(spaces.action, policy, self.make_trunk, self.units, **self.make_policy)  # type: ignore[arg-type]
        for network in (self.predictor, self.actor):  # values are the same in an update as where it acts
            set_noise(network, False)
        statistics = self.actor.output.out_features
        self.critic = self.make_critic(latents + statistics, self.units, self.make_trunk)
        self.gain = Head(latents + self.actor.width, self.units, self.make_trunk)
        self.stored_width = 1 + latents
        if not self.prediction:  # nothing would train them
            for part in (self.predictor.decoder, self.predictor.reward, self.predictor.action):
                part.requires_grad_(False)
        self.optimizer = make_adam([p for p in self.parameters() if p.requires_grad], self.lr)

    # -------------------------------------------------------------------------------------------------------- acting
    def initial_state(self, batch: int) -> Carried:
        recalled = self.predictor.initial(batch)
        nothing = recalled.z.new_zeros(batch)
        action = self.actor.decode(recalled.z.new_zeros(batch, self.actor.width))
        heads, rows = self.predictor.read_shape
        weights = recalled.z.new_zeros(batch, heads, rows) if heads else None
        return Carried(recalled, action, nothing, nothing == 0, nothing, torch.zeros_like(recalled.z), weights)

    @torch.no_grad()
    def act(
        self, observation: Tensor | dict[str, Tensor], state: Any = None, *, explore: bool
    ) -> tuple[Tensor, Carried]:
        """Actions for `[B, ...]` observations; without `explore` neither latents nor actions are drawn."""
        seen = {key: x.unsqueeze(0) for key, x in by_key(observation).items()}
        count = next(iter(seen.values())).shape[1]
        before: Carried = self.initial_state(count) if state is None else state
        action, reward, first = (x.unsqueeze(0) for x in before[1:4])
        unknown = torch.zeros_like(first)  # what only shows later
        noise = torch.zeros_like(before.noise)
        if explore and self.prediction:
            noise = self.predictor.latent.noise(count, device=noise.device)
        rows = SequenceBatch(seen, action, reward, first, unknown, unknown)
        filtered = self.predictor.unroll(rows, noise.unsqueeze(0), before.recalled)
        policy = self.actor(filtered.features[0])
        if explore:
            chosen = self.actor.sample(policy, self.actor.noise(count, device=self.device))
        else:
            chosen = self.actor.mode(policy)
        taken = self.actor.decode(chosen)
        log_prob = self.actor.log_prob(policy, self.actor.encode(taken))
        weights = None if filtered.weights is None else filtered.weights[0]
        nothing = torch.zeros_like(before.reward)
        return taken, Carried(filtered.state, taken, nothing, torch.zeros_like(before.first), log_prob, noise, weights)

    def rewarded(self, state: Carried, reward: Tensor) -> Carried:
        return state._replace(reward=reward)

    def acted(self, state: Carried, action: Tensor) -> Carried:
        return state._replace(action=action)

    def stored_state(self, state: Carried) -> Tensor:
        """Log-probability of the action and noise of the latent, `[B, 1 + S]`."""
        return torch.cat([state.log_prob.unsqueeze(-1), state.noise], -1)

    @property
    def has_memory(self) -> bool:
        """Whether there is an external memory."""
        return self.predictor.external is not None

    def read_weights(self, state: Carried) -> Tensor:
        """Weights of the rows that each head read in the latest step, the policy's last, `[B, H, R]`."""
        assert state.weights is not None, "there is a memory"
        return state.weights

    # -------------------------------------------------------------------------------------------------------- update
    def meet(self, replay: ReplayOffer | None) -> None:
        """See that windows are fresh, and short enough for the memory.

        Raises:
            ValueError: they are not.
        """
        super().meet(replay)
        if replay is None or not replay.fresh:
            raise ValueError(
                f"MERLIN learns from each window that it plays, in their order: give it {self.batch_source}"
            )
        if self.predictor.external is not None:
            self.predictor.external.check_length(replay.rows)

    def noise_for(self, batch: StoredWindows) -> Tensor:
        """`[T, B, S]` for latents that no action followed; zeros where they are not sampled."""
        shape = (*batch.stored.shape[:2], self.predictor.latent.width)
        if not self.prediction:
            return batch.stored.new_zeros(shape)
        return self.predictor.latent.noise(*shape[:2], device=batch.stored.device)

    def learn(self, batch: StoredWindows, noise: Tensor) -> Update:
        rows, stored = batch.sequence, batch.stored
        valid = ~rows.is_first[1:]  # transitions `[T - 1, B]`, each in the place of the row that it starts from
        noise[:-1] = torch.where(valid.unsqueeze(-1), stored[1:, :, 1:], noise[:-1])
        start, continued = self._start(rows, stored)
        body = rows.between(0, -1)
        with collecting(self) as auxiliary:
            seen = self.predictor.unroll(body, noise[:-1], start, apart=self.prediction)
            policy = self.actor(seen.features)
        ahead = map_leaves(lambda x: x.detach() if isinstance(x, Tensor) else x, seen.state)
        self.ended = (ahead, stored[-1])
        taken = self.actor.encode(rows.previous_action[1:]) * valid.unsqueeze(-1)
        present = self.actor.log_prob(policy, taken)
        # Returns of the window, bootstrapped with the value of its last row, and advantages.
        given = torch.cat([seen.z, policy.detach()], -1)  # where the value sees the policy, it does not move it
        with torch.no_grad():
            last = self.predictor.unroll(rows.between(-1), noise[-1:], ahead)
            value = self._values(torch.cat([given, torch.cat([last.z, self.actor(last.features)], -1)]))
            rho = torch.where(valid, (present - stored[1:, :, 0]).exp(), 0.0)
            discount = valid * discount_unless_terminal(self.discount, rows.terminated[1:])
            returns, targets = (vtrace(rows.reward[1:], discount, value, rho, share) for share in (1.0, self.lambda_))
            advantage = generalised_advantages(value, targets)
        metrics = self.announce("on_targets", (self.critic,), returns, valid, None) or {}

        # From here on the value head may be another one, which gives the same values.
        unit = self.critic.codec.sigma[0].float() if isinstance(self.critic.codec, Normalized) else 1.0
        with auxiliary:
            prediction = self.critic(given)
            gain = self.gain.mean(self.gain(torch.cat([seen.z, taken], -1)))
        entropy = self.actor.entropy(policy)
        terms = {"policy": -present * advantage / unit, "entropy": -entropy}
        terms["value"] = self.critic.loss(prediction, returns)
        terms["gain"] = 0.5 * ((returns - value[:-1]) / unit - gain).square()
        losses = {name: (term * valid).mean() for name, term in terms.items()}  # the same weights on every rank
        weights = {"policy": 1.0, "entropy": self.scales["entropy"]}
        weights |= dict.fromkeys(("value", "gain"), self.scales["return"])
        if self.prediction:
            found, told = self._prediction_losses(body, seen)
            losses, metrics = losses | found, metrics | told
            weights |= {name: self.scales[name.partition("/")[0]] for name in found}
        loss = weighted_sum(losses | auxiliary.losses, weights | auxiliary.weights)
        norm = descend_clipped(self.optimizer, loss, self.clip_norm)
        metrics |= {f"{name}_loss": x.detach() for name, x in (losses | auxiliary.losses).items() if name != "entropy"}
        share = valid.float().mean().clamp_min(1e-9)
        means = {"entropy": entropy.detach(), "return": returns, "rho": rho}
        metrics |= {name: (x * valid).mean() / share for name, x in means.items()}
        if seen.weights is not None:
            metrics["read_entropy"] = -(seen.weights * seen.weights.clamp_min(1e-12).log()).sum(-1).mean()
        return Update(metrics | {"norm": norm, "continued": continued})

    def _start(self, rows: SequenceBatch, stored: Tensor) -> tuple[Recalled, Tensor]:
        """The state before the first row, and the share of windows of which it is known.

        Where a window does not begin with the row that the one before ended at, its past is unknown and counts as none.
        """
        fresh = self.predictor.initial(stored.shape[1])
        known = rows.is_first[0]
        if self.ended is None or len(self.ended[1]) != stored.shape[1]:
            return fresh, known.float().mean()
        state, row = self.ended
        same = (row == stored[0]).all(-1)  # its noise names it
        return restart(state, fresh, ~same), (same | known).float().mean()

    def _values(self, given: Tensor) -> Tensor:
        return self.critic.mean(self.critic(given))

    def _prediction_losses(self, rows: SequenceBatch, seen: Filtered) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses of what is predicted of each row from its latent, and metrics."""
        predictor, there = self.predictor, ~rows.is_first
        means = predictor.decoder(seen.z.flatten(0, 1))
        errors = predictor.decoder.losses(means, predictor.perception.prepare(rows.observation))
        losses = {PLAIN if key == PLAIN else f"{PLAIN}/{key}": error.mean() for key, error in errors.items()}
        action = predictor.action.encode(rows.previous_action) * there.unsqueeze(-1)
        losses["action"] = (-predictor.action.log_prob(predictor.action(seen.z), action) * there).mean()
        losses["reward"] = (predictor.reward.loss(predictor.reward(seen.z), rows.reward) * there).mean()
        # The divergence, as a callback mixes its two terms, or as it stands in the bound.
        answer = self.announce("on_kl", *predictor.latent.kl(seen.posterior, seen.prior))
        divergence = predictor.latent.divergence(seen.posterior, seen.prior).mean()
        losses["kl"] = divergence if answer is None else answer[0]
        return losses, {"kl": divergence.detach()} | ({} if answer is None else answer[1])

    # ------------------------------------------------------------------------------------------------- exact resume
    def rank_state(self) -> dict[str, Any]:
        """The state that the next windows begin with."""
        return {} if self.ended is None else {"ended": [x for x in leaves_of(self.ended) if isinstance(x, Tensor)]}

    def load_rank_state(self, state: Any) -> None:
        self.ended = None
        if "ended" in state:
            *_, row = tensors = [x.to(self.device) for x in state["ended"]]
            form = (self.predictor.initial(len(row)), row)
            given = iter(tensors)
            self.ended = map_leaves(lambda x: next(given) if isinstance(x, Tensor) else x, form)
