"""ATAC with a learned beta: the weight in the update, the constraint in the end, members, a checkpoint, resume."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from atac_agents import make_agent, make_batch, run, same, snapshot
from equal import assert_equal
from runs_in_parts import train
from tiny_dataset import make_arrays, write_hdf5

from datamodules.offline import OfflineDataModule
from modules.agent.adaptive_beta import LEAST_BETA, AdaptiveBeta
from modules.agent.trust_region import TrustRegion
from modules.agent.warm_start import WarmStart
from modules.algorithms.atac import ATAC
from modules.batch import Transition


def test_the_warm_start_keeps_beta_and_the_game_weighs_by_the_new_one() -> None:
    """One update of the game equals that of an agent with a fixed beta, the one that the metric says."""
    noise = torch.randn(3, 1, 32, 2, generator=torch.Generator().manual_seed(1))
    agent = make_agent(beta=2.0, warm_start=WarmStart(3), adaptive_beta=AdaptiveBeta(1.01, 0.5))
    plain = make_agent(beta=2.0, warm_start=WarmStart(3))
    errors = []
    for i in range(3):
        metrics = agent.update(make_batch(seed=i), noise).metrics
        plain.update(make_batch(seed=i), noise)
        errors.append(metrics["bellman_error"].item())
        assert metrics["beta"].item() == pytest.approx(2.0)
        for one in (agent, plain):
            one.advance()
    assert metrics["bellman_bound"].item() == pytest.approx(1.01 * sum(errors) / 3, rel=1e-5)
    assert same(snapshot(plain.critic), agent.critic)
    metrics = agent.update(make_batch(seed=9), noise).metrics
    grows = metrics["bellman_error"] > metrics["bellman_bound"]
    assert metrics["beta"].item() == pytest.approx(2.0 * torch.tensor(0.5 if grows else -0.5).exp().item(), rel=1e-4)
    plain.beta.fill_(metrics["beta"].item())
    plain.update(make_batch(seed=9), noise)
    assert same(snapshot(plain.critic), agent.critic)


@pytest.mark.long
def test_the_error_comes_to_its_bound_and_beta_away_from_its_limits() -> None:
    settings = {"critic_lr": 3e-3, "actor_lr": 1e-4, "warm_start": WarmStart(200)}
    agent = make_agent(beta=0.05, adaptive_beta=AdaptiveBeta(1.5, 0.02), **settings)
    run(agent, 200)
    late = []
    for i in range(700):
        metrics = agent.update(make_batch(seed=i % 10)).metrics
        if i >= 500:
            late.append(metrics["bellman_error"].item() / metrics["bellman_bound"].item())
    assert sum(late) / len(late) == pytest.approx(1.0, abs=0.1)
    assert 2 * LEAST_BETA < metrics["beta"].item() < 10.0


def test_members_have_a_bound_and_a_beta_each() -> None:
    settings = {"warm_start": WarmStart(5), "adaptive_beta": AdaptiveBeta(1.1, 0.05)}
    four, alone = make_agent(beta=[0.5, 4.0], seeds=2, **settings), make_agent(beta=4.0, seed=1, **settings)
    for i in range(12):
        other, mine = make_batch(seed=2 * i), make_batch(seed=2 * i + 1)
        many = four.update(Transition(*(torch.cat([x, y]) for x, y in zip(other, mine, strict=True)))).metrics  # type: ignore[arg-type]
        one = alone.update(mine).metrics
        for name in ("beta", "bellman_bound"):
            assert many[name][3].item() == pytest.approx(one[name].item(), rel=1e-4)
        for agent in (four, alone):
            agent.advance()
    assert len(set(many["beta"].tolist())) == 4


def fit(folder: Path, epochs: int, checkpoint: Path | None = None, tolerance: float | None = 1.1) -> ATAC:
    module = OfflineDataModule(
        str(folder / "tiny.h5"), cache_dir=str(folder / "cache"), updates_per_epoch=2, batch_size=4
    )
    agent = ATAC(
        module.spaces, hidden=[8], actor_lr=0.03, critic_lr=0.03, warm_start=WarmStart(4),
        adaptive_beta=AdaptiveBeta(tolerance, 0.05),
    )  # fmt: skip
    train(agent, module, folder, epochs, checkpoint)
    return agent


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("first", [1, 3])
def test_a_run_in_two_parts_is_the_whole_run(tmp_path: Path, first: int) -> None:
    """Cut in the warm start, where the bound is measured, and in the game, where beta is learned."""
    write_hdf5(tmp_path / "tiny.h5", make_arrays())
    whole = fit(tmp_path, 5)
    fit(tmp_path, first)
    parts = fit(tmp_path, 5, tmp_path / f"{first}.ckpt")
    assert whole.bellman_bound is not None
    assert parts.bellman_bound is not None
    assert_equal(dict(parts.state_dict()), dict(whole.state_dict()))
    mine, theirs = (x.multiplier.optimizer.state_dict() for x in (parts.bellman_bound, whole.bellman_bound))
    assert_equal(mine, theirs)
    with pytest.raises(ValueError, match=r"adaptive_beta\.tolerance was 1\.1 in the checkpoint and is 2\.0 now"):
        fit(tmp_path, 5, tmp_path / f"{first}.ckpt", 2.0)


def test_a_learned_beta_goes_on_at_a_new_rate_but_not_from_another_start() -> None:
    settings = {"warm_start": WarmStart(1)}
    old = make_agent(adaptive_beta=AdaptiveBeta(1.1, 0.05), **settings)
    run(old, 3)
    saved = {"hyper_parameters": dict(old.hparams), "state_dict": old.state_dict()}
    old.on_save_checkpoint(saved)
    learned = []
    for lr in (0.05, 0.5):
        agent = make_agent(adaptive_beta=AdaptiveBeta(1.1, lr), **settings)
        agent.on_load_checkpoint(copy.deepcopy(saved))
        agent.load_state_dict(saved["state_dict"])
        learned.append(agent.update(make_batch(seed=5)).metrics["beta"].item())
    assert abs(learned[0] - learned[1]) > 0.1
    with pytest.raises(ValueError, match=r"model\.beta was 4\.0 in the checkpoint and is 2\.0 now.*learned since"):
        make_agent(beta=2.0, adaptive_beta=AdaptiveBeta(1.1, 0.05), **settings).on_load_checkpoint(copy.deepcopy(saved))


@pytest.mark.long
@pytest.mark.compile
@pytest.mark.usefixtures("backend")
def test_compiled_update_equals_eager() -> None:
    noise = torch.randn(3, 1, 32, 2, generator=torch.Generator().manual_seed(1))
    settings = {"warm_start": WarmStart(3, patience=1), "adaptive_beta": AdaptiveBeta(1.1, 0.05)}
    settings |= {"trust": TrustRegion(0.05, order=8.0), "actor_lr": 1e-2}
    eager, compiled = (make_agent(compile=c, **settings) for c in (False, True))
    for i in range(6):
        for agent in (eager, compiled):
            metrics = agent.update(make_batch(seed=i), noise).metrics
            agent.advance()
    assert metrics["beta"].item() != pytest.approx(4.0)
    assert metrics["distance"].item() > 0.01
    for p, q in zip(eager.state_dict().values(), compiled.state_dict().values(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-5)
