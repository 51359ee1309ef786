"""Synthetic tasks: targets by a slow loop, what is held out, and that draws repeat, differ by rank and resume."""

from __future__ import annotations

import io
import itertools
from types import SimpleNamespace

import pytest
import torch

from datamodules.synthetic import GAIN, CompositionalTask, MixtureTask, SyntheticTask
from modules.batch import Example, Spaces

SMALL = {"batch_size": 16, "updates_per_epoch": 5, "validation_size": 64}
BOTH = pytest.mark.parametrize("task", [MixtureTask, CompositionalTask])


def draw(data: SyntheticTask, count: int = 3) -> list[Example]:
    return [Example.from_tensordict(batch) for batch in itertools.islice(data.train_dataloader(), count)]


def unscaled(data: SyntheticTask, rows: Example) -> torch.Tensor:
    mean, std = data._statistics
    return rows.target * std + mean


def test_a_mixture_row_is_computed_by_its_own_task() -> None:
    data = MixtureTask(tasks=5, features=3, noise=0.0, **SMALL)
    (rows,) = draw(data, 1)
    assert rows.input.shape == (16, 6)
    for x, y, task in zip(rows.input, unscaled(data, rows), rows.group, strict=True):
        expected = data.second[task].T @ torch.tanh(data.first[task].T @ x[:3])
        torch.testing.assert_close(y, expected)
        assert torch.equal(x[3:], data.codes[task])


def test_a_compositional_row_is_a_chain_of_its_maps() -> None:
    data = CompositionalTask(maps=3, stages=2, features=4, code=2, noise=0.0, held_out=0.2, **SMALL)
    (rows,) = draw(data, 1)
    assert rows.input.shape == (16, 8)
    for x, y, number in zip(rows.input, unscaled(data, rows), rows.group.tolist(), strict=True):
        first, second = number % 3, number // 3
        expected = torch.tanh(data.weights[1, second].T @ torch.tanh(data.weights[0, first].T @ x[:4]))
        torch.testing.assert_close(y, expected)
        assert torch.equal(x[4:], torch.cat([data.codes[0, first], data.codes[1, second]]))


def test_numbers_of_combinations() -> None:
    """149 = 5 + 2 * 8 + 2 * 64: the first stage is the last digit."""
    digits = CompositionalTask().chosen_maps(torch.tensor([149, 0, 511]))
    assert torch.stack(digits, 1).tolist() == [[5, 2, 2], [0, 0, 0], [7, 7, 7]]


def test_random_maps_are_scaled_to_bend_tanh() -> None:
    weights = CompositionalTask(maps=50, stages=2, features=16).weights
    assert weights.square().mean().item() == pytest.approx(GAIN**2 / 16, rel=0.05)


def test_combinations_that_are_held_out_are_never_trained_on() -> None:
    data = CompositionalTask(batch_size=4096, validation_size=4096)
    trained = torch.cat([rows.group for rows in draw(data, 5)]).unique()
    (batch,) = itertools.islice(data.val_dataloader(), 1)
    seen, held_out = batch["seen", "group"].unique(), batch["held_out", "group"].unique()
    assert set(seen.tolist()) <= set(trained.tolist())
    assert len(trained) == 384  # three quarters of 8 * 8 * 8, all of them
    assert len(held_out) == 128
    assert not set(trained.tolist()) & set(held_out.tolist())
    for stage in data.chosen_maps(trained):
        assert stage.unique().tolist() == list(range(8))


@BOTH
def test_targets_are_standardised_and_codes_noisy(task: type[SyntheticTask]) -> None:
    data = task(batch_size=50_000, noise=0.5)  # type: ignore[call-arg]
    (rows,) = draw(data, 1)
    torch.testing.assert_close(rows.target.mean(0), torch.zeros(8), atol=0.02, rtol=0)
    torch.testing.assert_close(rows.target.std(0), torch.ones(8), atol=0.02, rtol=0)
    if isinstance(data, MixtureTask):
        noise = rows.input[:, 8:] - data.codes[rows.group]
    else:
        noise = rows.input[:, 8:12] - data.codes[0, rows.group % 8]
    assert noise.std().item() == pytest.approx(0.5, rel=0.02)
    assert noise.mean().item() == pytest.approx(0.0, abs=0.01)


@BOTH
def test_spaces_survive_a_checkpoint(task: type[SyntheticTask]) -> None:
    data = task(**SMALL)
    spaces = Spaces.from_json(data.spaces.to_json())
    (rows,) = draw(data, 1)
    assert spaces.observation.shape == rows.input[0].shape
    assert spaces.action.shape == rows.target[0].shape


@BOTH
def test_one_seed_gives_one_stream_and_the_same_validation_every_time(task: type[SyntheticTask]) -> None:
    data, twin, other = task(**SMALL), task(**SMALL), task(**SMALL, seed=1)
    assert len(data.train_dataloader()) == 5
    for mine, theirs in zip(draw(data), draw(twin), strict=True):
        assert torch.equal(mine.target, theirs.target)
    assert not torch.equal(draw(data, 1)[0].target, draw(other, 1)[0].target)
    loader = data.val_dataloader()
    first, second = (next(iter(loader))["seen", "input"] for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first[:16], draw(task(**SMALL), 1)[0].input)


@BOTH
def test_the_stream_resumes_where_it_was(task: type[SyntheticTask]) -> None:
    data = task(**SMALL)
    draw(data)
    file = io.BytesIO()
    torch.save(data.rank_state(), file)
    following = draw(data)
    file.seek(0)
    resumed = task(**SMALL)
    resumed.load_rank_state(torch.load(file, weights_only=True))
    for mine, theirs in zip(following, draw(resumed), strict=True):
        assert torch.equal(mine.input, theirs.input)
        assert torch.equal(mine.target, theirs.target)


@BOTH
def test_ranks_draw_different_rows_of_one_problem(task: type[SyntheticTask]) -> None:
    ranks = []
    for rank in range(2):
        data = task(**SMALL)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2, overfit_batches=0.0)  # type: ignore[assignment]
        (validation,) = itertools.islice(data.val_dataloader(), 1)
        rows = torch.cat([*(rows.input for rows in draw(data)), validation["seen", "input"]])
        ranks.append({tuple(row) for row in rows.tolist()})
        assert torch.equal(data._statistics[0], task(**SMALL)._statistics[0])
    assert len(ranks[0]) == len(ranks[1]) == 3 * 16 + 64
    assert not ranks[0] & ranks[1]


@pytest.mark.parametrize(
    ("task", "arguments", "message"),
    [
        (MixtureTask, {"tasks": 0}, "tasks must be at least 1, got 0"),
        (MixtureTask, {"batch_size": 0}, "batch_size must be at least 1"),
        (MixtureTask, {"noise": -0.1}, "noise must lie in"),
        (CompositionalTask, {"stages": 0}, "stages must be at least 1"),
        (CompositionalTask, {"held_out": 0.0}, "leaves 0 of 512 combinations to hold out"),
        (CompositionalTask, {"held_out": 1.0}, "and 0 to train on"),
        (CompositionalTask, {"maps": 2, "stages": 1, "held_out": 0.5}, "every map be trained on"),
    ],
)
def test_arguments_out_of_range(task: type[SyntheticTask], arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task(**arguments)
