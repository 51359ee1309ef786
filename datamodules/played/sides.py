"""Whether an agent knows that the players of an environment take turns, and whether returns tell how well it plays."""

from __future__ import annotations

import gymnasium as gym
from pytorch_lightning.utilities import rank_zero_warn

from datamodules.envs.make import EnvironmentSpec


def check_sides(spec: EnvironmentSpec, agent: object) -> None:
    """Refuse an agent that would count the other player's rewards as its own, or its own as the other's.

    An environment says by `self_play` whether one agent plays both sides, so that each reward is the mover's; where it
    says nothing, so does this. An agent says by its argument `two_player` that it knows.

    Raises:
        ValueError: only one of the two is so.
    """
    env = spec.make()
    env.close()
    both_sides = _self_play(env)
    arguments, name = getattr(agent, "hparams", {}), type(agent).__name__
    knows = bool(arguments.get("two_player", False))
    if both_sides and not knows:
        tell = "; or tell it that players take turns: --model.two_player true" if "two_player" in arguments else ""
        raise ValueError(
            f"{spec.id} is played by both sides, and each reward is the mover's, which {name} would add up as its own; "
            f"give it an opponent: --data.environment_arguments '{{opponent: random}}'{tell}"
        )
    if both_sides is False and knows:
        raise ValueError(
            f"{spec.id} has an opponent of its own, so that all rewards are the agent's, and {name} is told that "
            "players take turns; give --model.two_player false, or --data.environment_arguments '{opponent: null}'"
        )


def warn_of_both_sides(env: gym.Env, name: str, option: str) -> None:
    """Say that a policy which plays itself wins and loses whatever it can, and what helps.

    Args:
        env: environment of an evaluation; it may be closed.
        name: its name.
        option: command-line option that has the arguments of that environment.
    """
    if _self_play(env):
        rank_zero_warn(
            f"{name} is played by both sides: the returns of an evaluation say how often games against oneself are "
            f"won, not how well a policy plays; give it an opponent: {option} '{{opponent: minimax}}'"
        )


def _self_play(env: gym.Env) -> bool | None:
    """Whether one agent plays both sides; None where the environment does not say."""
    return getattr(env.unwrapped, "self_play", None)
