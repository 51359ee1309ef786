from __future__ import annotations

import numpy as np
import pytest
import torch

from callbacks.world_model.probe_fits import quantities, score_probes

CPU = torch.device("cpu")


def features(rows: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, 3, generator=torch.Generator().manual_seed(seed))


def test_quantities_are_classes_or_amounts_and_those_that_do_not_vary_are_left_out() -> None:
    train = {"colour": np.array([7, 3, 7, 9]), "still": np.ones(4), "size": np.array([1.0, 3.0, 1.0, 3.0])}
    test = {"colour": np.array([9, 4, 3]), "still": np.ones(3), "size": np.array([2.0, 4.0, 3.0])}
    colour, size = quantities(train, test, CPU)
    assert (colour.name, colour.measure, colour.columns) == ("colour", "accuracy", slice(0, 3))
    assert colour.train.tolist() == [1, 0, 1, 2]
    assert colour.test.tolist() == [2, -1, 0]  # a value that was never learned is never right
    assert (size.name, size.measure, size.columns) == ("size", "R2", slice(3, 4))
    assert size.train.tolist() == [-1.0, 1.0, -1.0, 1.0]
    assert size.test.tolist() == [0.0, 2.0, 1.0]


def test_one_layer_more_reads_off_what_is_not_linear() -> None:
    train, test = features(1500, 0), features(500, 1)
    labels = [
        {"product": (x[:, 0] * x[:, 1] > 0).long().numpy(), "line": (x[:, 0] - 2 * x[:, 2]).double().numpy()}
        for x in (train, test)
    ]
    asked = quantities(*labels, CPU)
    found = score_probes(asked, torch.stack([train, train]), torch.stack([test, test]), seed=0)
    assert found["linear"]["line"] == pytest.approx([1.0, 1.0], abs=1e-4)
    assert found["linear"]["product"] == pytest.approx([0.5, 0.5], abs=0.1)
    assert min(found["hidden"]["product"]) > 0.9
    assert found["hidden"]["product"][0] == found["hidden"]["product"][1]  # all probes start alike
    assert found == score_probes(asked, torch.stack([train, train]), torch.stack([test, test]), seed=0)
    shuffled = score_probes(asked, train[None], test[None], seed=0, shuffled=True)
    for probe in ("linear", "hidden"):
        assert shuffled[probe]["product"] == pytest.approx([0.5], abs=0.1)
        assert shuffled[probe]["line"][0] < 0.05
