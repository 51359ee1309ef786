"""The rule that ends ATAC's cloning: when, with which policy, in a checkpoint, and where it cannot work."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from atac_agents import SPACES, make_agent, make_batch, same, snapshot
from equal import assert_equal
from pytorch_lightning import Trainer
from runs_in_parts import train
from tiny_dataset import make_arrays, write_hdf5

from datamodules.offline import OfflineDataModule
from modules.agent.actor_critic_updates import ActorUpdates, CriticUpdates
from modules.agent.adaptive_beta import AdaptiveBeta
from modules.agent.plateau import check_looked_at
from modules.agent.trust_region import TrustRegion
from modules.agent.warm_start import WarmStart, settling_updates
from modules.algorithms.atac import ATAC
from modules.algorithms.cql import CQL


def look(agent: ATAC, loss: float, **others: float) -> None:
    """A validation that found this loss, and others by name."""
    losses = {"cloning_loss": loss, "td_error": 0.0, "spread": 0.04, **others}
    metrics = {f"validation/{name}": torch.tensor(x) for name, x in losses.items()}
    agent.trainer = cast(Trainer, SimpleNamespace(sanity_checking=False, callback_metrics=metrics))
    agent.on_validation_end()
    agent.trainer = None


def learn(agent: ATAC, updates: int) -> None:
    for i in range(updates):
        agent.update(make_batch(seed=i))
        agent.advance()


def test_values_settle_in_five_time_constants_of_the_targets() -> None:
    assert settling_updates(0.005, 0.99) == 100_000  # the warm start of the official code
    assert settling_updates(0.05, 0.99) == 10_000
    assert settling_updates(0.005, 1.0) == 0


@pytest.mark.parametrize("average_rate", [None, 0.5])
def test_the_best_policy_waits_for_the_critics_and_then_plays_the_game(average_rate: float | None) -> None:
    critic, actor = CriticUpdates(target_rate=0.5), ActorUpdates(average_rate=average_rate)
    agent = make_agent(warm_start=WarmStart(100, patience=1), discount=0.5, critic=critic, actor=actor)
    assert agent.settling == 20
    learn(agent, 5)
    look(agent, 1.0)
    best = snapshot(agent.acting)
    learn(agent, 5)
    assert not same(best, agent.acting)
    look(agent, 2.0)
    assert same(best, agent.acting)
    assert same(best, agent.actor)
    critics = snapshot(agent.critic)
    for _ in range(10):  # the critics go on alone
        assert agent.phase == "warm start"
        learn(agent, 1)
        assert same(best, agent.acting)
    assert not same(critics, agent.critic)
    assert agent.phase == "training"
    learn(agent, 1)
    assert not same(best, agent.actor)


def test_squared_errors_are_judged_without_the_deviation() -> None:
    agent = make_agent(warm_start=WarmStart(100, patience=1, critic=False, loss="squared_error"))
    for loss, error in ((1.0, 3.0), (2.0, 2.0), (3.0, 1.0)):  # the likelihood falls, the actions come nearer
        learn(agent, 2)
        look(agent, loss, action_error=error)
    best = snapshot(agent.acting)
    learn(agent, 2)
    look(agent, 0.5, action_error=1.5)
    learn(agent, 1)
    assert agent.plateau is not None
    assert agent.plateau.reached_at == 8
    assert float(agent.plateau.best) == 1.0
    assert same(best, agent.cloned_actor)


def test_the_game_waits_for_the_policy_and_the_number_of_updates_is_the_limit() -> None:
    agent = make_agent(warm_start=WarmStart(12, patience=2, critic=False))
    for loss in (3.0, 2.0, 2.5, 1.0):
        learn(agent, 2)
        look(agent, loss)
        assert agent.phase == "warm start"
    look(agent, 1.5)
    look(agent, 1.5)
    assert agent.phase == "warm start"  # for one update, with which the cloned policy is evaluated
    learn(agent, 1)
    assert agent.phase == "training"
    other = make_agent(warm_start=WarmStart(12, patience=2))
    for loss in (3.0, 2.0, 1.0):
        learn(other, 4)
        look(other, loss)
    assert other.phase == "training"


@pytest.mark.parametrize("average_rate", [None, 0.5])
def test_a_game_that_the_limit_begins_starts_with_the_best_cloned_policy(average_rate: float | None) -> None:
    agent = make_agent(warm_start=WarmStart(6, patience=9), actor=ActorUpdates(average_rate=average_rate))
    learn(agent, 2)
    look(agent, 1.0)
    best = snapshot(agent.acting)
    learn(agent, 2)
    look(agent, 2.0)
    learn(agent, 2)
    assert agent.phase == "training"
    for policy in (agent.actor, agent.acting, agent.cloned_actor):
        assert policy is not None
        assert same(best, policy)


def test_without_a_look_the_cloned_policy_is_the_one_that_the_game_begins_with() -> None:
    agent = make_agent(warm_start=WarmStart(6, patience=1))
    start = snapshot(agent.actor)
    learn(agent, 6)
    assert not same(start, agent.actor)
    assert agent.cloned_actor is not None
    assert same(snapshot(agent.actor), agent.cloned_actor)
    assert agent.evaluate_losses(make_batch())["departure"].item() == 0.0


def fit(
    folder: Path, epochs: int, checkpoint: Path | None = None, trust: TrustRegion = TrustRegion(0.2), **data: Any
) -> ATAC:
    source = write_hdf5(folder / "tiny.h5", make_arrays())
    settings: dict[str, Any] = {"validation_fraction": 0.4, "updates_per_epoch": 2, "batch_size": 4, **data}
    module = OfflineDataModule(str(source), cache_dir=str(folder / "cache"), validation_batches=1, **settings)
    agent = ATAC(
        module.spaces,
        hidden=[8],
        warm_start=WarmStart(40, patience=1, saturation=0.01, loss="squared_error"),
        critic=CriticUpdates(target_rate=0.5, layer_norm=True),
        trust=trust,
        actor=ActorUpdates(average_rate=0.5),
        adaptive_beta=AdaptiveBeta(1.5),
        beta=[1.0, 4.0],
        discount=0.5,
        critic_lr=0.05,
        actor_lr=0.01,
    )
    train(agent, module, folder, epochs, checkpoint)
    return agent


@pytest.mark.filterwarnings("ignore")
def test_a_run_follows_the_rule_and_its_checkpoint_knows_where_it_stands(tmp_path: Path) -> None:
    whole = fit(tmp_path, 14)
    assert whole.plateau is not None
    assert whole.plateau.reached_at is not None
    assert whole.phase == "training"
    reached = whole.plateau.reached_at
    assert whole.updates > max(reached, 20)
    fit(tmp_path, reached // 2)  # ends with the look that was one too many
    parts = ATAC.from_checkpoint(tmp_path / f"{reached // 2}.ckpt")
    assert parts.phase == "warm start"
    assert not parts.actor_turn
    parts = ATAC.from_checkpoint(tmp_path / "14.ckpt")
    assert parts.phase == "training"
    assert parts.plateau is not None
    assert parts.plateau.reached_at == reached
    assert_equal(dict(parts.state_dict()), dict(whole.state_dict()))
    # From within each phase it goes on as if it had never stopped.
    fit(tmp_path, 13)
    for stop in (reached // 2, 13):
        parts = fit(tmp_path, 14, tmp_path / f"{stop}.ckpt")
        assert_equal(dict(parts.state_dict()), dict(whole.state_dict()))
        for name in ("actor_optimizer", "critic_optimizer", "temperature_optimizer"):
            assert_equal(getattr(parts, name).state_dict(), getattr(whole, name).state_dict())


@pytest.mark.filterwarnings("ignore")
def test_a_run_on_data_that_leave_nothing_to_gain_ends_with_the_cloned_policy(tmp_path: Path) -> None:
    cloned = fit(tmp_path, 30, trust=TrustRegion(0.2, headroom=1e3, updates=3))
    assert cloned.plateau is not None
    assert cloned.plateau.reached_at is not None
    assert cloned.updates == max(cloned.plateau.reached_at + 1, 20)
    assert cloned.ended_by == "trust.headroom"
    assert cloned.cloned_actor is not None
    assert_equal(dict(cloned.actor.state_dict()), dict(cloned.cloned_actor.state_dict()))
    again = fit(tmp_path, 31, tmp_path / "30.ckpt", trust=TrustRegion(0.2, headroom=1e3, updates=3))
    assert_equal(dict(again.state_dict()), dict(cloned.state_dict()))
    played = fit(tmp_path, 31, tmp_path / "30.ckpt", trust=TrustRegion(0.2, updates=3))
    assert played.updates == cloned.updates + 3


@pytest.mark.filterwarnings("ignore")
def test_a_game_of_so_many_updates_ends_the_run_wherever_it_began(tmp_path: Path) -> None:
    short = fit(tmp_path, 30, trust=TrustRegion(0.2, updates=3))
    assert short.plateau is not None
    assert short.plateau.reached_at is not None
    assert short.updates == max(short.plateau.reached_at + 1, 20) + 3 < 60
    assert short.ended_by == "trust.updates"
    # It is validated where it ends, so that there is a verdict on the last policy.
    assert short.validated_at == short.updates
    # What is continued is not trained any more, unless there is more of a game.
    again = fit(tmp_path, 31, tmp_path / "30.ckpt", trust=TrustRegion(0.2, updates=3))
    assert again.updates == short.updates
    assert_equal(dict(again.state_dict()), dict(short.state_dict()))
    longer = fit(tmp_path, 31, tmp_path / "30.ckpt", trust=TrustRegion(0.2, updates=5))
    assert longer.updates == short.updates + 2


@pytest.mark.filterwarnings("ignore")
def test_without_held_out_episodes_the_rule_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"patience looks at held-out episodes.*data\.validation_fraction"):
        fit(tmp_path, 1, validation_fraction=0.0)


@pytest.mark.parametrize("headroom", [None, 0.3])
def test_data_of_a_single_episode_are_learned_from_once_the_one_refusal_is_followed(headroom: float | None) -> None:
    settings = {"warm_start": WarmStart(50, patience=1), "trust": TrustRegion(0.2, headroom=headroom)}
    run = cast(Trainer, SimpleNamespace(val_check_interval=1.0, check_val_every_n_epoch=1, limit_val_batches=1.0))
    data = SimpleNamespace(held_out_episodes=0, updates_per_epoch=5, training_returns=torch.ones(1))
    with pytest.raises(ValueError, match="dataset with more than one episode") as refusal:
        make_agent(**settings).check_run(run, data)
    named = re.fullmatch(r".*, or (.*) to null", str(refusal.value))
    assert named is not None
    off = dict.fromkeys(sorted(re.split(", | and ", named[1])))
    assert len(off) == (2 if headroom is None else 3)
    make_agent(**settings | off).check_run(run, data)


@pytest.mark.parametrize(
    ("trainer", "first"),
    [
        ({}, 40),
        ({"val_check_interval": 0.5}, 20),
        ({"val_check_interval": 7}, 7),
        ({"check_val_every_n_epoch": 3}, 120),
    ],
)
def test_a_warm_start_that_ends_before_the_first_look_is_refused(trainer: dict[str, Any], first: int) -> None:
    settings = {"val_check_interval": 1.0, "check_val_every_n_epoch": 1, "limit_val_batches": 1.0, **trainer}
    data = SimpleNamespace(updates_per_epoch=40)
    run = cast(Trainer, SimpleNamespace(**settings))
    check_looked_at(run, data, first + 1, "warm_start.patience")
    with pytest.raises(ValueError, match=f"after {first} updates.*warm_start.updates={first} ends the cloning before"):
        make_agent(warm_start=WarmStart(first, patience=1)).check_run(run, data)
    make_agent(warm_start=WarmStart(first)).check_run(run, data)
    check_looked_at(run, object(), 1, "warm_start.patience")  # data of which nothing is known


def test_a_checkpoint_of_another_agent_is_named_before_its_arguments_are_read() -> None:
    other = CQL(SPACES, hidden=[8])
    saved: dict[str, Any] = {"hyper_parameters": dict(other.hparams), "state_dict": other.state_dict()}
    other.on_save_checkpoint(saved)
    with pytest.raises(ValueError, match=r"holds a modules\.algorithms\.cql\.CQL, but the configured .* is a .*ATAC"):
        make_agent().on_load_checkpoint(saved)
    with pytest.raises(ValueError, match="not written by reverie"):
        make_agent().on_load_checkpoint({"state_dict": {}})


def test_settings_of_a_warm_start_that_is_over_cannot_change(tmp_path: Path) -> None:
    old = make_agent(warm_start=WarmStart(4))
    learn(old, 5)
    saved: dict[str, Any] = {"hyper_parameters": dict(old.hparams), "state_dict": old.state_dict()}
    old.on_save_checkpoint(saved)
    with pytest.raises(ValueError, match=r"warm_start\.loss"):
        make_agent(warm_start=WarmStart(4, loss="squared_error")).on_load_checkpoint(saved)
    with pytest.raises(ValueError, match=r"warm_start\.patience.*a run keeps its rule"):
        make_agent(warm_start=WarmStart(4, patience=2)).on_load_checkpoint(saved)
