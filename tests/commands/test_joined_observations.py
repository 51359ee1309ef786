"""A policy that learned from Dict observations plays in its Dict environment: evaluated, loaded and exported."""

from __future__ import annotations

import json
from pathlib import Path

import goals
import gymnasium as gym
import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer

from commands.collect import collect
from commands.evaluate import evaluate
from commands.export import export
from commands.exported_act import Policy
from commands.loaded import load
from datamodules.offline import OfflineDataModule
from modules.algorithms.behavior_cloning import BehaviorCloning

pytestmark = pytest.mark.filterwarnings("ignore")
KEYS = ["observation", "desired_goal", "achieved_goal"]
PARTS = ["observation", "desired_goal/far", "desired_goal/side", "achieved_goal"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BehaviorCloning]:
    folder = tmp_path_factory.mktemp("joined")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
        goals.record(episodes=3)
        data = OfflineDataModule(
            "goal/steered-v0", observation_keys=KEYS, batch_size=8, cache_dir=str(folder / "cache"),
            normalize_observation=True,
        )  # fmt: skip
        torch.manual_seed(0)
        agent = BehaviorCloning(data.spaces, hidden=[8], patience=None)
        trainer = Trainer(
            accelerator="cpu", max_steps=2, logger=False, enable_checkpointing=False, limit_val_batches=0,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(agent, data)
        trainer.save_checkpoint(folder / "goal.ckpt")
    return folder, agent.eval()


def play(agent: BehaviorCloning, seed: int) -> float:
    """Return of an episode in the environment as it is, with observations joined by hand."""
    env, total, cut = gym.make("goals/Goal-v0"), 0.0, False
    observation, _ = env.reset(seed=seed)
    while not cut:
        joined = torch.from_numpy(goals.by_hand(observation, PARTS))[None]
        action = agent.act(joined, explore=False)[0].detach().numpy()[0]
        observation, reward, _, cut, _ = env.step(action)
        total += float(reward)
    return total


def test_it_is_evaluated_in_its_environment_without_a_word(trained: tuple[Path, BehaviorCloning]) -> None:
    folder, agent = trained
    evaluate(str(folder / "goal.ckpt"), episodes=2, seed=4, output=str(folder / "returns.json"))
    found = json.loads((folder / "returns.json").read_text())["members"][0]["returns"]
    np.testing.assert_allclose(found, [play(agent, 4), play(agent, 5)], rtol=1e-5)


def test_it_is_loaded_and_exported_with_its_parts_as_inputs(trained: tuple[Path, BehaviorCloning]) -> None:
    folder, agent = trained
    raw = gym.make("goals/Goal-v0").reset(seed=3)[0]
    expected = agent.act(torch.from_numpy(goals.by_hand(raw, PARTS))[None], explore=False)[0].detach().numpy()[0]
    # In plain form, with flat boxes and one-hot classes; more parts than it looks at are left aside.
    goal = raw["desired_goal"] | {"side": np.eye(2)[raw["desired_goal"]["side"]]}
    plain = raw | {"observation": raw["observation"].ravel(), "desired_goal": goal}
    policy = load(str(folder / "goal.ckpt"))
    np.testing.assert_allclose(policy.predict(plain), expected, atol=1e-6)
    np.testing.assert_allclose(policy.predict(raw), expected, atol=1e-6)
    np.testing.assert_allclose(policy.predict(goals.by_hand(raw, PARTS)), expected, atol=1e-6)
    assert policy.environment is not None
    assert policy.environment.make().observation_space.shape == (10,)
    export(str(folder / "goal.ckpt"), str(folder / "policy"))
    exported = Policy(folder / "policy")
    assert list(exported.inputs) == [f"observation/{part}" for part in PARTS]
    np.testing.assert_allclose(exported(raw), expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"the policy takes a dict of \['achieved_goal', 'desired_goal/far'"):
        exported({"observation": raw["observation"]})
    with pytest.raises(ValueError, match=r"observation/desired_goal/side holds 2 to 2, the policy takes 0 to 1"):
        exported(raw | {"desired_goal": raw["desired_goal"] | {"side": 2}})


def test_its_episodes_are_collected_in_its_environment(
    trained: tuple[Path, BehaviorCloning], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, agent = trained
    root, policy = str(folder / "played"), str(folder / "goal.ckpt")
    collect("goals/Goal-v0", "goal/cloned-v0", "checkpoint", 16, root, checkpoint=policy)
    rows = OfflineDataModule(f"{root}/goal/cloned-v0", observation_keys=KEYS, cache_dir=str(folder / "cache"))
    steps, columns = rows.dataset.steps["row"].numpy(), rows.dataset.columns
    seen, done = (steps[:, columns[name].start : columns[name].stop] for name in ("observation", "action"))
    with torch.no_grad():
        expected = agent.act(torch.from_numpy(seen.copy()), explore=False)[0].numpy()
    np.testing.assert_allclose(done, expected, atol=1e-6)
