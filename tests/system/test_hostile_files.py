"""Checkpoints of a stranger: what they say is refused in one line, before anything is imported or called.

Datasets of a stranger are in tests/data; docs/security.md holds the whole table.
"""

from __future__ import annotations

import copy
import json
import os
import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import setting, without, write_checkpoint

import reverie
from commands.class_names import walk_subclasses
from modules.agent.agent import Agent
from modules.algorithms.a2c import A2C
from modules.algorithms.atac import ATAC
from modules.algorithms.cql import CQL
from modules.algorithms.dreamer import DreamerV2
from modules.algorithms.iql import IQL
from modules.algorithms.moe_regression import MoERegression
from modules.algorithms.r2d2 import R2D2
from modules.algorithms.sac import SAC
from modules.algorithms.td3_bc import TD3BC
from modules.experts.residual_stack import ResidualStack
from modules.trust.hints import hints_of, made_by

STRANGER = "a_stranger"
CODE = """\
import os
from pathlib import Path
import gymnasium as gym
from gymnasium.envs.classic_control import PendulumEnv
from torch import nn
from modules.algorithms.atac import ATAC

Path(os.environ["CANARY"]).touch()

def run(*args, **kwargs): return nn.Linear(*args)
class Trunk(nn.Linear): pass
class Mine(ATAC): pass
class Wrapped(gym.Wrapper): pass
gym.register("Room-v0", PendulumEnv, max_episode_steps=3)
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A good one, of an agent that is small."""
    path = tmp_path_factory.mktemp("good") / "good.ckpt"
    write_checkpoint(path)
    return torch.load(path, weights_only=True)


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that is made when the stranger's package is imported, or his command runs."""
    (tmp_path / f"{STRANGER}.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CANARY", str(tmp_path / "canary"))
    yield tmp_path / "canary"
    sys.modules.pop(STRANGER, None)


def said_by(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command ends with."""
    with pytest.raises(SystemExit) as left:
        reverie.main(command)
    assert left.value.code == 2
    line = capsys.readouterr().err.strip()
    assert "\n" not in line
    assert len(line) < 450
    return line


def commands(path: Path) -> dict[str, list[str]]:
    """Those that read a checkpoint, whose classes are the file's."""
    collect = ["--environment", "Pendulum-v1", "--dataset", "x-v0", "--transitions", "1", "--reference_episodes", "1"]
    return {
        "evaluate": ["evaluate", "--ckpt_path", str(path), "--episodes", "1"],
        "export": ["export", "--ckpt_path", str(path), "--output", str(path.parent / "exported")],
        "select": ["select", "--ckpt_path", str(path), "--mlflow_run", "none"],
        "collect": ["collect", *collect, "--behaviour", "checkpoint", "--checkpoint", str(path), "--root",
                    str(path.parent / "collected")],
    }  # fmt: skip


def trunk(path: str, **arguments: Any) -> Callable[[dict[str, Any]], None]:
    return setting("hyper_parameters", "trunk", to={"class_path": path, "init_args": arguments})


def environment(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return setting("environment", to={"id": "Pendulum-v1", "arguments": {}, "wrappers": [], **changes})


STACK = f"{ResidualStack.__module__}.{ResidualStack.__qualname__}"
COMMAND = {"command": "touch canary"}
LAUGHS: list[Any] = ["ha"]
for _ in range(30):
    LAUGHS = [LAUGHS] * 10

# What is named, how the file is made, and what is said.
CODE_IN_FILES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "a function as a layer": (trunk("os.system", **COMMAND), r"trunk of ATAC names os\.system.*--trust os$"),
    "a class as a layer": (trunk("subprocess.Popen", args="touch canary"), r"names subprocess\.Popen"),
    "a layer of a stranger": (trunk(f"{STRANGER}.Trunk"), rf"names {STRANGER}\.Trunk.*--trust {STRANGER}$"),
    "a function of a stranger": (trunk(f"{STRANGER}.run"), rf"--trust {STRANGER}$"),
    "a layer within one of ours": (
        trunk(STACK, dense={"class_path": f"{STRANGER}.Trunk"}),
        rf"dense of ResidualStack names {STRANGER}\.Trunk",
    ),
    "two layers within": (
        trunk(STACK, experts={"class_path": "modules.experts.layer.SparseMoE", "init_args": {
            "num_experts": 2, "expert": {"class_path": "os.system"}}}),
        r"expert of SparseMoE names os\.system",
    ),
    "what ours imports": (trunk("modules.experts.layer.torch.os.system"), "no such class"),
    "a class of ours that is no layer": (trunk("callbacks.mlflow.logger.MLflowLogger"), "is no Module"),
    "a function of ours": (trunk("modules.experts.layer.sparse_layers"), "no such class"),
    "a class path as text": (setting("hyper_parameters", "trunk", to="os.system"), "trunk of ATAC should be"),
    "YAML as text": (setting("hyper_parameters", "trunk", to="{class_path: os.system}"), "trunk of ATAC should be"),
    "YAML as a layer's text": (trunk(STACK, dense="{class_path: os.system}"), "dense of ResidualStack should be"),
    "a file as a layer": (setting("hyper_parameters", "trunk", to="/etc/hosts"), "trunk of ATAC should be"),
    "a class for a number": (
        setting("hyper_parameters", "discount", to={"class_path": "os.system"}), "discount of ATAC takes no class",
    ),
    "a class for a group": (
        setting("hyper_parameters", "entropy", to={"class_path": "os.system", "init_args": COMMAND}),
        "entropy of ATAC takes no class",
    ),
    "a class for a number of a group": (
        setting("hyper_parameters", "critic", "clip", to={"class_path": "os.system"}),
        "clip of CriticUpdates takes no class",
    ),
    "a foreign agent": (setting("agent", "class_path", to=f"{STRANGER}.Mine"), rf"--trust {STRANGER}$"),
    "a module as an agent": (setting("agent", "class_path", to="this.s"), r"the agent names this\.s"),
    "a layer as an agent": (setting("agent", "class_path", to=STACK), "is no Agent"),
    "a wrapper of a stranger": (
        environment(wrappers=[{"class_path": f"{STRANGER}.Wrapped", "init_args": {}}]), rf"--trust {STRANGER}(;|$)",
    ),
    "a function as a wrapper": (
        environment(wrappers=[{"class_path": "os.system", "init_args": COMMAND}]), r"names os\.system",
    ),
    "a wrapper that writes": (
        environment(wrappers=[{"class_path": "gymnasium.wrappers.rendering.RecordVideo"}]), "not reverie's own",
    ),
    "a package's environment": (environment(id=f"{STRANGER}:Room-v0"), rf"--trust {STRANGER}$"),
    "an environment that takes another": (
        environment(id="GymV26Environment-v0", arguments={"env_id": f"{STRANGER}:Room-v0"}), "imports any other",
    ),
    "a dataset's environment": (setting("dataset", "environment", to=f"{STRANGER}:Room-v0"), rf"--trust {STRANGER}$"),
    "lists of lists": (setting("hyper_parameters", "hidden", to=LAUGHS), "holds parts of itself many times over"),
}  # fmt: skip


@pytest.mark.parametrize("case", CODE_IN_FILES)
def test_no_code_runs(case: str, checkpoint: dict[str, Any], canary: Path, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    change, said = CODE_IN_FILES[case]
    changed = copy.deepcopy(checkpoint)
    change(changed)
    path = tmp_path / "hostile.ckpt"
    torch.save(changed, path)
    imported = set(sys.modules)
    for name, command in commands(path).items():
        if name in ("collect", "select") and ("environment" in case or "wrapper" in case):
            continue  # one plays in the environment that the user gives, the other in none
        line = said_by(command, capsys)
        assert re.search(said, line), f"{name}: {line}"
        assert "hostile.ckpt" in line
    assert not canary.exists()
    assert STRANGER not in sys.modules
    assert "this" not in set(sys.modules) - imported
    assert {p.name for p in tmp_path.iterdir()} == {"hostile.ckpt", f"{STRANGER}.py"}


def test_collecting_leaves_the_environment_of_a_file_alone(checkpoint, canary: Path, tmp_path) -> None:
    environment(id=f"{STRANGER}:Room-v0", wrappers=[{"class_path": f"{STRANGER}.Wrapped"}])(content := {**checkpoint})
    torch.save(content, tmp_path / "hostile.ckpt")
    reverie.main(commands(tmp_path / "hostile.ckpt")["collect"])
    assert not canary.exists()


def callables(cls: type, seen: set[type]) -> Iterator[tuple[str, ...]]:
    """Every argument that takes a class, and those of the classes of ours that it takes, each class once."""
    seen.add(cls)
    for name, hint in hints_of(cls).items():
        kind = made_by(hint)
        if name == "return" or kind is None:
            continue
        yield (name,)
        for inner in {kind, *walk_subclasses(kind)} - seen:
            path = f"{inner.__module__}.{inner.__qualname__}"
            if path.startswith("modules.") and inner not in seen:
                yield from ((name, path, *rest) for rest in callables(inner, seen))


EXPECTED: dict[type[Agent], set[str]] = {
    ATAC: {"trunk", "dense", "experts", "expert"},
    TD3BC: {"trunk", "dense", "experts", "expert"},
    CQL: {"trunk", "dense", "experts", "expert"},
    IQL: {"trunk", "dense", "experts", "expert"},
    SAC: {"trunk", "dense", "experts", "expert"},
    A2C: {"encoder", "trunk", "discrete", "continuous", "critic", "codec"},
    DreamerV2: {"world_model", "behaviour", "exploration", "latent", "encoder", "reward", "critic"},
    R2D2: {"network", "encoder", "trunk", "memory", "codec"},
    MoERegression: {"network", "dense", "experts", "expert"},
}
"""Some of the arguments that take a class, of each agent and of its parts."""


@pytest.mark.parametrize("agent", EXPECTED)
def test_every_callable_argument_of_every_agent_is_refused(agent: type[Agent], checkpoint, canary: Path) -> None:
    found = set(callables(agent, set()))
    assert {way[-1] for way in found} >= EXPECTED[agent]
    for way in sorted(found):
        spec: Any = {"class_path": f"{STRANGER}.run", "init_args": {}}
        steps = list(way)
        while len(steps) > 1:
            argument, cls = steps.pop(), steps.pop()
            spec = {"class_path": cls, "init_args": {argument: spec}}
        made = {**checkpoint, "hyper_parameters": {steps[0]: spec}}
        made["agent"] = {**checkpoint["agent"], "class_path": f"{agent.__module__}.{agent.__qualname__}"}
        with pytest.raises(ValueError, match=rf"^x\.ckpt: {way[-1]} of \w+ names {STRANGER}\.run.*--trust {STRANGER}$"):
            Agent.restored(made, "x.ckpt")
    assert not canary.exists()


def test_what_the_user_trusts_is_taken_and_stored_nowhere(checkpoint, canary: Path, tmp_path, capsys) -> None:
    changed = copy.deepcopy(checkpoint)
    changed["agent"]["class_path"] = f"{STRANGER}.Mine"
    environment(id=f"{STRANGER}:Room-v0", wrappers=[{"class_path": f"{STRANGER}.Wrapped"}])(changed)
    path = tmp_path / "hostile.ckpt"
    torch.save(changed, path)
    command = commands(path)["evaluate"]
    advice = re.search(r"--trust \S+$", said_by(command, capsys))
    assert advice is not None
    reverie.main([*command, *advice[0].split()])
    assert f"{STRANGER}:Room-v0 in Wrapped" in capsys.readouterr().out
    assert canary.exists()
    assert re.search(r"--trust \S+$", said_by(command, capsys))  # not for the next command
    reverie.main(
        [*command, f"--trust={STRANGER}.Mine", "--trust", f"{STRANGER}.Wrapped", "--environment", f"{STRANGER}:Room-v0"]
    )
    assert said_by([*command, "--trust"], capsys).startswith("reverie: error: --trust needs the name")
    assert "--trust needs the name" in said_by([*command, "--trust", "os;system"], capsys)


# ------------------------------------------------------------------------------------------------------------- damage
DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no hyper-parameters": (without("hyper_parameters"), "no hyper_parameters"),
    "hyper-parameters as text": (setting("hyper_parameters", to="x"), "its hyper_parameters are x"),
    "an unknown argument": (setting("hyper_parameters", "depht", to=2), "ATAC has no argument depht"),
    "an unknown field": (setting("hyper_parameters", "critic", "rolls", to=2), "CriticUpdates has no argument rolls"),
    "a field of another kind": (setting("hyper_parameters", "critic", "clip", to=2), "clip of CriticUpdates should be"),
    "a field out of range": (
        setting("hyper_parameters", "entropy", "initial_temperature", to=0.0), r"entropy\.initial_temperature must lie",
    ),
    "a group as text": (setting("hyper_parameters", "entropy", to="x"), "entropy of ATAC should be"),
    "an argument of another kind": (setting("hyper_parameters", "hidden", to="wide"), "hidden of ATAC should be"),
    "the environment as text": (setting("environment", to="Pendulum-v1"), "should have id, arguments and wrappers"),
    "no arguments": (setting("environment", to={"id": "Pendulum-v1", "wrappers": []}), "id, arguments and wrappers"),
    "arguments as text": (environment(arguments="g"), "should be by name"),
    "weights as a list": (setting("state_dict", to=[1]), "its state_dict holds more than tensors"),
    "a weight as text": (setting("state_dict", "actor.x", to="1"), "its state_dict holds more than tensors"),
    "references as text": (setting("dataset", "reference_min", to="low"), "reference_min of its dataset is low"),
    "the dataset as text": (setting("dataset", to="x"), "its dataset is x"),
    "the agent as text": (setting("agent", to="x"), "its agent is x"),
    "the counter as text": (setting("agent", "updates", to="many"), "updates of its agent is many"),
    "members as a number": (setting("agent", "member_names", to=3), "member_names of its agent is 3"),
    "an agent of lists": (setting("agent", to=LAUGHS), "holds parts of itself many times over"),
    "an environment of lists": (setting("environment", to=LAUGHS), "holds parts of itself many times over"),
    "a name that clears the screen": (setting("dataset", "name", to="\x1b[2J"), r"name of its dataset is '\\x1b\[2J'"),
    "a member of two lines": (setting("agent", "member_names", to=["a\nb"]), "member_names of its agent is"),
    "a class of two lines": (setting("agent", "class_path", to="a\nb.C"), "class_path of its agent is"),
    "no spaces": (without("agent", "spaces"), "spaces of its agent is missing"),
    "spaces without a type": (
        setting("agent", "spaces", to='{"observation": {}, "action": {}}'), "spaces cannot be read",
    ),
    "spaces without end": (
        setting("agent", "spaces", to=json.dumps(dict.fromkeys(("observation", "action"), json.dumps(
            {"type": "Box", "dtype": "float32", "shape": [10**6, 10**6], "low": 0.0, "high": 1.0})))),
        r"the spaces cannot be read \(ValueError: ValueError a shape of \[1000000, 1000000\]",
    ),
    "spaces as text": (setting("agent", "spaces", to="Box(3)"), "spaces cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_one_line(case: str, checkpoint: dict[str, Any], tmp_path, capsys) -> None:
    change, said = DAMAGE[case]
    changed = copy.deepcopy(checkpoint)
    change(changed)
    torch.save(changed, tmp_path / "damaged.ckpt")
    line = said_by(commands(tmp_path / "damaged.ckpt")["evaluate"], capsys)
    assert re.search(said, line), line
    assert "damaged.ckpt" in line


def test_lost_tensors_are_named(checkpoint: dict[str, Any], tmp_path, capsys) -> None:
    name = next(iter(checkpoint["state_dict"]))
    weights = {key: value for key, value in checkpoint["state_dict"].items() if key != name}
    torch.save({**checkpoint, "state_dict": weights}, tmp_path / "damaged.ckpt")
    line = said_by(commands(tmp_path / "damaged.ckpt")["evaluate"], capsys)
    assert f"damaged.ckpt: this checkpoint has lost 1 of the model's tensors, such as {name}" in line


def test_changed_bytes_and_packed_entries_are_seen(checkpoint: dict[str, Any], tmp_path, capsys) -> None:
    path = tmp_path / "damaged.ckpt"
    torch.save(checkpoint, path)
    content = bytearray(path.read_bytes())
    weight = max(checkpoint["state_dict"].values(), key=torch.numel)
    place = content.index(weight.numpy().tobytes())
    content[place] ^= 1  # the last bit of one number
    path.write_bytes(content)
    line = said_by(commands(path)["evaluate"], capsys)
    assert re.search(r"damaged\.ckpt is damaged \(the bytes of \S+ have changed since it was written\)", line), line
    torch.save(checkpoint, path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "packed.ckpt", "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    assert "is compressed" in said_by(commands(tmp_path / "packed.ckpt")["evaluate"], capsys)
    with zipfile.ZipFile(path, "a") as file:  # a directory whose entries share their bytes
        file.filelist += [max(file.filelist, key=lambda entry: entry.file_size)] * 500
        file.writestr("archive/one", b"")
    line = said_by(commands(path)["evaluate"], capsys)
    assert re.search(r"damaged\.ckpt is damaged \(its entries declare [\d,]+ bytes, more than it has\)", line), line


def test_a_pickle_that_calls_is_not_loaded(canary: Path, tmp_path, capsys) -> None:
    class Calls:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {canary}",)

    torch.save({"state_dict": {}, "x": Calls()}, tmp_path / "hostile.ckpt")
    line = said_by(commands(tmp_path / "hostile.ckpt")["evaluate"], capsys)
    assert "it is not loaded, as that could run any code" in line
    assert not canary.exists()
