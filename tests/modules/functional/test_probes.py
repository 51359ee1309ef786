from __future__ import annotations

import numpy as np
import pytest
import torch

from modules.functional.probes import accuracy, explained_share, ridge, standardised


@pytest.mark.parametrize("width", [3, 30])
def test_ridge_is_the_penalised_least_squares_solution(width: int) -> None:
    """For few features and for more of them than rows, against rows of the penalty beside those of the data."""
    rng = np.random.default_rng(0)
    x, y, seen = rng.normal(size=(12, width)) + 2.0, rng.normal(size=(12, 2)), rng.normal(size=(4, width))
    centred, offset = x - x.mean(0), y.mean(0)
    stacked = np.concatenate([centred, np.sqrt(12 * 0.3) * np.eye(width)])
    weight = np.linalg.lstsq(stacked, np.concatenate([y - offset, np.zeros((width, 2))]), rcond=None)[0]
    found = ridge(*map(torch.from_numpy, (x, y, seen)), 0.3)
    np.testing.assert_allclose(found.numpy(), (seen - x.mean(0)) @ weight + offset, atol=1e-10)


def test_features_are_standardised_by_the_first_rows_and_those_that_are_constant_stay_small() -> None:
    train = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    learned, judged = standardised(train, torch.tensor([[4.0, 5.0], [2.0, 5.001]]))
    assert learned.tolist() == [[-1.0, 0.0], [1.0, 0.0]]
    torch.testing.assert_close(judged, torch.tensor([[2.0, 0.0], [0.0, 1.0]]), atol=1e-3, rtol=0.0)


def test_scores() -> None:
    score = torch.tensor([[[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]], [[0.6, 0.4]] * 3])
    torch.testing.assert_close(accuracy(score, torch.tensor([1, 0, -1])), torch.tensor([2 / 3, 1 / 3]))
    truth = torch.tensor([0.0, 2.0, 4.0])
    predicted = torch.stack([truth, torch.full((3,), 2.0), truth + 2.0])
    torch.testing.assert_close(explained_share(predicted, truth), torch.tensor([1.0, 0.0, -0.5]))
