"""KL balancing inside the updates of an agent whose optimum is known in closed form."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_on_ranks
from tensordict import TensorDict
from torch import Tensor, nn
from toy_run import SPACES, Toy, ToyData, make_trainer

from callbacks.kl_balancing import KLBalancing
from modules.agent.agent import Agent
from modules.agent.descent import descend, make_adam
from modules.batch import Spaces
from modules.contracts import Update

WISH = 3.0


class Compromise(Agent):
    """Wants its posterior at 3; its prior rests at 0, and both are normals of deviation 1, so that KL = w^2 / 2."""

    events = frozenset({"on_kl"})

    def __init__(self, spaces: Spaces = SPACES, lr: float = 0.05) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["spaces"])
        self.spaces = spaces
        self.alive = [True]
        self.posterior = nn.Parameter(torch.tensor(2.0))
        self.optimizer = make_adam([self.posterior], lr)
        self.seen: dict[str, list[float]] = {}

    def learn(self, batch: TensorDict) -> Update:
        kl = 0.5 * self.posterior.square().expand(4, 2)
        loss, metrics = self.announce("on_kl", kl.detach(), kl)
        descend(self.optimizer, (self.posterior - WISH).square() + loss)
        return Update(metrics)

    def log_metrics(self, values: Any) -> None:
        for name, value in values.items():
            self.seen.setdefault(name.removeprefix("compromise/kl_balancing/"), []).append(value)


def fit(folder: Path, agent: Agent, balancing: KLBalancing, updates: int, **arguments: Any) -> Any:
    trainer = make_trainer(folder, 1, [balancing], log_every_n_steps=1)
    trainer.fit(agent, datamodule=ToyData(updates), **arguments)
    return trainer


# --------------------------------------------------------------------------------------------------------- the loss
def gradients(balancing: KLBalancing) -> tuple[Tensor, Tensor, dict[str, float]]:
    dynamic, representation = (torch.tensor([[0.5, 1.5], [3.0, 1.0]], requires_grad=True) for _ in range(2))
    loss, metrics = balancing.on_kl(Compromise(), dynamic, representation)
    assert not any(m.requires_grad for m in metrics.values())
    loss.backward()
    return dynamic.grad, representation.grad, {name: m.item() for name, m in metrics.items()}


def test_the_gradient_is_split_and_scaled() -> None:
    dynamic, representation, metrics = gradients(KLBalancing(scale=10.0))
    torch.testing.assert_close(dynamic, torch.full((2, 2), 2.0))
    torch.testing.assert_close(representation, torch.full((2, 2), 0.5))
    assert metrics == {
        "kl_balancing/dynamic": 1.5,
        "kl_balancing/representation": 1.5,
        "kl_balancing/loss": 15.0,
        "kl_balancing/share_below_free_nats": 0.0,
        "kl_balancing/alpha": pytest.approx(0.8),
        "kl_balancing/scale": 10.0,
        "kl_balancing/free_nats": 0.0,
    }


def test_free_nats_stop_both_gradients() -> None:
    dynamic, representation, metrics = gradients(KLBalancing(free_nats=2.0))
    assert not dynamic.any()
    assert not representation.any()
    assert metrics["kl_balancing/share_below_free_nats"] == 0.75
    assert metrics["kl_balancing/loss"] == pytest.approx(2.0)
    dynamic, representation, _ = gradients(KLBalancing(free_nats=2.0, per_step=True, alpha=0.25))
    torch.testing.assert_close(dynamic, torch.tensor([[0.0, 0.0], [0.0625, 0.0]]))
    torch.testing.assert_close(representation, torch.tensor([[0.0, 0.0], [0.1875, 0.0]]))


@pytest.mark.compile
def test_a_changing_scale_needs_no_second_graph() -> None:
    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    balancing, agent, kl = KLBalancing(scale=2.0, target=1.0), Compromise(), torch.full((3, 2), 1.5)
    compiled = torch.compile(lambda x: balancing.on_kl(agent, x, x), fullgraph=True, backend=backend)
    assert compiled(kl)[0].item() == pytest.approx(3.0)
    assert balancing.measured.item() == 1.5
    balancing.scale.fill_(4.0)
    assert compiled(kl)[0].item() == pytest.approx(6.0)
    assert len(graphs) == 1


# ----------------------------------------------------------------------------------------------------------- schedules
def test_schedules_follow_the_updates(tmp_path: Path) -> None:
    agent = Compromise()
    fit(tmp_path, agent, KLBalancing("linear(1, 0, 4)", "exp(1, 0, 1)", "warmup(10, 2)"), 6)
    assert agent.seen["alpha"] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert agent.seen["scale"] == [1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125]
    assert agent.seen["free_nats"] == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])


def test_schedules_go_on_after_a_resume(tmp_path: Path) -> None:
    agent = Compromise()
    fit(tmp_path, agent, KLBalancing(scale="linear(1, 0, 8)"), 3).save_checkpoint(tmp_path / "a.ckpt")
    agent = Compromise()
    trainer = make_trainer(tmp_path, 2, [KLBalancing(scale="linear(1, 0, 8)")], log_every_n_steps=1)
    trainer.fit(agent, datamodule=ToyData(3), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert agent.seen["scale"] == [0.625, 0.5, 0.375]


# --------------------------------------------------------------------------------------------------------- dual ascent
@pytest.mark.long
def test_the_scale_becomes_the_multiplier_of_the_constraint(tmp_path: Path) -> None:
    # At KL = w^2 / 2 = 0.5 is w = 1; there 2 (w - 3) + scale (1 - alpha) w = 0, so the scale is 4 / 0.5.
    agent, balancing = Compromise(), KLBalancing(alpha=0.5, target=0.5, dual_lr=0.02)
    fit(tmp_path, agent, balancing, 1200)
    assert agent.seen["representation"][0] == 2.0
    assert agent.seen["representation"][-1] == pytest.approx(0.5, abs=0.01)
    assert balancing.scale.item() == pytest.approx(8.0, rel=0.01)
    # From the other side.
    agent, balancing = Compromise(), KLBalancing(alpha=0.5, target=2.0, scale=50.0, dual_lr=0.02)
    fit(tmp_path, agent, balancing, 1200)
    assert min(agent.seen["representation"]) < 0.1
    assert agent.seen["representation"][-1] == pytest.approx(2.0, abs=0.04)
    assert balancing.scale.item() == pytest.approx(2.0, rel=0.02)


def step(balancing: KLBalancing, kl: float) -> float:
    """The logarithm of the scale after an update with this mean KL."""
    balancing.measured.fill_(kl)
    balancing.on_train_batch_end(None, None, None, None, 0)  # type: ignore[arg-type]
    assert balancing.scale.item() == pytest.approx(math.exp(balancing.log_scale.item()))
    return balancing.log_scale.item()


@pytest.mark.parametrize(
    ("kl", "change"), [(2.0, 0.0), (3.0, 0.05), (1.0, -0.05), (1e9, 0.1), (math.inf, 0.1), (0.0, -0.1), (math.nan, 0.0)]
)
def test_one_step_of_dual_ascent(kl: float, change: float) -> None:
    assert step(KLBalancing(target=2.0, dual_lr=0.1), kl) == pytest.approx(change, abs=1e-6)


def test_the_scale_stays_in_its_range() -> None:
    balancing = KLBalancing(target=2.0, dual_lr=1.0, scale_range=(0.5, 4.0))
    for kl, bound in ((9.0, 4.0), (0.0, 0.5)):
        for _ in range(5):
            step(balancing, kl)
        assert balancing.scale.item() == pytest.approx(bound)


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    def make() -> tuple[Compromise, KLBalancing]:
        return Compromise(), KLBalancing(target=0.5, dual_lr=0.02)

    (whole, reference), (first, early), (second, late) = make(), make(), make()
    make_trainer(tmp_path, 2, [reference]).fit(whole, datamodule=ToyData(7))
    fit(tmp_path, first, early, 7).save_checkpoint(tmp_path / "a.ckpt")
    trainer = make_trainer(tmp_path, 2, [late])
    trainer.fit(second, datamodule=ToyData(7), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert reference.scale != early.scale
    assert torch.equal(late.scale, reference.scale)
    assert torch.equal(second.posterior, whole.posterior)


def steps_on_rank(rank: int) -> list[float]:
    balancing = KLBalancing(target=2.0, dual_lr=0.1)
    return [step(balancing, kl) for kl in ((2.5, 3.5)[rank], (2.0, 1.0)[rank])]


def test_ranks_follow_the_mean_kl_of_all(tmp_path: Path) -> None:
    first, second = run_on_ranks(2, tmp_path, steps_on_rank)
    assert first == second
    assert first == pytest.approx([0.05, 0.025])  # means of 3.0 and 1.5


# ------------------------------------------------------------------------------------------------------------ mistakes
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"alpha": 1.5}, r"alpha must lie in \[0, 1\], got 1.5"),
        ({"alpha": "linear(1, -1, 9)"}, r"alpha must lie in \[0, 1\], got -1"),
        ({"scale": -1.0}, "scale must lie in"),
        ({"free_nats": -1.0}, "free_nats must lie in"),
        ({"scale": "linear(1)"}, "is no schedule"),
        ({"dual_lr": 0.1}, "would be ignored; set target"),
        ({"scale_range": (0.1, 1.0)}, "would be ignored; set target"),
        ({"target": 1.0, "scale": "linear(1, 0.1, 9)"}, "schedule of the scale would be ignored"),
        ({"target": 1.0, "scale": 1e3}, "outside of scale_range"),
        ({"target": 1.0, "scale_range": (2.0, 1.0)}, "scale_range must rise"),
        ({"target": 1.0, "dual_lr": 0.0}, "dual_lr must be positive"),
        ({"target": 1.0, "free_nats": 1.0}, "cannot reach a target of 1.0 nats"),
        ({"target": 1.0, "free_nats": "linear(3, 0, 9)"}, "cannot reach a target"),
        ({"target": -1.0}, "cannot reach a target"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        KLBalancing(**arguments)
    assert "\n" not in str(caught.value)


def test_an_agent_without_a_kl_loss_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="KLBalancing would be ignored: Toy never announces on_kl"):
        fit(tmp_path, Toy(SPACES), KLBalancing(), 1)
