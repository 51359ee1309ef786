"""Online lookahead: a policy that has learned is improved where it acts, by looking ahead in a model.

Source: Bertsekas 2022, "Lessons from AlphaZero for Optimal, Model Predictive, and Adaptive Control"
(https://arxiv.org/abs/2108.10315). Minimising over the first action with a value of what follows is one Newton step on
Bellman's equation from that value; more steps, and a rollout of the base policy, are value iterations before it. So the
error of the policy that looks ahead falls with the square of the value's error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import torch
from torch import Tensor, nn

from modules.agent.random_state import isolated_randomness
from modules.arguments.checks import check_choice, check_counts, check_group, check_ranges
from modules.functional.lookahead_choice import choose, sequences
from modules.lookahead_contracts import PlansAhead, Remembers
from modules.search.lookahead_tree import LookaheadTree

MODES = ("auto", "enumerate", "sample", "tree")
MOST_CANDIDATES = 10_000


@dataclass(frozen=True)
class Lookahead:
    """How far, and among what, a policy looks ahead.

    Args:
        model: model that `reverie evaluate` looks ahead in: the checkpoint of an ensemble of dynamics; `simulator` for
            copies of the environment; `own` for the world model of the policy's agent; null for no lookahead.
        depth: steps over which actions are chosen; null for 1, and for as many as a tree reaches.
        rollout: steps of the base policy after them, before the value stands for the rest.
        candidates: sequences of actions that are compared, the base policy's own among them; of numbered actions all.
            In a tree these are simulations.
        mode: `enumerate` compares all sequences of numbered actions; `sample` deviates from the base policy by normal
            noise; `tree` goes on from what is promising, with actions of either kind; `auto` takes the one of the first
            two that fits the actions.
        slots: actions of each node of a tree, the base policy's own among them; of numbered ones all.
        noise: deviation of that noise, in units of [-1, 1]; numbered actions have none.
        refinements: rounds of further candidates around the best so far, each with three quarters of the noise before.
        pessimism: deviations over the models that are subtracted from a candidate's mean return.
        guard: the base action is kept unless the gain is above so many deviations of that gain over the models; with
            one model, these are 0.

    Raises:
        ValueError: a field is of another type, none of its choices, or outside its range.
    """

    model: str | None = None
    depth: int | None = None
    rollout: int = 0
    candidates: int = 64
    mode: Literal["auto", "enumerate", "sample", "tree"] = "auto"
    slots: int = 8
    noise: float = 0.3
    refinements: int = 0
    pessimism: float = 0.0
    guard: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what is no lookahead."""
        check_choice("lookahead.mode", self.mode, MODES)
        check_group("lookahead", self)
        check_ranges(
            ("lookahead.depth", self.steps, 1, 1000),
            ("lookahead.rollout", self.rollout, 0, 100_000),
            ("lookahead.candidates", self.candidates, 2, MOST_CANDIDATES),
            ("lookahead.slots", self.slots, 2, MOST_CANDIDATES),
            ("lookahead.noise", self.noise, 0.0, 1e3),
            ("lookahead.pessimism", self.pessimism, 0.0, 1e6),
            ("lookahead.guard", self.guard, 0.0, 1e6),
        )
        check_counts(0, **{"lookahead.refinements": self.refinements})

    @property
    def steps(self) -> int:
        """Steps over which actions are chosen, where there is no tree."""
        return 1 if self.depth is None else self.depth


class LookaheadPolicy(nn.Module):
    """A base policy that looks ahead before it acts: a player with the same `act`.

    Candidates deviate from the base policy by noise that is drawn once, the same at every step and in every row: the
    action is a function of the observation, and of the memory where the model has one.

    Args:
        policy: base policy: what the model shows of a state, `[R, ...]`, to actions in the environment's units.
        model: model that is looked ahead in.
        value: what the model shows, `[R, ...]`, to the return `[R]` that the base policy gets from there on.
        action_space: space of the actions.
        settings: depth, candidates and so on.
        discount: discount factor gamma per step, of the value.
        reward: map from the model's rewards to those that the value was learned from.
        seed: seed of the noise, and of chance in imagination.

    Attributes:
        decided: actions so far.
        changed: those among them that were not the base policy's.

    Raises:
        ValueError: the mode does not fit the actions, there are too many sequences of them, or a setting would be
            ignored with these actions or this model.
    """

    alive = (True,)
    member_names = ("",)
    plans: Tensor
    low: Tensor
    high: Tensor

    def __init__(
        self,
        policy: Callable[[Tensor], Tensor],
        model: PlansAhead,
        value: Callable[[Tensor], Tensor],
        action_space: gym.Space,
        settings: Lookahead = Lookahead(),
        discount: float = 0.99,
        reward: Callable[[Tensor], Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.policy = policy
        self.model = model
        self.value = value
        self.settings = settings
        self.discount = discount
        self.reward = reward
        self.seed = seed
        self.discrete = isinstance(action_space, gym.spaces.Discrete)
        self.decided = 0
        self.changed = 0
        self.tree: LookaheadTree | None = None
        if settings.mode == ("sample" if self.discrete else "enumerate"):
            other = "enumerate" if self.discrete else "sample"
            raise ValueError(f"lookahead.mode {settings.mode} does not fit the actions {action_space}; use {other}")
        if settings.refinements and self.discrete:
            raise ValueError(
                "lookahead.refinements would be ignored: they are rounds of noise, which numbered actions have none "
                "of; set it to 0"
            )
        if settings.pessimism and model.opinions == 1:
            raise ValueError(
                "lookahead.pessimism would be ignored: it is a matter of several models, and there is one: set it to "
                "0, or look ahead in an ensemble of dynamics with more seeds"
            )
        # The candidates behind the first one, which is the base policy's own: `[C - 1, depth, ...]`. The tree goes on
        # from first actions by itself.
        tree = settings.mode == "tree"
        steps = 1 if tree else settings.steps
        numbers: tuple[int, int] | None = None
        if isinstance(action_space, gym.spaces.Discrete):
            numbers = start, choices = int(action_space.start), int(action_space.n)
            check_ranges(("lookahead.depth: number of sequences of actions", choices**steps, 1, MOST_CANDIDATES))
            plans = sequences(choices, steps) + start
        elif isinstance(action_space, gym.spaces.Box) and action_space.is_bounded():
            self.register_buffer("low", torch.as_tensor(action_space.low))
            self.register_buffer("high", torch.as_tensor(action_space.high))
            count = settings.slots if tree else settings.candidates
            self._shape = (count - 1, steps, *action_space.shape)
            plans = self._deviations(torch.Generator().manual_seed(seed))
        else:
            raise ValueError(f"lookahead needs a Discrete space or a bounded Box of actions, got {action_space}")
        self.register_buffer("plans", plans)
        if tree:
            self.tree = self._make_tree(numbers)

    def _deviations(self, generator: torch.Generator) -> Tensor:
        """`[C - 1, depth, ...]` normal deviations from the base policy's actions."""
        return torch.randn(self._shape, generator=generator) * self.settings.noise * 0.5 * (self.high - self.low)

    def _make_tree(self, numbers: tuple[int, int] | None) -> LookaheadTree:
        """Trees with as many simulations as there may be candidates.

        Raises:
            ValueError: these are fewer than the actions of a node.
        """
        settings = self.settings
        slots = settings.slots if numbers is None else numbers[1]
        if settings.candidates < slots:
            what = "lookahead.slots" if numbers is None else "the number of actions"
            raise ValueError(
                f"lookahead.candidates, the simulations of a tree, must be at least {what}, {slots}, so that each is "
                f"tried; got {settings.candidates}"
            )
        return LookaheadTree(
            self.policy,
            self.model,
            self.value,
            self.reward,
            self.discount,
            settings.rollout,
            settings.candidates,
            settings.depth,
            numbers,
            deviate=lambda base, deviations: self._planned(base.unsqueeze(1), deviations),
            draw=lambda generator: self._deviations(generator)[:, 0].unsqueeze(0),
            seed=self.seed,
        )

    @property
    def device(self) -> torch.device:
        """Device of the observations that it takes."""
        return self.plans.device

    def initial_state(self, batch: int) -> Any:
        """Memory for `batch` fresh episodes; None where the model has none."""
        return self.model.initial_state(batch) if isinstance(self.model, Remembers) else None

    def rewarded(self, state: Any, reward: Tensor) -> Any:
        """The memory, which does not look at rewards."""
        return state

    @torch.no_grad()
    def act(self, observation: Any, state: Any = None, *, explore: bool = False) -> tuple[Tensor, Any]:
        """Actions `[N, ...]` for observations `[N, ...]`, and the next memory; there is nothing to explore."""
        memory = self.model.observe(observation, state) if isinstance(self.model, Remembers) else observation
        plans = self.plans.unsqueeze(0)  # [1 or N, C - 1, depth, ...]
        # What is drawn in imagination moves no stream that environment and base policy draw from.
        with isolated_randomness(self.seed + self.decided, self.device):
            action, index, best = self._choose(memory, plans)
            for turn in range(1, 1 + (0 if self.discrete else self.settings.refinements)):
                # The next round is drawn around the best plan so far, which stands first among its candidates.
                around = best.unsqueeze(1) + self.plans[1:] * 0.75**turn
                action, index, best = self._choose(memory, torch.cat([best.unsqueeze(1), around], 1))
        self.decided += len(index)
        self.changed += int((index > 0).sum())
        return action, self.model.acted(memory, action) if isinstance(self.model, Remembers) else None

    def _choose(self, memory: Any, plans: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best action `[N, ...]`, the index `[N]` of its candidate, and its plan `[N, depth, ...]`."""
        scores, first = self.score(memory, plans) if self.tree is None else self.tree.score(memory, plans[:, :, 0])
        index, _ = choose(scores, self.settings.pessimism, self.settings.guard)
        rows = torch.arange(len(index), device=index.device)
        every = torch.cat([torch.zeros_like(plans[:, :1]), plans], 1).expand(len(index), *[-1] * (plans.ndim - 1))
        return first[rows, index], index, every[rows, index]

    def score(self, memory: Any, plans: Tensor) -> tuple[Tensor, Tensor]:
        """Imagined returns of the base policy and of every plan.

        Args:
            memory: what the model begins with, of `N` rows.
            plans: `[N or 1, C - 1, depth, ...]`: actions, where they are numbers, else deviations from the base policy.

        Returns:
            `[K, N, C]` returns by each of `K` models, and `[N, C, ...]` first actions.
        """
        model, copies = self.model, plans.shape[1] + 1
        state = model.begin(memory, copies)
        total, weight, first = torch.zeros(()), torch.ones(()), torch.zeros(())
        for t in range(self.settings.steps + self.settings.rollout):
            action = self.policy(model.view(state))
            action = action.unflatten(0, (model.opinions, -1, copies))  # [K, N, C, ...]
            if t < self.settings.steps:
                action = torch.cat([action[:, :, :1], self._planned(action[:, :, 1:], plans[:, :, t])], 2)
            if t == 0:
                first = action[0]  # models begin with the same observation
            state, reward, ended = model.step(state, action.flatten(0, 2))
            total = total + weight * (reward if self.reward is None else self.reward(reward))
            weight = weight * self.discount * (1.0 - ended)
        total = total + weight * self.value(model.view(state))
        return total.unflatten(0, (model.opinions, -1, copies)), first

    def _planned(self, action: Tensor, plan: Tensor) -> Tensor:
        """Actions `[..., N, C - 1, ...]` by a plan's step `[N or 1, C - 1, ...]`."""
        if self.discrete:
            return plan.expand_as(action).to(action.dtype)
        return (action + plan.to(action.dtype)).clamp(self.low, self.high)
