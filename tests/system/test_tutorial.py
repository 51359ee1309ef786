"""The tutorial, from its log to a policy that acts: every command as the page has it, with fewer updates."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import reverie
from datamodules.recorded.readers.npz import read_npz

TEXT = (Path(reverie.__file__).parent / "docs/tutorial.md").read_text()
FEWER = {
    "fit": ["--data.updates_per_epoch", "50", "--trainer.max_epochs", "2"],
    "select": ["--discount", "0.9", "--fqe.updates", "60", "--fqe.seeds", "1"],
}


@pytest.mark.long
@pytest.mark.timeout(1500)  # two fits, a choice and an export: five minutes on a machine that is ten times too busy
def test_the_tutorial_leads_from_a_log_to_a_policy_and_its_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path / "cache"))
    (code,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    exec(code, {})
    lines = re.findall(r"^reverie (.*)$", TEXT, re.MULTILINE)
    assert [line.split()[0] for line in lines] == ["datasets", "datasets", "fit", "fit", "select"]

    for line in lines:
        subcommand, *arguments = shlex.split(line)
        few = [*FEWER.get(subcommand, [])]
        few += ["--model.warm_start.updates", "50"] if "warm_start" in line else []
        reverie.main([subcommand, *arguments, *few])

    # The dataset has the days of the log.
    printed = capsys.readouterr().out
    assert "300 episodes" in printed
    assert "better than what it cloned" in printed or "safe" in printed
    found = read_npz(Path("tank.npz"))
    assert 10_000 < found.steps <= 300 * 60
    chunks = [*found.chunks()]
    assert all(chunk.usable.all() for chunk in chunks)
    assert 10 < sum(chunk.terminated.sum() for chunk in chunks) < 150  # days that the fuse has ended

    # Three members, what they had cloned and the clone are judged, and one of them acts.
    (file,) = tmp_path.rglob("select.json")
    result = json.loads(file.read_text())
    assert len(result["candidates"]) >= 5
    code = "from act import Policy; import numpy as np; print(*np.ravel(Policy()([55.0, 10.0])))"
    acted = subprocess.run([sys.executable, "-c", code], cwd="policy", capture_output=True, text=True, timeout=250)
    assert acted.returncode == 0, acted.stderr
    assert 0.0 <= np.float64(acted.stdout) <= 1.0
