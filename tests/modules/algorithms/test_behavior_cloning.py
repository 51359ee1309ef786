"""Behaviour cloning: losses by plain loops, members alone, the rule that ends a run, resume, and numbered actions."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from atac_agents import SPACES, make_batch, same, snapshot
from equal import assert_equal
from pytorch_lightning import Trainer
from ranks import run_on_ranks
from runs_in_parts import train
from tiny_dataset import make_arrays, write_hdf5

from callbacks.evaluation.played_environment import choose_environment
from datamodules.envs.recorded_environment import Changes
from datamodules.offline import OfflineDataModule
from modules.agent.descent import weighted_sum
from modules.algorithms.behavior_cloning import BehaviorCloning
from modules.batch import Spaces, Transition
from modules.experts.layer import SparseMoE
from modules.functional.cloning import action_regression, censored_log_prob
from modules.networks.auxiliary_losses import collecting
from modules.networks.trunks import losses_by_member

NUMBERED = Spaces(SPACES.observation, gym.spaces.Discrete(3, start=1))


def make(spaces: Spaces = SPACES, **arguments: Any) -> BehaviorCloning:
    return BehaviorCloning(spaces, **{"hidden": [16], "lr": 1e-3, **arguments})


def numbered(rows: int = 32, seed: int = 0) -> Transition:
    """Actions 1, 2 and 3 by the sizes of the first two numbers that are observed."""
    batch = make_batch(rows, seed)
    return batch._replace(action=1 + (batch.observation[:, 0] > 0).long() + (batch.observation[:, 1] > 0).long())


@pytest.mark.parametrize("saturation", [0.0, 0.1])
@pytest.mark.parametrize("loss", ["likelihood", "squared_error"])
def test_the_loss_is_the_mean_over_rows_of_the_sum_over_dimensions(loss: str, saturation: float) -> None:
    agent, batch = make(loss=loss, saturation=saturation), make_batch()
    mean, log_std = agent.actor(batch.observation[None])
    rows = []
    for action, m, s in zip(batch.action, mean[0], log_std[0], strict=True):
        if loss == "likelihood":
            rows.append(-censored_log_prob(action, m, s, saturation).sum())
        else:
            rows.append(action_regression(action, m, s, saturation).sum())
    held_out = agent.evaluate_losses(batch)
    found = agent.update(batch).metrics["cloning_loss"]
    torch.testing.assert_close(found, torch.stack(rows).mean()[None])
    torch.testing.assert_close(held_out["cloning_loss"], found)
    distance = (mean[0].tanh() - batch.action).square().sum(-1).mean()
    torch.testing.assert_close(held_out["action_error"], distance[None])


def test_metrics_are_of_each_member_and_a_balancing_loss_enters_with_its_weight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights: list[dict[str, float]] = []
    monkeypatch.setattr(
        "modules.algorithms.behavior_cloning.weighted_sum",
        lambda terms, scales: weights.append(scales) or weighted_sum(terms, scales),
    )
    routed = functools.partial(SparseMoE, num_experts=4, hidden=8, routing="top_k")
    trunks = [functools.partial(routed, loss_weights={"load_balance": 0.0, "router_z": x}) for x in (0.0, 10.0)]
    agents, batch = [make(trunk=trunk, seeds=2, shared_batch=True) for trunk in trunks], make_batch()
    held_out = agents[0].evaluate_losses(batch)
    with collecting(agents[0].actor.network) as auxiliary:
        agents[0].actor(batch.observation.expand(2, -1, -1))
    metrics = [agent.update(batch).metrics for agent in agents]
    for found in metrics:
        assert found.keys() == {"cloning_loss", "actor/router_z", "actor/load_balance"}
        torch.testing.assert_close(found["cloning_loss"], held_out["cloning_loss"])
        expected = losses_by_member(agents[0].actor.network, auxiliary)[0]["router_z"].detach()
        torch.testing.assert_close(found["actor/router_z"], expected)
    assert weights == [{"cloning": 1.0, "load_balance": 0.0, "router_z": x} for x in (0.0, 10.0)]
    assert not same(snapshot(agents[0].actor), agents[1].actor)


def test_numbered_actions_are_learned_by_cross_entropy() -> None:
    agent, batch = make(NUMBERED, lr=0.02), numbered(256)
    logits = agent.actor.network(batch.observation[None])[0]
    expected = torch.nn.functional.cross_entropy(logits, batch.action - 1)
    torch.testing.assert_close(agent.evaluate_losses(batch)["cloning_loss"], expected[None])
    for i in range(150):
        agent.update(numbered(256, seed=i))
    held_out = numbered(256, seed=1000)
    accuracy = agent.evaluate_losses(held_out)["accuracy"].item()
    action, _ = agent.act(held_out.observation, explore=False)
    assert accuracy == pytest.approx((action == held_out.action).float().mean().item())
    assert accuracy > 0.9
    assert torch.equal(agent.policy()(held_out.observation), action)
    drawn, _ = agent.act(held_out.observation, explore=True)
    assert all(NUMBERED.action.contains(int(x)) for x in drawn)


@pytest.mark.parametrize("spaces", [SPACES, NUMBERED], ids=["box", "numbered"])
def test_a_member_equals_the_same_run_done_alone(spaces: Spaces) -> None:
    both, alone = make(spaces, seeds=2), make(spaces, seed=1)
    batches = make_batch if spaces is SPACES else numbered
    for i in range(10):
        other, mine = batches(seed=2 * i), batches(seed=2 * i + 1)
        both.update(Transition(*(torch.cat([x, y]) for x, y in zip(other, mine, strict=True))))  # type: ignore[arg-type]
        alone.update(mine)
    assert both.member_names == ("seed=0", "seed=1")
    for p, q in zip(both.actor.parameters(), alone.actor.parameters(), strict=True):
        torch.testing.assert_close(p[1:], q, rtol=0, atol=1e-6)
    observation = torch.randn(4, 4)
    action, _ = both.act(observation.repeat(2, 1), explore=False)
    torch.testing.assert_close(both.policy(1)(observation), action[4:])


@pytest.mark.compile
@pytest.mark.usefixtures("backend")
def test_compiled_updates_equal_eager_ones() -> None:
    eager, compiled = (make(seeds=2, loss="squared_error", saturation=0.1, compile=c) for c in (False, True))
    for i in range(4):
        batch = make_batch(64, seed=i)
        torch.testing.assert_close(eager.update(batch).metrics, compiled.update(batch).metrics)
    for p, q in zip(eager.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-5)


def test_what_numbered_actions_do_not_have_is_refused() -> None:
    for argument in ({"loss": "squared_error"}, {"saturation": 0.1}):
        with pytest.raises(ValueError, match="set loss to likelihood, saturation to 0"):
            make(NUMBERED, **argument)
    with pytest.raises(ValueError, match="loss"):
        make(loss="absolute")
    with pytest.raises(ValueError, match="flat Box of observations"):
        make(Spaces(gym.spaces.Discrete(3), SPACES.action))


# ------------------------------------------------------------------------------------------------- the rule, and resume
def fit(folder: Path, epochs: int, checkpoint: Path | None = None, **changes: Any) -> tuple[BehaviorCloning, Trainer]:
    source = write_hdf5(folder / "tiny.h5", make_arrays())
    fraction = changes.pop("validation_fraction", 0.4)
    module = OfflineDataModule(
        str(source), cache_dir=str(folder / "cache"), validation_batches=1, updates_per_epoch=2, batch_size=4,
        validation_fraction=fraction, normalize_observation=True,
    )  # fmt: skip
    agent = BehaviorCloning(module.spaces, **{"hidden": [8], "lr": 0.03, "patience": 2, **changes})
    return agent, train(agent, module, folder, epochs, checkpoint)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("loss", "judged"), [("likelihood", "cloning_loss"), ("squared_error", "action_error")])
def test_a_run_ends_by_the_rule_with_the_best_policy_and_stays_ended(tmp_path: Path, loss: str, judged: str) -> None:
    whole, trainer = fit(tmp_path, 200, loss=loss)
    assert whole.plateau is not None
    assert whole.plateau.reached_at == whole.updates < 400
    assert trainer.should_stop
    held_out = next(iter(trainer.datamodule.val_dataloader()))  # type: ignore[attr-defined]
    last = whole.evaluate_losses(held_out)[judged].item()
    whole.actor.load_state_dict(whole.acting.state_dict())
    best = whole.evaluate_losses(held_out)[judged].item()
    assert best == pytest.approx(float(whole.plateau.best))
    assert best <= last
    restored = BehaviorCloning.from_checkpoint(tmp_path / "200.ckpt")
    observation = torch.randn(5, 3)
    torch.testing.assert_close(restored.policy()(observation), whole.policy()(observation))
    again, _ = fit(tmp_path, 201, tmp_path / "200.ckpt", loss=loss)
    assert again.updates == whole.updates


@pytest.mark.filterwarnings("ignore")
def test_a_run_in_two_parts_is_the_whole_run(tmp_path: Path) -> None:
    whole, _ = fit(tmp_path, 6, patience=50)
    fit(tmp_path, 3, patience=50)
    parts, _ = fit(tmp_path, 6, tmp_path / "3.ckpt", patience=50)
    assert_equal(dict(parts.state_dict()), dict(whole.state_dict()))


@pytest.mark.filterwarnings("ignore")
def test_without_held_out_episodes_only_a_run_without_the_rule_is_possible(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^patience looks at held-out.*data\.validation_fraction.*patience to null$"):
        fit(tmp_path, 1, validation_fraction=0.0)
    agent, _ = fit(tmp_path, 1, validation_fraction=0.0, patience=None)
    assert agent.acting is agent.actor


def learned_on(rank: int) -> list[torch.Tensor]:
    agent, whole = make(NUMBERED), numbered(32)
    for _ in range(3):
        agent.update(Transition(*(x if x is None else x[16 * rank : 16 * rank + 16] for x in whole)))  # type: ignore[arg-type]
    return [p.detach() for p in agent.actor.parameters()]


def test_two_ranks_learn_what_one_learns_from_both_halves(tmp_path: Path) -> None:
    first, second = run_on_ranks(2, tmp_path, learned_on)
    alone = make(NUMBERED)
    for _ in range(3):
        alone.update(numbered(32))
    for p, q, r in zip(first, second, alone.actor.parameters(), strict=True):
        assert torch.equal(p, q)
        torch.testing.assert_close(p, r.detach(), rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------- CartPole
def record(path: Path, episodes: int = 12, length: int = 60) -> Path:
    """CartPole by a rule that balances the pole."""
    env = gym.make("CartPole-v1")
    steps: dict[str, list[Any]] = {name: [] for name in ("observations", "actions", "rewards", "terminals", "timeouts")}
    final, lengths = [], []
    for episode in range(episodes):
        observation, _ = env.reset(seed=episode)
        for step in range(length):
            action = int(observation[2] + 0.5 * observation[3] > 0)
            steps["observations"].append(observation)
            steps["actions"].append(action)
            observation, reward, terminated, _, _ = env.step(action)
            steps["rewards"].append(reward)
            steps["terminals"].append(terminated)
            steps["timeouts"].append(step == length - 1 and not terminated)
            if terminated:
                break
        final.append(observation)
        lengths.append(step + 1)
    arrays = {name: np.asarray(values) for name, values in steps.items()}
    np.savez(path, **arrays, final_observations=np.stack(final), episode_lengths=np.array(lengths, np.int32))
    return path


@pytest.mark.filterwarnings("ignore")
def test_recorded_numbered_actions_make_a_policy_that_plays(tmp_path: Path) -> None:
    module = OfflineDataModule(
        str(record(tmp_path / "cartpole.npz")), cache_dir=str(tmp_path / "cache"), environment="CartPole-v1",
        validation_fraction=0.2, updates_per_epoch=100, batch_size=64, normalize_observation=True,
    )  # fmt: skip
    agent = BehaviorCloning(module.spaces, hidden=[32], lr=0.01, patience=2)
    trainer = Trainer(
        max_epochs=5, logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
        default_root_dir=tmp_path, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(agent, datamodule=module)
    env, policy, total = gym.make("CartPole-v1"), agent.policy(), 0.0
    observation, _ = env.reset(seed=1000)
    for _ in range(200):
        action = policy(torch.as_tensor(observation)[None])
        observation, reward, terminated, _, _ = env.step(int(action[0]))
        total += float(reward)
        if terminated:
            break
    assert total == 200.0  # a random policy holds the pole for about 20 steps
    assert math.isfinite(float(trainer.callback_metrics["validation/cloning_loss"]))


@pytest.mark.parametrize(("seeds", "member"), [(1, ""), (2, "seed=0/")])
def test_the_metric_that_is_named_where_nothing_is_played_is_one_that_is_logged(
    tmp_path: Path, seeds: int, member: str
) -> None:
    source = write_hdf5(tmp_path / "tiny.h5", make_arrays())
    module = OfflineDataModule(
        str(source), cache_dir=str(tmp_path / "cache"), observation_space=gym.spaces.Box(-np.inf, np.inf, (3,)),
        action_space=gym.spaces.Box(-1.0, 1.0, (2,)),
    )  # fmt: skip
    agent = make(module.spaces, seeds=seeds)
    advice = f"--checkpoint.monitor validation/{member}cloning_loss --checkpoint.mode min"
    with pytest.warns(UserWarning, match=advice):
        choose_environment(module, agent, Changes())
    batch = next(iter(module.train_dataloader()))
    assert f"validation/{member}cloning_loss" in agent.named_metrics("validation", agent.evaluate_losses(batch))
