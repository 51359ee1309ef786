"""MuZero: a model of rewards, values and policies alone, and a tree search in it, which acts and says what to learn.

Sources: Schrittwieser et al. 2020 (https://arxiv.org/abs/1911.08265); Gumbel MuZero, Danihelka et al. 2022
(https://openreview.net/forum?id=bERaNdoegnO); Sampled MuZero, Hubert et al. 2021 (https://arxiv.org/abs/2104.06303);
Reanalyse, Schrittwieser et al. 2021 (https://arxiv.org/abs/2104.06294); EfficientZero, Ye et al. 2021
(https://arxiv.org/abs/2111.00210). They are one agent with other arguments.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from modules.agent.action_masks import ActionMask
from modules.agent.agent import Agent
from modules.agent.augmentation import MakeAugmentation
from modules.agent.beliefs import NONE, Prepared, about_horizons, about_policies, acted_on, beliefs, prepare
from modules.agent.compiled import check_one_graph
from modules.agent.descent import descend_clipped, make_adam, set_learning_rate, weighted_sum
from modules.agent.planning import Planner, ReactivePolicy, check_uncertainty, record_width
from modules.agent.saturation import Learned, Saturation
from modules.arguments.checks import check_choice, check_group, check_ranges, check_sizes
from modules.batch import PrioritizedSequences, SequenceBatch, Spaces, by_key
from modules.contracts import CountsHeldOut, Feedback, ReplayOffer, Update
from modules.functional.planning_targets import NStep, ValueTarget
from modules.functional.schedules import bounded_schedule
from modules.functional.unrolled import masks, over_steps, prefix_targets
from modules.networks.action_slots import MakeSlots, make_slots
from modules.networks.auxiliary_losses import collecting
from modules.networks.consistency import Consistency
from modules.networks.ensemble import follow
from modules.networks.updates import set_noise
from modules.networks.value_ensemble import losses_of, variances_of
from modules.search.rules import PUCT
from modules.search.settings import SearchSettings
from modules.world_model.latent_model import LatentModel, PlanningModel


@dataclass(frozen=True)
class LossWeights:
    """Weight of each loss.

    Args:
        policy: cross-entropy of the policy with what searches found.
        value: of values with their targets; 1 in MuZero, 0.25 in Reanalyse and EfficientZero.
        reward: of rewards, or of sums of them.
        consistency: of the angle between foreseen and seen latents; 0 in MuZero, 2 in EfficientZero.
        entropy: of the policy's entropy, which is kept up.

    Raises:
        ValueError: a field is of another type or negative; it is named as `weights.value` and so on.
    """

    policy: float = 1.0
    value: float = 0.25
    reward: float = 1.0
    consistency: float = 0.0
    entropy: float = 0.0

    def __post_init__(self) -> None:
        """Refuse weights that are negative."""
        check_group("weights", self)
        check_ranges(*((f"weights.{field.name}", getattr(self, field.name), 0.0, 1e12) for field in fields(self)))


class MuZero(Agent):
    """Acts by searches in a model that it learns, and learns the policies and values that they find.

    Batches are `PrioritizedSequences` of `unroll + n + 1` rows and more without a burn-in, with what the agent stored
    with each row: policy and value of its search, the probability of its action, and drawn actions.

    Args:
        spaces: announced by the datamodule.
        model: makes the model, called with the spaces.
        slots: makes the slots of a node, called with the model's policy; None for the kind that fits its actions.
        search: how the agent searches, in the environment and anew.
        temperature: of pUCT's choice of action instead of the rule's own, a number or a schedule over updates, such as
            `linear(1, 0.25, 6000)`; None for the rule's.
        value_target: makes the targets of values.
        unroll: steps `U` that the model is unrolled in an update.
        discount: factor per step.
        two_player: two players move in turn, and what is good for one is as bad for the other.
        absorbing: whether values and rewards behind a terminal state are learned as 0 (MuZero), or not (EfficientZero).
        reanalyse: share of the sequences of a batch whose first `U + 1` rows are searched anew, by the target model.
        target_period: number of updates between two copies of the model into the target model.
        weights: of the losses.
        consistency: makes the loss of the angle between foreseen and seen latents, called with the width of a latent;
            there is none where its weight is 0.
        mask_key: observation that says by numbers that are not 0 which of the Discrete actions may be taken, if there
            is one of this name.
        augmentation: makes what changes the sequences that are learned from, images or boards; None for nothing.
        lr: Adam learning rate, a number or a schedule over updates, such as `cosine(1e-3, 1e-4, 6000)`.
        weight_decay: share of every weight that is lost in an update, times the learning rate.
        clip_norm: Euclidean norm that the gradient is scaled down to.
        compile: `update` compiles an update as one graph, `search` all searches, which are no part of it; `both` both.

    Raises:
        ValueError: the spaces are not of a kind that it can learn from, the slots or the mask do not fit the actions,
            something would be ignored or is not known, or a number is out of range.
    """

    events = frozenset({"on_targets"})
    batch_type = PrioritizedSequences
    batch_source = (
        "OnlineDataModule or OfflineSequenceDataModule with replay: datamodules.replay.prioritized.PrioritizedReplay"
    )
    remembers = False  # its state is there for the replay alone
    stored_optional = True
    held_out_loss = None

    def __init__(
        self,
        spaces: Spaces | None = None,
        model: Callable[[Spaces], PlanningModel] = LatentModel,
        slots: MakeSlots | None = None,
        search: SearchSettings = SearchSettings(),
        temperature: float | str | None = None,
        value_target: Callable[[], ValueTarget] = NStep,
        unroll: int = 5,
        discount: float = 0.997,
        two_player: bool = False,
        absorbing: bool = False,
        reanalyse: float = 0.0,
        target_period: int = 200,
        weights: LossWeights = LossWeights(),
        consistency: Callable[[int], Consistency] = Consistency,
        mask_key: str = "action_mask",
        augmentation: MakeAugmentation | None = None,
        lr: float | str = 1e-3,
        weight_decay: float = 1e-4,
        clip_norm: float = 5.0,
        compile: Literal["off", "update", "search", "both"] = "off",
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["spaces"])
        # Before any network is made, so that a mistake is named at once.
        check_choice("compile", compile, ("off", "update", "search", "both"))
        check_sizes(unroll=unroll, target_period=target_period)
        check_ranges(
            ("discount", discount, 0.0, 1.0),
            ("reanalyse", reanalyse, 0.0, 1.0),
            ("weight_decay", weight_decay, 0.0, 1e3),
            ("clip_norm", clip_norm, 1e-12, 1e12),
        )
        if temperature is not None and not isinstance(search.rule, PUCT):
            raise ValueError("temperature would be ignored: of the rules only modules.search.rules.PUCT has one")
        self.make_model = model  # made in `build`, when the spaces are known
        self.make_slots = slots or make_slots
        self.make_consistency = consistency
        self.search = search
        self.temperature = None if temperature is None else bounded_schedule("temperature", temperature, 0.0, 1e6)
        self.value_target = value_target()
        self.unroll = unroll
        self.discount = -discount if two_player else discount
        self.absorbing = absorbing
        self.reanalyse = reanalyse
        self.target_period = target_period
        self.weights = weights
        self.lr = bounded_schedule("lr", lr, 0.0, 1e3)
        self.compile_mode = "update" if compile in ("update", "both") else "off"
        self.compiles_search = compile in ("search", "both")
        check_one_graph(lr=None if self.compile_mode == "off" else self.lr)
        check_one_graph(temperature=self.temperature if self.compiles_search else None)
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.mask_key = mask_key
        self.make_augmentation = augmentation
        self.writes_back = False  # `meet` says whether the replay takes records that are made anew
        self.build_for(spaces)

    def build(self, spaces: Spaces) -> None:
        self.mask = ActionMask(spaces, self.mask_key)
        self.augmentation = None if self.make_augmentation is None else self.make_augmentation(self.mask)
        self.model = self.make_model(self.mask.seen)
        set_noise(self.model, False)  # its predictions are the same in an update as where it acts
        check_uncertainty(self.model, self.search)
        self.target_model = copy.deepcopy(self.model).requires_grad_(False)
        self.consistency = self.make_consistency(self.model.width) if self.weights.consistency else None
        self.slots = self.make_slots(self.model.actor)
        self.planner = Planner(self.model, self.slots, self.discount, self.compiles_search)
        self.target_planner = Planner(self.target_model, self.slots, self.discount, self.compiles_search)
        self.stored_width = record_width(self.slots)
        learned = [self.model] if self.consistency is None else [self.model, self.consistency]
        self.optimizer = make_adam([p for part in learned for p in part.parameters()], self.lr(0))
        self.saturation = Saturation("value", "reward")
        self._told_of_search = False

    def check_run(self, trainer: Trainer, data: object) -> None:
        super().check_run(trainer, data)
        if isinstance(data, CountsHeldOut) and not self.reanalyse:  # recorded data alone
            raise ValueError("recorded rows were never searched: with reanalyse 0 no policy is learned; set it to 1")

    def meet(self, replay: ReplayOffer | None) -> None:
        """See that the replay hands out sequences that are long enough, and whether it takes records made anew.

        Raises:
            ValueError: it has no prioritised sequences, or such as cannot be learned from.
        """
        if replay is None or not replay.prioritized:
            raise ValueError(f"MuZero learns from prioritised sequences: give it data of the class {self.batch_source}")
        if replay.burn_in:
            raise ValueError(
                f"MuZero has no memory to warm up: set data.replay.init_args.burn_in to 0, not {replay.burn_in}"
            )
        self._check_sequences(replay.rows, replay.stored)
        if replay.refreshed and not self.reanalyse:
            raise ValueError(
                "refresh_states: with reanalyse 0 nothing is searched anew; switch it off, or raise reanalyse"
            )
        self.writes_back = replay.refreshed

    def _check_sequences(self, rows: int, stored: bool) -> None:
        if not stored:
            raise ValueError("MuZero learns what its searches found: set data.replay.init_args.stored_rows to true")
        least = self.unroll + self.value_target.steps + 1
        if rows < least:
            raise ValueError(
                f"a sequence of {rows} rows is too short for unroll {self.unroll} and a value target that looks "
                f"{self.value_target.steps} rows ahead: set data.sequence_length to {least - 1} or more"
            )

    # -------------------------------------------------------------------------------------------------------- acting
    def initial_state(self, batch: int) -> Tensor:
        return torch.zeros(batch, self.stored_width, device=self.device)

    @torch.no_grad()
    def act(
        self, observation: Tensor | dict[str, Tensor], state: Any = None, *, explore: bool
    ) -> tuple[Tensor, Tensor]:
        """Actions of searches from `[B, ...]` observations; the state that it returns is their record, `[B, W]`.

        A row in which no action may be taken is that of a game that is over: its action means nothing.
        """
        seen = by_key(observation)
        valid = self.mask.valid(seen)
        finished = None if valid is None else ~valid.any(-1)
        action, record, found = self.planner.plan(seen, self.settings, explore=explore, valid=valid, finished=finished)
        if not self._told_of_search and bool(found.failed.any()):
            self._told_of_search = True
            rank_zero_warn("the model gave NaN or infinity in a search: training diverges; lower the learning rate")
        return self.model.actor.decode(action), record.pack()

    @property
    def settings(self) -> SearchSettings:
        """Those of the search, at the temperature of the moment."""
        rule = self.search.rule
        if self.temperature is None or not isinstance(rule, PUCT):
            return self.search
        return replace(self.search, rule=replace(rule, temperature=self.temperature(self.updates)))

    def stored_state(self, state: Tensor) -> Tensor:
        return state

    def policy(self, member: int = 0) -> nn.Module:
        return copy.deepcopy(ReactivePolicy(self.model, self.mask))

    @torch.no_grad()
    def latents(self, batch: SequenceBatch, steps: int) -> Tensor:
        """Those of the model, `[steps + 1, T, B, D]`, seen and foreseen in `[T, B]` windows."""
        return self.model.foreseen(batch, steps)

    # -------------------------------------------------------------------------------------------------------- update
    def check_batch(self, batch: PrioritizedSequences) -> None:
        """Refuse sequences without the records of this agent, too short ones, and masks that allow nothing."""
        self._check_sequences(len(batch.padding), batch.stored is not None)
        assert batch.stored is not None
        if (width := batch.stored.shape[-1]) != self.stored_width:
            raise ValueError(f"stored records have a width of {width}, the agent's {self.stored_width}")
        self.mask.check(batch.sequence.observation, batch.padding)

    def noise_for(self, batch: PrioritizedSequences) -> Prepared:
        """Set the learning rate, search a share of first rows anew, draw changes of images and actions behind ends."""
        set_learning_rate(self.optimizer, self.lr(self.updates))
        parts = self.settings, self.unroll, self.mask, self.augmentation, self.absorbing
        return prepare(batch, self.updates, round(self.reanalyse * len(batch.weight)), self.target_planner, *parts)

    def learn(self, batch: PrioritizedSequences, prepared: Prepared) -> Update:
        """One step on the losses of all unrolled rows; priorities, and records made anew, go back to the replay."""
        model, rows, unroll = self.model, batch.sequence, self.unroll
        believed = beliefs(batch, prepared, self.target_planner, self.value_target, unroll, self.mask)
        record = believed.record
        if self.augmentation is not None and prepared.draws is not None:
            rows, record = self.augmentation.changed(rows, record, prepared.draws, unroll)
        if prepared.others is not None:
            rows = acted_on(rows, batch.padding, prepared.others)
        counted = masks(rows.terminated, batch.padding, unroll, absorbing=self.absorbing)
        heads = model.value_head, self.target_model.value_head
        answer = self.announce("on_targets", heads, believed.value, counted.value, None)

        # From here on the heads may have other statistics, which give the same values.
        with collecting(model) as auxiliary:
            latents, rewards = self.planner.unrolled(rows, unroll)
            stats, values = model.predict(latents)
        summed = prefix_targets(rows.reward[: unroll + 1], model.horizon)[1:]
        losses = {
            "policy": -(record.policy * self.slots.log_prob(stats, record.actions)).sum(-1) * counted.policy,
            "value": losses_of(model.value_head, values, believed.value, batch.episode) * counted.value,
            "reward": losses_of(model.reward_head, rewards, summed, batch.episode) * counted.reward,
            "entropy": -model.actor.entropy(stats) * counted.policy,
        }
        if self.consistency is not None:
            seen = {key: x[1 : unroll + 1].flatten(0, 1) for key, x in rows.observation.items()}
            with torch.no_grad():
                there = model.represent(seen).view_as(latents[1:])
            losses["consistency"] = self.consistency(latents[1:], there) * ~batch.padding[1 : unroll + 1]
        terms = {name: (batch.weight * over_steps(loss, unroll)).mean() for name, loss in losses.items()}
        weights = {name: getattr(self.weights, name) for name in terms}
        loss = weighted_sum(terms | auxiliary.losses, weights | auxiliary.weights)
        decay = self.optimizer.param_groups[0]["lr"] * self.weight_decay
        norm = descend_clipped(self.optimizer, loss, self.clip_norm, decay)

        # What is told of the update, and what the replay is told.
        value, target = model.value_head.mean(values[0].detach()), believed.value[0]
        error = (value - target).abs()
        metrics = {f"{name}_loss": term.detach() for name, term in terms.items() if name != "entropy"}
        metrics |= {name: term.detach() for name, term in auxiliary.losses.items()}
        metrics |= {"norm": norm, "value": value.mean(), "target": target.mean(), "error": error.mean()}
        metrics |= {**about_horizons(believed), **variances_of("value", model.value_head, values, counted.value)}
        metrics |= variances_of("reward", model.reward_head, rewards, counted.reward)
        metrics |= about_policies(record, -losses["entropy"].detach(), counted.policy)
        learned = Learned(model.value_head, believed.value, counted.value)
        metrics |= self.saturation.note(learned, Learned(model.reward_head, summed, counted.reward))
        stored = believed.stored if self.writes_back else None
        return Update(metrics | (answer or {}), Feedback(batch.index, error, stored=stored))

    def read_back(self, metrics: Mapping[str, Tensor]) -> dict[str, float]:
        """Metrics of the base that are known, and a warning where bins do not reach as far as targets do."""
        values = super().read_back(metrics)
        values = {name: x for name, x in values.items() if not (x == NONE and "/horizon_from_age/" in name)}
        self.saturation.warn(self.model.value_head, self.model.reward_head)
        return values

    def rank_state(self) -> dict[str, Any]:
        return super().rank_state() | {"saturation": self.saturation.content()}

    def load_rank_state(self, state: Mapping[str, Any]) -> None:
        super().load_rank_state(state)
        self.saturation.load_content(state["saturation"])

    def advance(self) -> None:
        super().advance()
        if self.updates % self.target_period == 0:
            follow(self.target_model, self.model, 1.0)
