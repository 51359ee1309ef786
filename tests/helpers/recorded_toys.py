"""Small datasets of toy environments, collected by scripted behaviours."""

from __future__ import annotations

from pathlib import Path

from commands.behaviour_parts import Part
from commands.collect import collect

NAMES = {"CartPole-v1": "cartpole", "reverie/Catch-v0": "catch", "Pendulum-v1": "pendulum"}


def record_toy(root: Path, environment: str, transitions: int = 200) -> str:
    """The folder of a dataset of random and scripted episodes."""
    dataset = f"{NAMES[environment]}/toy-v0"
    mixture = [Part("random"), Part("controller", epsilon=0.5)]
    collect(environment, dataset, mixture, transitions, root=str(root), reference_episodes=2)
    return str(root / dataset)
