"""No speed is told of a form of a mixture that computes something else than the plain one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from bench_moe import Setting, check_agreement, dense, mixture

SMALL = Setting(tokens=64, width=8, hidden=16, experts=4)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("routing", ["top_k", "noisy_top_k"])
@pytest.mark.parametrize("backend", ["grouped", "padded"])
def test_forms_that_agree_are_timed_and_one_that_does_not_is_refused(
    backend: str, routing: str, autocast: bool
) -> None:
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    version = mixture(SMALL, routing, backend, autocast)
    check_agreement(version, x)
    wrong = version._replace(call=lambda x: (1.1 * version.call(x)[0], []))
    with pytest.raises(SystemExit, match="disagrees with the plain loop over experts"):
        check_agreement(wrong, x)
    lost = version._replace(call=lambda x: (version.call(x)[0] * float("nan"), []))
    with pytest.raises(SystemExit, match="disagrees"):
        check_agreement(lost, x)
    check_agreement(dense(SMALL)._replace(call=lambda x: pytest.fail("is another network")), x)
