"""Hashes of losses are there for all presets that the script names, and it says which these are."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
import loss_hashes  # noqa: E402 - a script beside the package


def test_another_preset_is_told_those_that_there_are() -> None:
    with pytest.raises(SystemExit, match=r"^no hashes of muzero/tictactoe; there are those of atac/pendulum, "):
        loss_hashes.main(["moe/mixture", "muzero/tictactoe"])
    assert all((ROOT / f"configs/{preset}.yaml").is_file() for preset in loss_hashes.PRESETS)


@pytest.mark.slow
@pytest.mark.parametrize("preset", loss_hashes.PRESETS)
def test_every_preset_has_hashes_and_repeats_each_update(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    loss_hashes.main([preset])
    plain = capsys.readouterr().out
    assert re.fullmatch(rf"{preset} +metrics [0-9a-f]{{16}}  weights [0-9a-f]{{16}}\n", plain)
    loss_hashes.main([preset, "--", "--verify_updates", "1"])
    assert capsys.readouterr().out == plain
