"""Configs are read strictly, in any folder, and win or lose against flags as the README says."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml
from command_line import mistake, print_config

from commands.config_files import ConfigError, check, dump, load
from commands.precedence import in_order

ATAC = "model:\n  class_path: modules.algorithms.atac.ATAC\n  init_args: "
OFFLINE = "data: {class_path: datamodules.offline.OfflineDataModule, init_args: {source: x.npz}}\n"
LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))


@pytest.mark.parametrize("name", ["conf/my.yaml", "../place/conf/my.yaml", "conf/my", "{here}/conf/my.yaml"])
def test_a_misspelt_key_in_another_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = tmp_path / "place"
    (here / "conf").mkdir(parents=True)
    (here / "conf" / "my.yaml").write_text(f"{ATAC}{{betta: 4.0}}\n{OFFLINE}")
    monkeypatch.chdir(here)
    message = mistake(["fit", "--config", name.format(here=here)], capsys)
    assert "'betta' is not accepted by ATAC" in message
    assert f"did you mean 'beta'? (in {here}/conf/my.yaml)" in message


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (f"{ATAC}{{beta: 1}}\n{OFFLINE}model:\n  init_args: {{beta: 9}}\n", ["'model'", "lines 1 and 5"]),
        (f"{ATAC}{{beta: 1, 'beta': 2}}\n", ["'model.init_args.beta'", "in line 3"]),
        (f"{ATAC}\n    hidden: [8]\n    beta: 2\n    hidden: [16]\n", ["'model.init_args.hidden'", "lines 4 and 6"]),
        ("data: &d {x: {<<: {a: 1}, <<: {b: 2}}}\n", ["'data.x.<<'"]),
        (LAUGHS, ["more than 50,000 entries"]),
        ("a: " + "[" * 100_000, ["more than 64 levels"]),
        ("a: " + "{a: " * 90 + "1" + "}" * 90, ["more than 64 levels"]),
        ("a: &a {b: [*a]}\n", ["*a stands for what it is part of"]),
        ("", ["is empty"]),
        ("# all said\n", ["is empty"]),
        ("---\n", ["is empty"]),
        ("- a\n- b\n", ["holds a list", "a config is a mapping"]),
        ("7\n", ["holds plain text"]),
        ("a: b: c\n", ["line 1"]),
        ("a: \0\n", ["not allowed"]),
        (b"\xff\xfem\x00o\x00", ["UTF-8"]),
        (b"a: \xe9\n", ["UTF-8"]),
        ("x" * (5 << 20), ["it has 5 MB"]),
    ],
)
@pytest.mark.parametrize("command", ["fit", "collect", "datasets check"])
def test_what_no_config_may_hold(
    content: str | bytes, parts: list[str], command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "it.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    start = time.process_time()
    message = mistake([*command.split(), "--config", str(path)], capsys)
    assert time.process_time() - start < 20  # a first call imports everything
    assert all(part in message for part in [*parts, str(path)]), message
    assert len(message) < 500 + len(str(path))


def test_aliases_and_keys_that_are_no_mistake() -> None:
    check("a: &a {b: 1}\nc: {<<: *a, b: 2}\nd: [{b: 1}, {b: 1}, *a]\n1: x\n? [1, 2]\n: y\n? [1, 2]\n: z\n")
    assert load("{a: 1e-3, b: [1, null]}") == {"a": 0.001, "b": [1, None]}


@pytest.mark.parametrize("flag", ["--data.source", "--data.reward_scale", "--model.trunk", "--model.init_args"])
def test_values_on_the_command_line_are_read_as_strictly(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    message = mistake(["fit", "--config", "atac/pendulum", flag, "{a: 1, a: 2}"], capsys)
    assert "the key 'a' stands twice, in line 1" in message
    assert ".yaml" not in message


def test_a_folder_and_a_device_are_no_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is a folder" in mistake(["fit", "--config", str(tmp_path)], capsys)
    assert "--config needs a file" in mistake(["fit", "--config", "/dev/null"], capsys)


@pytest.mark.parametrize(
    "argv",
    [
        ["--model.beta", "7", "--config", "{file}"],
        ["--model.init_args.beta=7", "-c", "{file}", "--model.actor_lr", "1e-5"],
        ["--model.beta", "7", "--config={file}", "--config", "atac/pendulum", "--data.source", "y.npz"],
        ["--model.beta", "7", "--model", "ATAC", "--data.source", "y.npz", "--data", "OfflineDataModule"],
    ],
)
def test_flags_win_wherever_they_stand(argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "it.yaml").write_text(f"{ATAC}{{beta: 1}}\n{OFFLINE}")
    config = print_config([part.format(file=tmp_path / "it.yaml") for part in argv], capsys)
    assert config["model"]["init_args"]["beta"] == 7
    if "y.npz" in argv:
        assert config["data"]["init_args"]["source"] == "y.npz"


def test_negative_numbers_are_values_however_they_are_written() -> None:
    given = ["--model.lr", "-1e3", "--model.low", "-.inf", "--model.high", "-2", "--other", "-c", "it.yaml", "-0.5"]
    assert in_order(given) == [
        *("-c", "it.yaml", "--model.lr=-1e3", "--model.low=-.inf", "--model.high=-2", "--other", "-0.5")
    ]


def test_later_configs_win_over_earlier_ones_and_flags_before_collect_win_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in (1, 2):
        (tmp_path / f"{n}.yaml").write_text(f"{ATAC}{{beta: {n}}}\n{OFFLINE}")
    both = ["--config", str(tmp_path / "2.yaml"), "--config", str(tmp_path / "1.yaml")]
    assert print_config(both, capsys)["model"]["init_args"]["beta"] == 1
    argv = ["--transitions", "7", "--config", "collect/pendulum"]
    assert print_config(argv, capsys, command="collect")["transitions"] == 7


@pytest.mark.parametrize(
    ("argv", "warning", "kept"),
    [
        (["--model", "A2C"], "model is A2C, so that beta, hidden of {file} are dropped", {}),
        (["--model.lr", "0.1", "--model", "A2C"], "beta, hidden of {file} are dropped", {"lr": 0.1}),
        (["--data", "MixtureTask"], "data is MixtureTask, so that source of {file} is dropped", {}),
        (["--config", "{other}"], "model is A2C, so that beta, hidden of {file} are dropped", {"units": 8}),
        (["--model.compile", "update", "--model", "A2C"], "beta, hidden of {file} are dropped", {"compile": "update"}),
        (["--model.beta", "3"], "", {"beta": 3.0, "hidden": [8]}),
        (["--model.trunk", "SparseMoE"], "model.trunk is SparseMoE, so that layers of {file} is dropped", {}),
    ],
)
def test_what_another_class_does_not_take_is_named(
    argv: list[str], warning: str, kept: dict, tmp_path: Path, recwarn: pytest.WarningsRecorder,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    file, other = tmp_path / "it.yaml", tmp_path / "other.yaml"
    trunk = "{class_path: modules.networks.blocks.DenseStack, init_args: {layers: 3}}"
    text = f"{ATAC}{{beta: 1, hidden: [8], discount: 0.5, compile: true, trunk: {trunk}}}\n{OFFLINE}"
    file.write_text(text if "--model.trunk" in argv else text.replace(f", compile: true, trunk: {trunk}", ""))
    other.write_text("model: {class_path: A2C, init_args: {units: 8}}\n")
    config = print_config(["--config", str(file), *[part.format(other=other) for part in argv]], capsys)
    said = [str(found.message) for found in recwarn if "dropped" in str(found.message)]
    assert len(said) == bool(warning)
    assert not warning or warning.format(file=file) in said[0]
    arguments = config["model"]["init_args"]
    assert arguments["discount"] == 0.5  # what both take stays
    assert {name: arguments[name] for name in kept} == kept


def test_a_value_that_another_class_takes_otherwise_is_named(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "it.yaml").write_text(f"{ATAC}{{compile: true}}\n{OFFLINE}")
    config = print_config(["--config", str(tmp_path / "it.yaml"), "--model", "A2C"], capsys)
    assert config["model"]["init_args"]["compile"] == "off"
    assert any("model is A2C, so that compile of" in str(found.message) for found in recwarn)


def test_defaults_of_others_can_be_written_and_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--config", "atac/pendulum", "--trainer.callbacks+"]
    timer = print_config([*argv, "Timer", "--trainer.callbacks.duration", "00:00:10:00"], capsys)
    assert timer["trainer"]["callbacks"][0]["init_args"]["interval"] == "step"
    average = print_config([*argv, "StochasticWeightAveraging", "--trainer.callbacks.swa_lrs", "0.1"], capsys)
    assert average["trainer"]["callbacks"][0]["init_args"]["device"] == "cpu"
    for config in (timer, average):
        (tmp_path / "it.yaml").write_text(yaml.safe_dump(config))
        again = print_config(["--config", str(tmp_path / "it.yaml")], capsys)
        assert again["trainer"]["callbacks"] == config["trainer"]["callbacks"]
    with pytest.raises(ConfigError, match="cannot hold"):
        dump({"a": object()})
