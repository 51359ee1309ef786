"""The ensemble of dynamics: losses by plain loops, a system that is known, networks alone, its rule, and resume."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from dynamics_agents import MATRIX, NOISE, NUMBERED, PUSH, SPACES, linear, make, numbered
from equal import assert_equal
from ranks import run_on_ranks
from runs_in_parts import train
from tiny_dataset import make_arrays, write_hdf5

from callbacks.evaluation.played_environment import choose_environment
from commands.checkpoints import load_agent
from datamodules.envs.recorded_environment import Changes
from datamodules.offline import OfflineDataModule
from modules.algorithms.dynamics_ensemble import DynamicsEnsemble
from modules.batch import Spaces, Transition
from modules.networks.dynamics import BOUND_WEIGHT


def joined(*batches: Transition) -> Transition:
    return Transition(*(torch.cat(parts) for parts in zip(*(b[:6] for b in batches), strict=True)))


def test_held_out_losses_are_those_of_plain_loops() -> None:
    agent, batch = make(seeds=3, hidden=[8]), linear(16)
    for i in range(3):
        agent.update(joined(*(linear(16, seed=3 * i + k) for k in range(3))))
    found = agent.evaluate_losses(batch)
    predicted = agent.predict(batch.observation.repeat(3, 1, 1), batch.action.repeat(3, 1, 1))
    assert predicted.termination is not None
    deviation = agent.dynamics.scale.deviation
    means = torch.zeros(3, 16, 3)
    for m in range(3):
        likelihood, error, ends = 0.0, 0.0, 0.0
        for b in range(16):
            target = [*(batch.next_observation[b] - batch.observation[b]).tolist(), float(batch.reward[b])]
            for k in range(3):
                mean, std = float(predicted.mean[m, b, k]), math.exp(predicted.log_std[m, b, k])
                density = math.exp(-0.5 * ((target[k] - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))
                likelihood -= math.log(density) / 16
                error += ((target[k] - mean) / float(deviation[m, 0, k])) ** 2 / 48
                means[m, b, k] = mean
            chance = 1 / (1 + math.exp(-predicted.termination[m, b]))
            ends -= math.log(chance if batch.terminated[b] else 1 - chance) / 16
        assert float(found["negative_log_likelihood"][m]) == pytest.approx(likelihood, rel=1e-4)
        assert float(found["squared_error"][m]) == pytest.approx(error, rel=1e-4)
        assert float(found["termination_loss"][m]) == pytest.approx(ends, rel=1e-4)
    deviations = agent.dynamics.scale.deviation
    apart = ((means - means.mean(0)) / deviations).square().mean((1, 2))
    torch.testing.assert_close(found["disagreement"], apart, rtol=1e-4, atol=0)


def test_the_mean_over_networks_that_are_finite_stands_beside_each_one() -> None:
    agent = make(seeds=3)
    named = agent.named_metrics("validation", {"squared_error": torch.tensor([1.0, math.nan, 2.0])})
    assert {name: x.item() for name, x in named.items() if math.isfinite(x)} == {
        "validation/seed=0/squared_error": 1.0, "validation/seed=2/squared_error": 2.0, "validation/squared_error": 1.5
    }  # fmt: skip
    assert [*make(seeds=1).named_metrics("validation", {"squared_error": torch.ones(1)})] == [
        "validation/squared_error"
    ]


def test_an_update_is_an_adam_step_on_likelihood_bounds_and_termination() -> None:
    agent, batch = make(seeds=1), linear(16)
    agent.dynamics.scale.see(torch.cat([batch.next_observation - batch.observation, batch.reward[:, None]], -1)[None])
    weight = agent.dynamics.network.layers[0].weight
    before = weight.detach().clone()
    predicted = agent.predict(batch.observation[None], batch.action[None])
    assert predicted.termination is not None
    target = torch.cat([batch.next_observation - batch.observation, batch.reward[:, None]], -1)
    likelihood = -torch.distributions.Normal(predicted.mean[0], predicted.log_std[0].exp()).log_prob(target).mean()
    ends = torch.nn.functional.binary_cross_entropy_with_logits(predicted.termination[0], batch.terminated.float())
    width = (agent.dynamics.high - agent.dynamics.low).sum()
    assert float(width) == pytest.approx(3 * 10.5)
    assert BOUND_WEIGHT == 0.01 / 2
    (gradient,) = torch.autograd.grad(likelihood + ends + 0.005 * width, weight)
    agent.dynamics.scale.count.zero_()  # the update sees the same targets once more, as its first ones
    agent.dynamics.scale.mean.zero_()
    metrics = agent.update(batch).metrics
    step = -1e-3 * gradient / (gradient.abs() + 1e-8)  # Adam's first one
    torch.testing.assert_close(weight.detach() - before, step, rtol=1e-3, atol=1e-6)
    assert float(metrics["termination_loss"]) == pytest.approx(float(ends), rel=1e-5)
    assert float(metrics["bound_width"]) == pytest.approx(10.5)


@pytest.mark.parametrize("spaces", [SPACES, NUMBERED], ids=["box", "numbered"])
def test_it_recovers_a_linear_system_and_its_noise(spaces: Spaces) -> None:
    agent = make(spaces, hidden=[32], lr=5e-3)
    batches = linear if spaces is SPACES else numbered
    for i in range(400):
        agent.update(joined(batches(128, seed=2 * i), batches(128, seed=2 * i + 1)))
    held_out = batches(256, seed=10_000)
    errors = agent.evaluate_losses(held_out)
    assert bool((errors["squared_error"] < (0.05 if spaces is SPACES else 0.01)).all())  # noise is 0.04 of it
    rows = [x.repeat(2, *[1] * x.ndim) for x in (held_out.observation, held_out.action)]
    predicted = agent.predict(*rows)
    action = held_out.action if spaces is SPACES else (held_out.action - 2)[:, None]
    change = held_out.observation @ MATRIX.T + action * PUSH - held_out.observation
    assert float((predicted.mean[..., :2] - change).abs().mean()) < 0.05
    assert predicted.termination is not None
    assert float(((predicted.termination[0] > 0) == held_out.terminated).float().mean()) > 0.95
    if spaces is SPACES:
        noise = predicted.log_std.exp()[..., :2].median(1).values
        assert noise[:, 0].tolist() == pytest.approx([NOISE, NOISE], rel=0.4)
        assert bool((noise[:, 1] < noise[:, 0]).all())


def test_a_network_equals_the_same_one_alone() -> None:
    both, alone = make(), make(seeds=1, seed=1)
    for i in range(5):
        mine = linear(seed=2 * i + 1)
        both.update(joined(linear(seed=2 * i), mine))
        alone.update(mine)
    assert both.member_names == ("seed=0", "seed=1")
    for name, value in alone.dynamics.state_dict().items():
        torch.testing.assert_close(both.dynamics.state_dict()[name][1:] if value.ndim else value, value, msg=name)
    observation, action = torch.randn(2, 4, 2), torch.rand(2, 4, 1)
    first, second = both.predict(observation, action).mean
    assert not torch.allclose(first, second)


def test_without_terminations_nothing_is_said_about_ends() -> None:
    agent, batch = make(terminations=False), linear()
    assert agent.predict(batch.observation.repeat(2, 1, 1), batch.action.repeat(2, 1, 1)).termination is None
    names = {*agent.update(joined(batch, batch)).metrics, *agent.evaluate_losses(batch)}
    assert not [name for name in names if "termination" in name]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [({"seeds": 0}, "seeds must be at least 1"), ({"hidden": [0]}, "hidden must lie"), ({"lr": -1.0}, "lr must lie"),
     ({"patience": 0}, "patience must be"), ({"initializer": "zeros"}, "initializer must be one of")],
)  # fmt: skip
def test_bad_arguments_are_refused(arguments: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        make(**arguments)


def test_spaces_that_are_no_flat_boxes_are_refused() -> None:
    with pytest.raises(ValueError, match="flat Box of observations"):
        make(Spaces(gym.spaces.Discrete(3), SPACES.action))


# ------------------------------------------------------------------------------------------------- the rule, and resume
def data(folder: Path, **changes: Any) -> OfflineDataModule:
    source = write_hdf5(folder / "tiny.h5", make_arrays())
    return OfflineDataModule(
        str(source), cache_dir=str(folder / "cache"), validation_batches=1, updates_per_epoch=2, batch_size=4,
        minibatches=2, validation_fraction=0.4, normalize_observation=True, **changes,
    )  # fmt: skip


def fit(folder: Path, epochs: int, checkpoint: Path | None = None, **changes: Any) -> DynamicsEnsemble:
    module = data(folder)
    agent = DynamicsEnsemble(module.spaces, **{"seeds": 2, "hidden": [8], "lr": 0.03, "patience": 2, **changes})
    train(agent, module, folder, epochs, checkpoint)
    return agent


@pytest.mark.filterwarnings("ignore")
def test_a_run_ends_by_the_rule_and_predicts_with_the_best_networks(tmp_path: Path) -> None:
    whole = fit(tmp_path, 200)
    assert whole.plateau is not None
    assert whole.plateau.reached_at == whole.updates < 400
    held_out = next(iter(data(tmp_path).val_dataloader()))
    last = whole.evaluate_losses(held_out)["negative_log_likelihood"].mean().item()
    assert whole.predicting is whole.best_dynamics is not None
    whole.dynamics.load_state_dict(whole.predicting.state_dict())
    best = whole.evaluate_losses(held_out)["negative_log_likelihood"].mean().item()
    assert best == pytest.approx(float(whole.plateau.best), rel=1e-5)
    assert best <= last
    restored = DynamicsEnsemble.from_checkpoint(tmp_path / "200.ckpt")
    observation, action = torch.randn(2, 5, 3), torch.rand(2, 5, 2)
    torch.testing.assert_close(restored.predict(observation, action).mean, whole.predict(observation, action).mean)


@pytest.mark.filterwarnings("ignore")
def test_a_run_in_two_parts_is_the_whole_run(tmp_path: Path) -> None:
    whole = fit(tmp_path, 6, patience=50)
    fit(tmp_path, 3, patience=50)
    parts = fit(tmp_path, 6, tmp_path / "3.ckpt", patience=50)
    assert_equal(dict(parts.state_dict()), dict(whole.state_dict()))


def learned_on(rank: int) -> list[torch.Tensor]:
    agent, whole = make(seeds=1), linear(32)
    for _ in range(3):
        agent.update(Transition(*(x[16 * rank : 16 * rank + 16] for x in whole[:6])))
    return list(agent.dynamics.state_dict().values())


def test_two_ranks_learn_what_one_learns_from_both_halves(tmp_path: Path) -> None:
    first, second = run_on_ranks(2, tmp_path, learned_on)
    alone = make(seeds=1)
    for _ in range(3):
        alone.update(linear(32))
    for p, q, r in zip(first, second, alone.dynamics.state_dict().values(), strict=True):
        assert torch.equal(p, q)
        torch.testing.assert_close(p, r, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------------------------------- it does not act
@pytest.mark.filterwarnings("ignore")
def test_nothing_plays_it(tmp_path: Path) -> None:
    module = data(tmp_path, environment="Pendulum-v1", observation_space=gym.spaces.Box(-np.inf, np.inf, (3,)),
                  action_space=gym.spaces.Box(-1.0, 1.0, (2,)))  # fmt: skip
    agent = DynamicsEnsemble(module.spaces, seeds=2, hidden=[8])
    played = choose_environment(module, agent, Changes())
    assert played.spec is None
    assert played.info is module.info
    with pytest.raises(ValueError, match=r"^evaluation\.environment: a DynamicsEnsemble does not act; leave it out$"):
        choose_environment(module, agent, Changes("Pendulum-v1"))
    with pytest.raises(ValueError, match="chooses no actions: give the checkpoint of a policy"):
        agent.policy()
    fit(tmp_path, 1, patience=None)
    with pytest.raises(ValueError, match=r"1\.ckpt holds a DynamicsEnsemble, which chooses no actions"):
        load_agent(tmp_path / "1.ckpt")
