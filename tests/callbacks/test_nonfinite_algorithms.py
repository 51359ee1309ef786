"""An update on NaN is found and counts on no checkpoint, whichever algorithm makes it, compiled as its preset is."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from forked import ROOT

from modules.agent.checkpoint_file import read_checkpoint

sys.path.append(str(ROOT / "benchmarks"))
import loss_hashes

AT = 40
"""Updates before the one that is spoiled: behind the warm starts."""
BYTES = ("simple/catch",)
"""Presets whose agent sees images of bytes and the signs of rewards: NaN can come from its weights alone."""


@pytest.mark.slow
@pytest.mark.parametrize("preset", loss_hashes.PRESETS)
def test_the_run_of_every_preset_ends_before_the_update_counts(preset: str, tmp_path: Path) -> None:
    spoils = {"class_path": "poison.Poison", "init_args": {"update": AT, "weights": preset in BYTES}}
    more = ["--trainer.callbacks+", json.dumps(spoils), "--run_dir", str(tmp_path / "run"),
            "--checkpoint.every_n_updates", "20"]  # fmt: skip
    with pytest.raises(SystemExit, match=rf"update {AT + 1}\b.* not finite") as ended:
        loss_hashes.run(preset, tmp_path, more)
    assert "Traceback" not in str(ended.value)
    (run,) = (tmp_path / "run").iterdir()
    assert read_checkpoint(run / "checkpoints/last.ckpt")["agent"]["updates"] <= AT
    assert (run / f"nonfinite/update-{AT + 1}.ckpt").is_file()
