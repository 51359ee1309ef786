"""How an agent acts, as collectors, evaluators and exporters see it: actions, a memory, and what that is told."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn


class Acts:
    """The part of an agent that chooses actions: `act` is the algorithm's own, and so are the others with a memory."""

    acts: ClassVar[bool] = True
    """Whether it chooses actions; an agent that does not, such as a model alone, has no `act`, and is never played."""

    def initial_state(self, batch: int) -> Any:
        """Recurrent state for `batch` fresh episodes; None for agents without memory."""
        return None

    def act(self, observation: Tensor, state: Any = None, *, explore: bool) -> tuple[Tensor, Any]:
        """The only way anyone acts: collector, evaluator, exporter.

        Args:
            observation: `[B, ...]` raw observations. With `M` members, `B` is a multiple of `M` and the rows are
                member-major: the first `B / M` rows belong to the first member.
            state: state that `initial_state` or the previous call returned.
            explore: sample from the policy instead of taking its most likely action.

        Returns:
            `[B, ...]` actions in the environment's units, and the next state.
        """
        raise NotImplementedError

    remembers: bool = True
    """Whether the state that `act` returns matters to its next call; where it does not, an export leaves it out."""

    def acting_noise(self, batch: int) -> Tensor | None:
        """Random numbers for `batch` rows that `act` draws even without `explore`, and takes as `noise`; or None."""
        return None

    def rewarded(self, state: Any, reward: Tensor) -> Any:
        """The state that `act` returned, with the rewards `[B]` of its actions.

        Whoever steps the environments calls it. Agents that do not look at past rewards leave it as it is.
        """
        return state

    def acted(self, state: Any, action: Tensor) -> Any:
        """The state that `act` returned, with other actions `[B, ...]` than its own, in the environment's units.

        Whoever changes actions on their way calls it. Agents that do not look at past actions leave it as it is.
        """
        return state

    stored_width: int = 0
    """Width `W` of the part of the agent's state that a replay keeps with every row; 0 for nothing."""

    stored_optional: bool = False
    """Whether what is stored is a finding of the agent's model about one observation, such as a search's, which a row
    may lack: what is stored of an initial state stands there instead, and the row is learned from all the same, as
    recorded rows are. A memory of what was played is no finding.
    """

    def stored_state(self, state: Any) -> Tensor:
        """Part of a state that a replay keeps: `[B, W]` floats of the state that `act` returned with the action to the
        row, and of an initial state for the first row of an episode.
        """
        raise NotImplementedError

    def policy(self, member: int = 0) -> nn.Module:
        """A plain deterministic policy of one member: raw observations `[B, ...]` in, environment actions out.

        An agent of one member without it is played and exported by its `act`.
        """
        raise NotImplementedError
