"""Parts of the project without its trainer: the examples of docs/library.md, and formulas that need torch alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/library.md").read_text()
EXAMPLES = dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the example below a heading in an empty folder, and gives what it has named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path / "cache"))

    def named(heading: str) -> dict[str, Any]:
        names: dict[str, Any] = {"__name__": "example"}
        exec(EXAMPLES[heading], names)
        return names

    return named


def test_returns_are_those_that_the_example_prints(run: Any) -> None:
    expected = torch.tensor([[0.7310, 1.8550], [0.8550, 1.0000], [1.0000, 1.0000]])
    torch.testing.assert_close(run("Returns, and other formulas")["returns"], expected, atol=1e-4, rtol=0)


def test_the_readme_has_one_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    readme = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"^```python\n([^`]*lambda_returns.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    exec(code, {})
    assert capsys.readouterr().out == "torch.Size([5, 3])\n"


@pytest.mark.long
def test_a_transformer_learns_with_mixtures(run: Any) -> None:
    found = run("A mixture of experts in a transformer")
    assert found["losses"][-1] < 0.5 * found["losses"][0]


@pytest.mark.long
def test_experts_of_a_module_are_counted(run: Any) -> None:
    run("A mixture in a LightningModule")
    names, *rows = [line.split(",") for line in Path("expert_load.csv").read_text().splitlines()]
    assert names == ["updates", *(f"network.1/{expert}" for expert in range(4))]
    # Every 20 steps, and what was left at the end: 64 inputs in a step, two experts for each.
    assert [row[0] for row in rows] == ["20", "40", "60", "80", "100", "120", "128"]
    assert [sum(map(int, row[1:])) for row in rows] == [20 * 128] * 6 + [8 * 128]
    assert Path("expert_load.png").stat().st_size > 1000


@pytest.mark.long
def test_values_of_a_module_have_any_scale(run: Any) -> None:
    found = run("Values at any scale")
    codec = found["module"].head.codec
    assert codec.mu.item() == pytest.approx(1e6, rel=0.02)
    assert codec.sigma.item() == pytest.approx(1e5, rel=0.1)
    error = (found["values"] - found["returns"]).abs().mean()
    assert error < 0.5 * (found["returns"] - found["returns"].mean()).abs().mean()
    assert [updates for updates, _ in found["popart"].history] == [50, 100, 150]
    assert Path("popart.png").exists()


@pytest.mark.long
def test_a_module_learns_from_recorded_and_from_played_data(run: Any) -> None:
    assert run("Recorded data in a LightningModule")["trainer"].callback_metrics["loss"] < 0.01
    found = run("A replay that your module fills")
    assert abs(found["data"].environment_steps - 1000) <= 4  # 200 before the first update; all four at once
    # The pole falls at times: less than for ever, and more than the few steps that it falls in.
    assert 5 < found["module"].value(torch.zeros(1, 4)).item() < 10


def test_every_example_is_run() -> None:
    assert len(EXAMPLES) == TEXT.count("```python") == 6


NUMPY = {"aggregate_scores", "bandits", "choosing", "evolution", "statistics"}
"""Modules of formulas about numbers of whole runs, which come as arrays."""


@pytest.mark.long
def test_formulas_need_torch_alone() -> None:
    code = f"""
import importlib, pathlib, sys
import torch

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in {{"torch", "modules", *sys.stdlib_module_names}}:
            raise ImportError(f"{{name}} is not torch")

others = [name for name in sys.modules if name.split(".")[0] not in {{"torch", "__main__", *sys.stdlib_module_names}}]
for name in others:
    del sys.modules[name]
sys.meta_path.insert(0, Refuse())
failed = []
for path in sorted(pathlib.Path({str(ROOT)!r}, "modules/functional").glob("*.py")):
    try:
        importlib.import_module(f"modules.functional.{{path.stem}}")
    except ImportError as error:
        failed.append(path.stem)
print(*failed)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=250)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == NUMPY
    assert all(name in TEXT for name in NUMPY)
