"""PPO: a whole update, from the same weights, steps and order, is that of stable-baselines3.

`benchmarks/peers/stable_baselines3_ppo.py` recorded its numbers.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from modules.algorithms.ppo import PPO
from modules.batch import SequenceBatch, Spaces, StoredWindows
from modules.networks.blocks import DenseStack

FOLDER = Path(__file__).parents[2] / "data/stable_baselines3"
OURS = {
    "mlp_extractor.policy_net.0": "perception.encoder.vector_network.layers.0",
    "mlp_extractor.policy_net.2": "torso.layers.0",
    "mlp_extractor.value_net.0": "value_perception.encoder.vector_network.layers.0",
    "mlp_extractor.value_net.2": "value_torso.layers.0",
    "features_extractor.net.0": "perception.encoder.vector_network.layers.0",
    "features_extractor.net.2": "torso.layers.0",
    "action_net": "actor.output",
    "value_net": "critic.output",
    "log_std": "actor.log_std",
}


class Recorded:
    """A case's file; `logged` is what stable-baselines3 tells of the update."""

    def __init__(self, name: str) -> None:
        with np.load(FOLDER / f"ppo_{name}.npz") as file:
            self.arrays = {key: torch.from_numpy(file[key]) for key in file.files if key != "about"}
            about = json.loads(str(file["about"]))
        self.settings: dict[str, Any] = about["settings"]
        self.logged: dict[str, float] = about["logged"]
        self.count: int = about["steps"]
        self.hidden: int = about["hidden"]
        self.discrete = self.arrays["steps/action"].ndim == 2

    def weights(self, when: str) -> dict[str, Tensor]:
        """All parameters by our names."""
        found = {}
        for name, value in self.arrays.items():
            place, _, path = name.partition("/")
            if place == when:
                layer, _, kind = path.rpartition(".")
                found[OURS[path] if path in OURS else f"{OURS[layer]}.{kind}"] = value
        return found

    def agent(self) -> PPO:
        """Ours, with their settings and first weights."""
        action = gym.spaces.Discrete(3) if self.discrete else gym.spaces.Box(-1.0, 1.0, (2,))
        s = self.settings
        agent = PPO(
            Spaces(gym.spaces.Box(-10.0, 10.0, (5,)), action),
            trunk=partial(DenseStack, layers=1, activation="tanh"), units=self.hidden, separate=not self.discrete,
            discount=s["gamma"], lambda_=s["gae_lambda"], passes=s["n_epochs"], minibatches=120 // s["batch_size"],
            clip=s["clip_range"], target_kl=s.get("target_kl"), entropy=s["ent_coef"], critic_scale=2 * s["vf_coef"],
            lr=s["learning_rate"], clip_norm=s["max_grad_norm"],
        )  # fmt: skip
        weights = self.weights("initial")
        assert {name for name, _ in agent.named_parameters()} == set(weights)
        agent.load_state_dict(weights, strict=False)
        return agent

    def windows(self) -> tuple[StoredWindows, Tensor]:
        """The steps as rows of windows, and their order as we count them.

        Streams with fewer ends have fewer rows: rows of resets, which no step leads to, fill them up from the front.
        """
        steps = {name.removeprefix("steps/"): x for name, x in self.arrays.items() if name.startswith("steps/")}
        streams, places = [], []
        for n in range(steps["reward"].shape[1]):
            rows: list[tuple[Any, ...]] = []
            nothing, begins = torch.zeros_like(steps["action"][0, n]), []
            ended = torch.tensor(True)
            for t in range(len(steps["reward"])):
                one = {name: x[t, n] for name, x in steps.items()}
                if ended:
                    rows.append((one["observation"], nothing, 0.0, True, False, False, 0.0))
                begins.append(len(rows) - 1)
                after = one["after"], one["action"], one["reward"], False, one["terminated"], one["truncated"]
                rows.append((*after, one["log_prob"]))
                ended = one["terminated"] | one["truncated"]
            streams.append(rows)
            places.append(begins)
        length = max(map(len, streams))
        padded = [[rows[0]] * (length - len(rows)) + rows for rows in streams]
        fields = [torch.stack([torch.stack([torch.as_tensor(row[i]) for row in rows]) for rows in padded], 1)
                  for i in range(7)]  # fmt: skip
        observation, action, reward, first, terminated, truncated, log_prob = fields
        rows = SequenceBatch({"observation": observation}, action, reward, first, terminated, truncated)
        number = torch.full((length - 1, len(streams)), -1)
        valid = ~first[1:]
        number[valid] = torch.arange(int(valid.sum()))
        mine = [number[length - len(rows) + t, n]
                for n, (rows, begins) in enumerate(zip(streams, places, strict=True)) for t in begins]  # fmt: skip
        assert sorted(mine) == list(range(120))
        return StoredWindows(rows, log_prob.unsqueeze(-1)), torch.stack(mine)[self.arrays["order"]]


@pytest.mark.parametrize("name", ["discrete", "continuous", "target_kl"])
def test_a_whole_update_is_that_of_stable_baselines3(name: str) -> None:
    recorded = Recorded(name)
    agent = recorded.agent()
    batch, order = recorded.windows()
    metrics = {key: value.item() for key, value in agent.update(batch, order).metrics.items()}
    for key, value in recorded.weights("after").items():
        mine = agent.get_parameter(key)
        torch.testing.assert_close(mine, value, rtol=0.0, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")
        assert (value - recorded.weights("initial")[key]).abs().max() > 1e-3
    assert metrics["steps"] == recorded.count
    assert metrics["explained_variance"] == pytest.approx(recorded.logged["explained_variance"], abs=1e-5)
    if name == "target_kl":  # theirs holds the losses of the step that was not taken
        assert recorded.count == 5
        return
    theirs = {"policy_loss": "policy_gradient_loss", "clip_fraction": "clip_fraction"}
    for mine, logged in theirs.items():
        assert metrics[mine] == pytest.approx(recorded.logged[logged], abs=1e-5)
    assert 2 * metrics["critic_loss"] == pytest.approx(recorded.logged["value_loss"], rel=1e-5)
    assert -metrics["entropy"] == pytest.approx(recorded.logged["entropy_loss"], rel=1e-5)
