"""Rewards in the units that an agent learns from."""

from __future__ import annotations

from tensordict import TensorDict

from modules.contracts import Acting


def scaled(batch: TensorDict, factor: float) -> TensorDict:
    """A batch of a replay, of rows, of sequences or of transitions, with its rewards times a factor."""
    if factor != 1.0:
        rows = batch.get("sequence", batch.get("next", batch))
        rows["reward"] = rows["reward"] * factor
    return batch


def check_scale(factor: float, agent: object) -> None:
    """Refuse a factor for an agent with stored states, whose memory sees rewards as the environment gives them.

    What a model finds about an observation, by a search, is in the units that the agent learns.

    Raises:
        ValueError: the factor is not 1, and the agent stores states.
    """
    if factor != 1.0 and isinstance(agent, Acting) and agent.stored_width and not agent.stored_optional:
        raise ValueError(
            f"reward_scale: {factor}: the stored states of {type(agent).__name__} are made from the environment's own "
            "rewards; leave reward_scale at 1"
        )
