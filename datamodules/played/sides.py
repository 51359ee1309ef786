"""Whether an agent knows that the players of an environment take turns."""

from __future__ import annotations

from datamodules.envs.make import EnvironmentSpec


def check_sides(spec: EnvironmentSpec, agent: object) -> None:
    """Refuse an agent that would count the other player's rewards as its own, or its own as the other's.

    An environment says by `self_play` whether one agent plays both sides, so that each reward is the mover's; where it
    says nothing, so does this. An agent says by its argument `two_player` that it knows.

    Raises:
        ValueError: only one of the two is so.
    """
    env = spec.make()
    both_sides = getattr(env.unwrapped, "self_play", None)
    env.close()
    knows, name = bool(getattr(agent, "hparams", {}).get("two_player", False)), type(agent).__name__
    if both_sides and not knows:
        raise ValueError(
            f"{spec.id} is played by both sides, and each reward is the mover's, which {name} would add up as its own; "
            "give it an opponent: --data.environment_arguments '{opponent: random}'"
        )
    if both_sides is False and knows:
        raise ValueError(
            f"{spec.id} has an opponent of its own, so that all rewards are the agent's, and {name} is told that "
            "players take turns; give --model.two_player false, or --data.environment_arguments '{opponent: null}'"
        )
