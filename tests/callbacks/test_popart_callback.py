"""PopArt inside the updates of an agent that learns given targets: statistics, moments of Adam, ranks, resume."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import pytest
import torch
from ranks import run_on_ranks
from tensordict import TensorDict
from torch import Tensor
from toy_run import SPACES, Toy, ToyData, make_trainer

from callbacks.checkpointing import ExactResume
from callbacks.popart import PopArt, moments
from modules.agent.agent import Agent
from modules.agent.descent import descend, make_adam
from modules.algorithms.a2c import A2C
from modules.batch import Spaces
from modules.contracts import Update
from modules.networks.blocks import DenseStack
from modules.networks.value_heads import Head, PopArtHead

TRUNK = partial(DenseStack, layers=1)


class Regression(Agent):
    """Learns `1e4 + 5e3 x` for every action `x` in the batch."""

    events = frozenset({"on_targets"})

    def __init__(self, spaces: Spaces = SPACES, tasks: int = 1, lr: float = 1e-2, codec: Any = None) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["spaces"])
        self.spaces = spaces
        self.alive = [True]
        torch.manual_seed(0)
        self.value = Head(1, 4, TRUNK) if codec == "Scalar" else PopArtHead(1, 4, TRUNK, tasks)
        self.target_value = copy.deepcopy(self.value).requires_grad_(False)
        self.statistics = PopArtHead(1, 4, TRUNK).requires_grad_(False)  # which nobody announces
        self.optimizer = make_adam(self.value.parameters(), lr)
        self.seen: dict[str, list[float]] = {}

    def learn(self, batch: TensorDict) -> Update:
        x = batch["action"]
        return Update(self.fit_to(x, 1e4 + 5e3 * x[:, 0]))

    def fit_to(
        self, x: Tensor, targets: Tensor, mask: Tensor | None = None, task: Tensor | None = None
    ) -> dict[str, Tensor]:
        metrics = self.announce("on_targets", (self.value, self.target_value), targets, mask, task)
        loss = self.value.loss(self.value(x), targets, **({} if task is None else {"task": task}))
        descend(self.optimizer, (loss if mask is None else loss * mask).mean())
        return metrics | {"loss": loss.detach().mean()}

    def log_metrics(self, values: Any) -> None:
        super().log_metrics(values)
        for name, value in values.items():
            self.seen.setdefault(name.removeprefix("regression/"), []).append(value)


def joined(popart: PopArt, agent: Agent) -> Any:
    """The agent with the callback, as a trainer would bring them together."""
    popart.on_fit_start(SimpleNamespace(optimizers=[agent.optimizer]), agent)  # type: ignore[arg-type]
    agent.attach(popart)
    return agent


def fit(folder: Path, agent: Agent, popart: PopArt, updates: int, epochs: int = 1, **arguments: Any) -> Any:
    trainer = make_trainer(folder, epochs, [popart, ExactResume()], log_every_n_steps=1)
    trainer.fit(agent, datamodule=ToyData(updates), **arguments)
    return trainer


# --------------------------------------------------------------------------------------------------------- statistics
def test_moments_are_those_of_each_tasks_own_targets() -> None:
    targets = torch.tensor([[1.0, 2.0, 3.0], [4.0, float("nan"), 1e4]])
    mask = torch.tensor([[True, True, True], [True, False, True]])
    task = torch.tensor([[0, 2, 0], [0, 0, 2]])
    total, squares, count = moments(targets, mask, task, 4)
    assert total.tolist() == [8.0, 0.0, 10002.0, 0.0]
    assert squares.tolist() == [26.0, 0.0, 1e8 + 4.0, 0.0]
    assert count.tolist() == [3.0, 0.0, 2.0, 0.0]
    assert [x.tolist() for x in moments(targets[0], None, None, 1)] == [[6.0], [14.0], [3.0]]


def test_statistics_follow_and_no_value_changes() -> None:
    agent = joined(PopArt(decay=0.25), Regression(tasks=2))
    x = torch.linspace(-2.0, 2.0, 32).unsqueeze(-1)
    task = torch.arange(32) % 2
    heads = agent.value, agent.target_value
    with torch.no_grad():
        agent.target_value.output.weight.mul_(0.5)  # a target network's are its own
    for size in (1.0, 1e4):
        before = [head.mean(head(x), task) for head in heads]
        found = agent.announce("on_targets", heads, size * (3.0 + torch.arange(32.0) % 2 + x[:, 0]), None, task)
        for head, old in zip(heads, before, strict=True):
            sigma = head.codec.sigma[task]
            assert ((head.mean(head(x), task) - old).abs() / sigma).max() < 1e-5
    # Weights of the two batches are 0.75 * 0.25 and 0.25; their means 3 and 3e4, and 4 and 4e4.
    share = 0.25 / (0.25 + 0.75 * 0.25)
    expected = [size * (1.0 - share + 1e4 * share) for size in (3.0, 4.0)]
    assert [found[f"popart/mu/{k}"].item() for k in range(2)] == pytest.approx(expected, abs=5e2)
    for mine, theirs in zip(heads[0].codec.buffers(), heads[1].codec.buffers(), strict=True):
        assert torch.equal(mine, theirs)


def test_tasks_absent_from_the_batch_keep_everything() -> None:
    agent = joined(PopArt(decay=0.25, adam="scaled"), Regression(tasks=3, lr=0.0))
    x = torch.randn(30, 1)
    agent.fit_to(x, 100.0 * torch.randn(30), task=torch.arange(30) % 3)
    state = agent.optimizer.state[agent.value.output.weight]
    kept = [x[1].clone() for x in (agent.value.output.weight, agent.value.output.bias, *agent.value.codec.buffers())]
    moment = state["exp_avg_sq"][1].clone()
    agent.announce(
        "on_targets", (agent.value, agent.target_value), torch.full((30,), 1e4), None, 2 * (torch.arange(30) % 2)
    )
    after = [x[1] for x in (agent.value.output.weight, agent.value.output.bias, *agent.value.codec.buffers())]
    assert all(torch.equal(a, b) for a, b in zip(kept, after, strict=True))
    assert torch.equal(state["exp_avg_sq"][1], moment)
    assert agent.value.codec.mu[0] > 1e3


# ----------------------------------------------------------------------------------------------------- Adam's moments
def test_scaled_moments_are_those_of_gradients_in_the_new_units() -> None:
    """Statistics that are set before any learning, or set by a jump after a gradient of the same errors."""
    x = torch.linspace(-1.0, 1.0, 16).unsqueeze(-1)
    jumped, early = (joined(PopArt(decay=1.0, adam="scaled"), Regression(lr=0.0)) for _ in range(2))
    for agent, targets in (
        (jumped, 3.0 * x[:, 0]),
        (early, 5e3 + 1e4 * x[:, 0]),
    ):  # with decay 1 they are those of the last batch
        agent.announce("on_targets", (agent.value, agent.target_value), targets, None, None)
    errors = torch.cos(5.0 * x[:, 0])
    for agent in (jumped, early):
        mean = agent.value.mean(agent.value(x)).detach()
        agent.attach()
        descend(agent.optimizer, agent.value.loss(agent.value(x), mean + errors).mean())
    callback = PopArt(decay=1.0, adam="scaled")
    joined(callback, jumped).announce("on_targets", (jumped.value,), 5e3 + 1e4 * x[:, 0], None, None)
    for name in ("weight", "bias"):
        mine, theirs = (a.optimizer.state[getattr(a.value.output, name)] for a in (jumped, early))
        for moment in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(mine[moment], theirs[moment], rtol=1e-3, atol=0.0)
            assert mine[moment].abs().max() > 0


def test_moments_are_kept_or_forgotten() -> None:
    x, targets = torch.linspace(-1.0, 1.0, 16).unsqueeze(-1), 100.0 * torch.ones(16)
    kept, reset = (joined(PopArt(adam=adam), Regression()) for adam in ("kept", "reset"))  # type: ignore[arg-type]
    for agent in (kept, reset):
        agent.fit_to(x, targets * torch.randn(16))
    before = {k: v.clone() for k, v in kept.optimizer.state[kept.value.output.weight].items()}
    kept.announce("on_targets", (kept.value, kept.target_value), targets, None, None)
    assert all(torch.equal(before[k], v) for k, v in kept.optimizer.state[kept.value.output.weight].items())
    # After a reset, every step is Adam's first: the learning rate times the sign of the gradient.
    reset.announce("on_targets", (reset.value, reset.target_value), targets, None, None)
    bias, trunk = reset.value.output.bias, reset.value.trunk.layers[0].weight
    assert not any(v.any() for v in reset.optimizer.state[bias].values())
    assert reset.optimizer.state[trunk]["step"] == 1.0
    old = bias.clone()
    reset.attach()
    loss = reset.value.loss(reset.value(x), targets).mean()
    (gradient,) = torch.autograd.grad(loss, bias, retain_graph=True)
    descend(reset.optimizer, loss)
    torch.testing.assert_close(bias - old, -0.01 * gradient.sign())


# ------------------------------------------------------------------------------------------------- runs, ranks, resume
@pytest.mark.long
def test_a_run_learns_far_targets_and_leaves_a_picture(tmp_path: Path) -> None:
    agent = Regression()
    fit(tmp_path, agent, PopArt(decay=0.01), 800)
    error = (agent.value.mean(agent.value(x := torch.linspace(-1, 1, 9).unsqueeze(-1))) - 1e4 - 5e3 * x[:, 0]).abs()
    assert error.max() < 1e3  # of a deviation of 5e3
    assert agent.seen["popart/mu"][-1] == pytest.approx(1e4, abs=1e3)
    assert agent.seen["popart/sigma"][-1] == pytest.approx(5e3, rel=0.2)
    assert (tmp_path / "popart.png").stat().st_size > 1000


@pytest.mark.parametrize("adam", ["kept", "scaled", "reset"])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, adam: Any) -> None:
    whole, first, second = Regression(), Regression(), Regression()
    reference, early, late = (PopArt(0.01, adam) for _ in range(3))
    fit(tmp_path, whole, reference, 7, 2)
    fit(tmp_path, first, early, 7).save_checkpoint(tmp_path / "a.ckpt")
    fit(tmp_path, second, late, 7, 2, ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert first.value.codec.mu != whole.value.codec.mu
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert late.history == reference.history
    assert [updates for updates, _ in late.history] == list(range(1, 15))


def test_the_notes_stay_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callbacks.popart.POINTS", 8)
    popart = PopArt()
    fit(tmp_path, Regression(), popart, 30)
    assert len(popart.history) <= 8
    assert popart.history[-1][0] == 30


def batch_of(rank: int, update: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Other targets, another number of them and other tasks on each rank."""
    generator = torch.Generator().manual_seed(10 * update + rank)
    x = torch.randn(8, 1, generator=generator)
    task = torch.randint(1 + rank, (8,), generator=generator)  # the first rank has no target of the second task
    return x, (rank + 1) * 1e3 * torch.randn(8, generator=generator), torch.arange(8) < 8 - 3 * rank, task


def train_on_rank(rank: int, adam: Any) -> dict[str, Tensor]:
    agent = joined(PopArt(0.1, adam), Regression(tasks=2))
    for update in range(20):
        agent.fit_to(*batch_of(rank, update))
    return agent.state_dict()


def test_ranks_have_the_statistics_of_one_process_on_the_joined_batch(tmp_path: Path) -> None:
    first, second = run_on_ranks(2, tmp_path, train_on_rank, "scaled")
    agent = joined(PopArt(0.1, "scaled"), Regression(tasks=2))
    for update in range(20):
        agent.fit_to(*(torch.cat(pair) for pair in zip(batch_of(0, update), batch_of(1, update), strict=True)))
    for name, value in agent.state_dict().items():
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
        torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-5)


def windows_of(rank: int, update: int, rows: int = 4, steps: int = 6) -> TensorDict:
    """Windows for A2C; rewards are of another size on each rank."""
    generator = torch.Generator().manual_seed(10 * update + rank)
    shape = [rows, steps]
    seen = TensorDict({"seen": torch.randn(*shape, 3, generator=generator)}, shape)
    seen["task"] = torch.eye(2)[torch.randint(2, shape, generator=generator)]
    flags = {name: torch.rand(shape, generator=generator) < 0.1 for name in ("is_first", "terminated", "truncated")}
    fields = {
        "observation": seen,
        "previous_action": torch.randint(3, shape, generator=generator),
        "reward": 10.0 ** (1 + 2 * rank) * torch.randn(shape, generator=generator),
        "stored": 0.1 * torch.randn(*shape, 1, generator=generator) - 1.0,
    }
    return TensorDict(fields | flags, shape)


def actor_critic() -> A2C:
    torch.manual_seed(0)
    parts = {"seen": gym.spaces.Box(-9.0, 9.0, (3,)), "task": gym.spaces.Box(0.0, 1.0, (2,))}
    spaces = Spaces(gym.spaces.Dict(parts), gym.spaces.Discrete(3))
    return joined(PopArt(0.1), A2C(spaces, trunk=TRUNK, units=8, critic=partial(PopArtHead, tasks=2), task_key="task"))


def train_actor_critic(rank: int) -> dict[str, Tensor]:
    agent = actor_critic()
    for update in range(20):
        agent.update(windows_of(rank, update))
    return agent.state_dict()


def test_actor_critics_on_two_ranks_equal_one_on_the_joined_windows(tmp_path: Path) -> None:
    first, second = run_on_ranks(2, tmp_path, train_actor_critic)
    agent = actor_critic()
    for update in range(20):
        agent.update(torch.cat([windows_of(rank, update) for rank in range(2)]))
    for name, value in agent.state_dict().items():
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-4)


@pytest.mark.compile
@pytest.mark.parametrize("adam", ["kept", "scaled", "reset"])
def test_the_callback_is_part_of_one_graph(adam: Any) -> None:
    plain, traced = (joined(PopArt(0.1, adam), Regression(tasks=2)) for _ in range(2))
    step = torch.compile(traced.fit_to, fullgraph=True, backend="eager")
    for update in range(4):
        expected, found = plain.fit_to(*batch_of(1, update)), step(*batch_of(1, update))
        assert expected.keys() == found.keys()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(traced.state_dict()[name], value, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------------------------ mistakes
@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"decay": 0.0}, "decay must lie in"), ({"adam": "none"}, "adam must be one of kept, scaled, reset, got 'none'")],
)
def test_mistakes_are_named(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PopArt(**arguments)


def test_heads_that_cannot_take_part_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="PopArt would be ignored: Toy never announces on_targets"):
        fit(tmp_path, Toy(SPACES), PopArt(), 1)
    scalar = Regression(codec="Scalar")
    with pytest.raises(ValueError, match="PopArt: value of Regression has the codec Scalar, which has no statistics"):
        fit(tmp_path, scalar, PopArt(), 1)
    del scalar.statistics
    with pytest.raises(ValueError, match="PopArt would be ignored: no value head of Regression has statistics"):
        fit(tmp_path, scalar, PopArt(), 1)
    with pytest.raises(ValueError, match="targets of 2 tasks were announced without their tasks"):
        fit(tmp_path, Regression(tasks=2), PopArt(), 1)
