"""Which environments the standard references are for."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import gymnasium as gym

import datamodules.envs
from datamodules.recorded.references import standard_reference


def test_every_wrapper_of_ours_that_changes_observations_alone_leaves_the_references_as_they_are() -> None:
    ours = set()
    for found in pkgutil.iter_modules(datamodules.envs.__path__, "datamodules.envs."):
        module = importlib.import_module(found.name)
        ours |= {
            one for _, one in inspect.getmembers(module, inspect.isclass) if issubclass(one, gym.ObservationWrapper)
        }
    ours = {one for one in ours if one.__module__.startswith("datamodules.envs.")}
    assert {"JoinKeys", "KeepKeys", "PlainObservations", "ResizeImages"} <= {one.__name__ for one in ours}
    plain = {"id": "Pendulum-v1", "arguments": {}}
    for one in ours:
        wrapper = {"class_path": f"{one.__module__}.{one.__name__}", "init_args": {}}
        assert standard_reference({**plain, "wrappers": [wrapper]}) == standard_reference({**plain, "wrappers": []})
    assert standard_reference({**plain, "wrappers": []}) is not None
