"""A run starts without what only other commands, and collections of other kinds, need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

START = """
import importlib, pkgutil, sys
import commands.quiet
from commands.quick_imports import quick_imports
import commands, datamodules, modules, reverie

def imported(*names):
    return [name for name in sys.modules if name.startswith(names)]

# Whatever a run may need that plays in its own process.
with quick_imports():
    for package in (datamodules, modules, commands):
        for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if found.name not in ("datamodules.played.ray_cluster", "commands.exported_act"):
                importlib.import_module(found.name)

# Play in this process.
from datamodules.envs.make import EnvironmentSpec
from datamodules.envs.restarting import Protection
from datamodules.played.setting import Setting
from datamodules.played.inline import InlineCollection
setting = Setting(EnvironmentSpec("CartPole-v1", {}, ()), 2, "sync", Protection(), 6, 1, 0)
rows = []
replay = type("Rows", (), {"extend": lambda self, new: rows.append(new), "__len__": lambda self: sum(map(len, rows))})()
collection = InlineCollection(setting, replay, None)
collection.provide(6, 4)
collection.close()
assert collection.steps >= 6, collection.steps
assert not imported("ray.", "torchrl.collectors"), imported("ray.", "torchrl.collectors")

# Start `fit`, which ends with a mistake.
try:
    reverie.main(["fit", "--config", "atac/pendulum", "--ckpt_path", "no.ckpt"])
except SystemExit:
    pass
assert "torch" in sys.modules
from scipy.signal import butter  # torchmetrics' import was cut short, this one must not be
print({"moviepy", "onnx", "onnxruntime", "onnxscript", "sklearn", "pygame", "imageio", "ray"} & set(sys.modules))
"""


@pytest.mark.long
def test_a_run_starts_without_what_only_other_commands_and_collections_need(tmp_path: Path) -> None:
    """Neither Ray nor TorchRL's collectors cost a run that plays in its own process anything, nor do video and ONNX."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", START]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.stdout == "set()\n", done.stdout + done.stderr
    assert done.stderr.count("\n") == 1, done.stderr  # the error itself and no third-party noise
