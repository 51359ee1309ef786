"""Ray and TorchRL's collectors cost nothing to runs that play in their own process."""

from __future__ import annotations

import subprocess
import sys

PLAY = """
import importlib, pkgutil, sys
import commands, datamodules, datamodules.played, modules
for package in (datamodules, modules, commands):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if found.name != "datamodules.played.ray_cluster":
            importlib.import_module(found.name)
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
print([name for name in sys.modules if name.split(".")[0] == "ray" or name.startswith("torchrl.collectors")])
"""


def test_nothing_of_ray_is_imported_by_a_run_without_it() -> None:
    ran = subprocess.run([sys.executable, "-c", PLAY], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "[]"
