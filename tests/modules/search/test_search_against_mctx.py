"""Trees equal those of mctx, node for node and visit for visit, with the same draws at the root."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from search_models import MCTX, golden, searched


@pytest.mark.parametrize("path", sorted(MCTX.glob("*.json")), ids=lambda path: path.stem)
def test_trees_equal(path: Path) -> None:
    game, root, settings, noise, found = golden(path)
    result, tree = searched(root, game.step, settings, noise=noise)
    children, visits = torch.tensor(found["children"]), torch.tensor(found["visits"], dtype=torch.float32)
    assert torch.equal(tree.child.view_as(children), children)
    assert torch.equal(tree.sums[0].view_as(visits), visits)
    assert torch.equal(result.visits, visits[:, 0])
    torch.testing.assert_close(result.value, torch.tensor(found["value"]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(result.policy_target, torch.tensor(found["target"]), rtol=1e-4, atol=1e-5)
    if found["action"] is not None:
        assert result.action.tolist() == found["action"]


def test_there_are_cases_of_both_rules() -> None:
    assert {path.stem.split("_")[0] for path in MCTX.glob("*.json")} == {"gumbel", "puct"}
