"""Where a config names a class, a function is refused before it is called."""

from __future__ import annotations

import functools
import json
import math
from typing import Any

import pytest
from pytorch_lightning import LightningDataModule

import reverie
from commands.class_names import arguments_of_class
from commands.parsing import ReadableParser
from modules.agent.actor_critic_updates import ActorUpdates, CriticUpdates
from modules.agent.agent import Agent
from modules.algorithms.a2c import A2C  # noqa: F401 - found by its name
from modules.algorithms.atac import ATAC
from modules.algorithms.dreamer import DreamerV2  # noqa: F401
from modules.algorithms.r2d2 import R2D2  # noqa: F401
from modules.experts.layer import SparseMoE
from modules.trust.hints import fits

GROUPS = ("warm_start", "actor", "critic", "entropy")
STACK = "modules.experts.residual_stack.ResidualStack"


@functools.cache
def parser() -> ReadableParser:
    made = ReadableParser()
    made.add_subclass_arguments(Agent, "model", skip={"spaces"}, required=False)
    made.add_subclass_arguments(LightningDataModule, "data", required=False)
    return made


def command(tmp_path: Any) -> dict[str, Any]:
    return {"class_path": "os.system", "init_args": {"command": f"touch {tmp_path}/canary"}}


@pytest.mark.parametrize(
    ("group", "argument", "nested"),
    [
        ("ATAC", "trunk", ""),
        ("ATAC", "trunk", f"{STACK} dense"),
        ("ATAC", "trunk", f"{STACK} experts modules.experts.layer.SparseMoE expert"),
        ("A2C", "encoder", ""),
        ("A2C", "critic", "modules.networks.value_heads.Head codec"),
        ("DreamerV2", "world_model", ""),
        ("DreamerV2", "world_model", "modules.world_model.world_model.WorldModel latent"),
        ("R2D2", "network", "modules.networks.recurrent.ActionValues memory"),
        ("datamodules.online.OnlineDataModule", "wrappers", ""),
        ("datamodules.online.OnlineDataModule", "replay", ""),
    ],
)
def test_a_function_is_refused(group: str, argument: str, nested: str, tmp_path, capsys) -> None:
    value = command(tmp_path)
    steps = nested.split()
    while steps:
        name, cls = steps.pop(), steps.pop()
        value = {"class_path": cls, "init_args": {name: value}}
    key = "data" if "." in group else "model"
    needed = ["--data.environment=Pendulum-v1"] if key == "data" else []
    given = json.dumps([value] if argument == "wrappers" else value)
    with pytest.raises(SystemExit) as left:
        parser().parse_args([f"--{key}={group}", *needed, f"--{key}.{argument}={given}"])
    assert left.value.code == 2
    line = capsys.readouterr().err.strip()
    assert "\n" not in line
    assert f"{key}.{argument}" in line
    assert "os.system is no class of the kind" in line, line
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        (
            "--model.critic.taget_rate=0.1",
            "Option 'critic.taget_rate' is not accepted by ATAC; did you mean 'critic.target_rate'?",
        ),
        ("--model.target_rate=0.1", "'target_rate' is not accepted by ATAC; did you mean 'critic.target_rate'?"),
        ("--model.warm_start=3", "warm_start is given by its fields, not by '3'"),
        *((f"--model.{group}=null", f"model.{group} is given by its fields, not by 'null'") for group in GROUPS),
        ("--model.critic.target_rate=null", "critic.target_rate: expected float. Got value: null"),
        (
            '--model.entropy={"class_path": "os.system", "init_args": {"command": "touch canary"}}',
            "os.system is no class of the kind EntropyFloor, which is given by its fields",
        ),
        (
            "--model.entropy.reduction=maen",
            "entropy.reduction: expected one of 'sum', 'mean'. Got value: maen; did you mean 'mean'?",
        ),
    ],
)
def test_a_mistake_in_a_group_of_arguments_is_named(flag: str, said: str, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        parser().parse_args(["--model=ATAC", flag])
    assert left.value.code == 2
    assert capsys.readouterr().err.strip().endswith(said)
    assert not list(tmp_path.iterdir())


def test_fields_of_a_group_merge_from_configs_and_flags(tmp_path) -> None:
    texts = {
        "first": "{class_path: ATAC, init_args: {critic: {clip: backup, target_rate: 0.1}, actor: {interval: 3}}}",
        "second": "{init_args: {critic: {target_rate: 0.2}}}",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(f"model: {text}")
    made = ReadableParser()
    made.add_config_argument()
    made.add_subclass_arguments(Agent, "model", skip={"spaces"}, required=False)
    configs = [f"--config={tmp_path / name}.yaml" for name in texts]
    agent = made.instantiate_classes(made.parse_args([*configs, "--model.critic.roles=split"])).model
    assert agent.critic_updates == CriticUpdates(roles="split", clip="backup", target_rate=0.2)
    assert agent.actor_updates == ActorUpdates(interval=3)


@pytest.mark.parametrize("value", ["null", ".inf"])
def test_fields_of_all_groups_are_read_on_the_command_line_as_in_a_config(value: str, tmp_path) -> None:
    """The value is read twice, for the model and for its class; null and infinity do not turn into words."""
    plain = {"null": None, ".inf": math.inf}[value]
    known = arguments_of_class(ATAC)
    keys = [key for key, argument in known.items() if "." in key and fits(plain, argument.hint)]
    assert {"entropy.target", "actor.average_rate", "critic.projection_radius"} <= set(keys)
    numbers = [f"--model.{key}=0.5" for key in keys if fits(0.5, known[key].hint)]
    for key in keys:
        group, field = key.split(".")
        given = parser().parse_args(["--model=ATAC", *numbers, f"--model.{key}={value}"]).model.init_args
        assert given[group][field] == plain, key
    pairs = parser().parse_args(["--model=ATAC", f"--model.entropy.log_temperature_range=[-.inf, {1e-5}]"])
    assert pairs.model.init_args.entropy.log_temperature_range == (-math.inf, 1e-5)


def test_null_within_arguments_of_classes_within_each_other_is_read() -> None:
    """At any depth: of a class, of a class within its arguments, and within what is given as one mapping."""
    flags = [f"--model.trunk={STACK}", "--model.trunk.experts=SparseMoE", "--model.trunk.experts.num_experts=2"]
    spec = '--model.trunk.experts={"class_path": "SparseMoE", "init_args": {"num_experts": 2, "groups": null}}'
    for given in ([*flags, "--model.trunk.experts.groups=2", "--model.trunk.experts.groups=null"], [flags[0], spec]):
        parsed = parser().parse_args(["--model=ATAC", *given])
        assert parsed.model.init_args.trunk.init_args.experts.init_args.groups is None


def test_classes_of_the_kind_pass_and_names_of_gymnasium_too() -> None:
    trunk = {
        "class_path": STACK,
        "init_args": {"experts": {"class_path": "SparseMoE", "init_args": {"num_experts": 2}}},
    }
    parsed = parser().parse_args(["--model=ATAC", f"--model.trunk={json.dumps(trunk)}"])
    assert parsed.model.init_args.trunk.init_args.experts.class_path.endswith(SparseMoE.__name__)
    wrappers = [
        "gymnasium.wrappers.ClipAction",
        {"class_path": "gymnasium.wrappers.TimeLimit", "init_args": {"max_episode_steps": 5}},
    ]
    data = ["--data=datamodules.online.OnlineDataModule", "--data.environment=x"]
    parser().parse_args([*data, f"--data.wrappers={json.dumps(wrappers)}"])


def test_a_run_calls_nothing_before_it_is_refused(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        reverie.main(["fit", "--config", "dreamer/catch", "--model.world_model", json.dumps(command(tmp_path))])
    assert (
        capsys.readouterr().err == "reverie: error: model.world_model: os.system is no class of the kind WorldModel\n"
    )
    assert not list(tmp_path.iterdir())
