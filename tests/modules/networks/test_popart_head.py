"""Statistics that move leave every value of a head as it was."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

from modules.networks.blocks import DenseStack, OutputLinear
from modules.networks.value_codecs import Normalized
from modules.networks.value_heads import ActionHead, PopArtHead, ValueHead

TRUNK = functools.partial(DenseStack, layers=2)
TASKS = 3
DECAY = 3e-4
HEADS = {
    "popart": lambda: PopArtHead(6, 16, TRUNK, TASKS),
    "duelling": lambda: ActionHead(6, 16, TRUNK, 4, functools.partial(Normalized, TASKS)),
    "plain": lambda: ActionHead(6, 16, TRUNK, 4, functools.partial(Normalized, TASKS), duelling=False),
    "discounts": lambda: ActionHead(6, 16, TRUNK, 4, functools.partial(Normalized, TASKS), discounts=2),
}
BOUNDS = {torch.float32: 1e-5, torch.float64: 1e-10}


def values(head: ValueHead, features: Tensor) -> Tensor:
    """`[B, ..., K]` unnormalised outputs of all tasks."""
    prediction = head(features)
    task = torch.zeros(prediction.shape[:-1], dtype=torch.int64)
    return torch.stack([head.mean(prediction, task + k) for k in range(TASKS)], -1)


def follow(head: ValueHead, targets: Tensor, count: Tensor) -> None:
    """Statistics after one batch of `[K, N]` targets, of which tasks with a count of 0 have none."""
    present = (count > 0).double()
    sums = present * targets.double().sum(-1), present * targets.double().square().sum(-1), count.double()
    head.rescale(*head.codec.update_statistics(*sums, decay=DECAY))


def made(make, dtype: torch.dtype) -> ValueHead:
    torch.manual_seed(0)
    head = make()
    for module in head.modules():
        if isinstance(module, OutputLinear) and dtype == torch.float64:
            module.__class__ = nn.Linear  # as it is, but for the cast to float32
    return head.to(dtype)


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("make", HEADS.values(), ids=HEADS)
def test_values_stay_when_targets_jump(make, dtype) -> None:
    head = made(make, dtype)
    features, every = torch.randn(64, 6, dtype=dtype), torch.full((TASKS,), 32)
    for _ in range(20):
        follow(head, torch.randn(TASKS, 32), every)
    for size in (1e4, -1e4, 0.0, 1e4):  # up, down, and a slow shrinking between
        before = values(head, features)
        follow(head, size + torch.randn(TASKS, 32), every)
        change = (values(head, features) - before).abs().amax() / head.codec.sigma.min()
        assert change < BOUNDS[dtype]
    assert head.codec.sigma.min() > 10.0  # the statistics did move


def test_thousands_of_updates_add_up_to_nothing() -> None:
    head = made(HEADS["popart"], torch.float32)
    features, every = torch.randn(64, 6), torch.full((TASKS,), 8)
    before = values(head, features)
    for step in range(2000):
        follow(head, step * torch.randn(TASKS, 8), every)
    assert ((values(head, features) - before).abs().amax(0) / head.codec.sigma).max() < 1e-4


def test_tasks_absent_from_the_batch_are_untouched_bit_for_bit() -> None:
    head = made(HEADS["popart"], torch.float32)
    follow(head, torch.randn(TASKS, 8), torch.full((TASKS,), 8))
    before = {name: x.clone() for name, x in head.state_dict().items()}
    follow(head, 1e4 + torch.randn(TASKS, 8), torch.tensor([0, 8, 0]))
    for name, x in head.state_dict().items():
        if name.startswith("trunk"):
            assert torch.equal(x, before[name])
        else:  # rows and statistics by task
            assert torch.equal(x[[0, 2]], before[name][[0, 2]])
            assert not torch.equal(x[1], before[name][1])


def test_one_task_has_no_axis() -> None:
    head = PopArtHead(6, 16, TRUNK)
    prediction = head(torch.randn(5, 6))
    assert prediction.shape == (5,)
    head.codec.mu.fill_(3.0)
    head.codec.sigma.fill_(2.0)
    torch.testing.assert_close(head.mean(prediction), 2.0 * prediction + 3.0)


@pytest.mark.compile
def test_statistics_and_rescaling_compile_into_one_graph() -> None:
    sums = torch.tensor([4e4, 0.0, 8.0]), torch.tensor([4e8, 0.0, 40.0]), torch.tensor([4.0, 0.0, 4.0])
    heads = [made(HEADS["duelling"], torch.float32) for _ in range(2)]

    def update(head: ValueHead) -> None:
        head.rescale(*head.codec.update_statistics(*(x.double() for x in sums), decay=DECAY))

    update(heads[0])
    torch.compile(update, fullgraph=True, backend="aot_eager")(heads[1])
    for one, other in zip(*(head.state_dict().values() for head in heads), strict=True):
        torch.testing.assert_close(one, other)


def test_a_head_learns_targets_of_two_scales_in_normalised_units() -> None:
    torch.manual_seed(0)
    head = PopArtHead(2, 16, TRUNK, 2)
    features, task = torch.randn(256, 2), torch.arange(256) % 2
    scale = torch.tensor([1.0, 1e4])[task]
    targets = scale * (features[:, 0] + 3.0)
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    count = torch.tensor([128.0, 128.0]).double()
    by_task = targets.double().view(-1, 2).T
    for _ in range(300):
        head.rescale(*head.codec.update_statistics(by_task.sum(-1), by_task.square().sum(-1), count, DECAY))
        optimizer.zero_grad()
        head.loss(head(features), targets, task=task).mean().backward()
        optimizer.step()
    error = (head.mean(head(features), task) - targets).abs() / scale
    assert error.mean() < 0.1
