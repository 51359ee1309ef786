"""The command line: quick answers, one-line mistakes, configs by name, links between data, model and seed."""

from __future__ import annotations

import importlib.util
import os
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from command_line import mistake, print_config
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import nn

import commands.lightning
import reverie
from commands.class_names import walk_subclasses
from commands.help_text import takes_call
from commands.quiet import show_warning
from modules.agent.remembering import MakeMemory

ROOT = Path(reverie.__file__).parent
BASE = ["--config", "atac/pendulum"]


def run_python(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, env=environment)


def seconds_of_children() -> float:
    """CPU time of processes that have ended, which does not depend on what else a machine does."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_answer_at_once_without_torch(flag: str, tmp_path: Path) -> None:
    code = (
        f"import sys, reverie\ntry: reverie.main(['{flag}'])\nexcept SystemExit as e: assert not e.code\n"
        "assert not {'torch', 'pytorch_lightning', 'gymnasium', 'mlflow'} & set(sys.modules)"
    )
    start = seconds_of_children()
    done = run_python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert seconds_of_children() - start < 2
    assert (
        reverie.__version__ in done.stdout if flag == "--version" else all(c in done.stdout for c in reverie.COMMANDS)
    )


def test_every_subcommand_has_its_module_and_help() -> None:
    for name, (target, description) in reverie.COMMANDS.items():
        assert importlib.util.find_spec(target.split(":")[0]) is not None, name
        assert description


def test_module_form_and_unknown_subcommand(tmp_path: Path) -> None:
    done = run_python("-m", "reverie", "fitt", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "reverie: error: unknown subcommand 'fitt'; did you mean 'fit'?\n"


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["--model.betaa", "3"], ["ATAC", "'betaa'", "did you mean 'beta'"]),
        (["--data.batchsize", "3"], ["OfflineDataModule", "'batchsize'", "did you mean 'batch_size'"]),
        (["--trainer.max_epoch", "3"], ["--trainer.max_epoch", "did you mean '--trainer.max_epochs'"]),
        (["--evaluation.episode", "3"], ["did you mean '--evaluation.episodes'"]),
        (["--model", "ATAK"], ["there is no class ATAK", "did you mean 'ATAC'"]),
        (["--data", "OflineDataModule"], ["there is no class", "did you mean 'OfflineDataModule'"]),
        (["--model.critic_lr", "fast"], ["critic_lr", "expected float", "fast"]),
        (["--trainer.max_epochs", "many"], ["trainer.max_epochs", "expected int", "many"]),
        (["--model.pessimism", "relativ"], ["pessimism", "'relative', 'initial'", "relativ"]),
        (["--config", "atac/pendulun"], ["'atac/pendulun'", "atac/pendulum"]),
        (["--model.seed", "1"], ["--model.seed would be overridden", "--seed_everything"]),
        (["--data.seed=1"], ["--data.seed would be overridden", "--seed_everything"]),
        (["--trainer.default_root_dir", "x"], ["--run_dir"]),
        (["--ckpt_path", "last", "--run_dir", "nothing-here"], ["--ckpt_path last", "nothing-here"]),
        (["--ckpt_path", "no.ckpt"], ["no checkpoint file", "no.ckpt"]),
        (["--model", "modules.algorithms.atac.ATAK"], ["ATAK", "did you mean 'ATAC'"]),
        (
            ["--model", "modules.algorithm.atac.ATAC"],
            ["No module named 'modules.algorithm' among reverie's; did you mean 'modules.algorithms.atac.ATAC'?"],
        ),
        (["--model", "modules.mine.Own"], ["No module named 'modules.mine' among reverie's; rename your package"]),
        (
            ["--model.trunk", "modules.networks.experts.SparseMoE"],
            ["'modules.networks.experts' among reverie's; did you mean 'modules.experts.layer.SparseMoE'?"],
        ),
        (
            ["--data", "OnlineDataModule", "--data.replay", "datamodules.prioritized.PrioritizedReplay"],
            ["among reverie's; did you mean 'datamodules.replay.prioritized.PrioritizedReplay'?"],
        ),
        (["--trainer.logger", "CSVLoger"], ["there is no class CSVLoger", "did you mean 'CSVLogger'"]),
        (["--trainer.callbacks+", "EarlyStoping"], ["EarlyStoping", "did you mean 'EarlyStopping'"]),
        (["--model.beta", "four"], ["model.beta: expected float or list. Got value: four"]),
        (["--model.pessimism", "relativ"], ["did you mean 'relative'"]),
        (["--model.seeds", "0"], ["model.seeds must be at least 1"]),
        (["--model.trunk", "SparseMo"], ["trunk: there is no class SparseMo", "did you mean 'SparseMoE'"]),
        (["--model.trunk", "SparseMoE", "--model.trunk.kk", "3"], ["'kk' is not accepted by SparseMoE"]),
        (["--model.trunk", "SparseMoE", "--model.trunk.experts", "3"], ["did you mean 'expert'"]),
        (["--config", "moe/mixture", "--model.network.experts.num_expertz", "3"], ["did you mean 'num_experts'"]),
        (["--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.moniter", "x"], ["did you mean 'monitor'"]),
        (["--trainer", "x"], ["trainer is given by its fields, not by 'x'"]),
        (["--model", "os.system"], ["model: os.system is no class of the kind Agent"]),
        (["--trainer.callbacks+", "ProgressBar"], ["several classes are named ProgressBar: give callbacks.progress"]),
        (["--model.trunk", "SparseMoE", "--model.trunk.k", "two"], ["model.trunk.k: expected int. Got value: two"]),
    ],
)
def test_mistake_on_the_command_line(argv: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    message = mistake(["fit", *BASE, *argv], capsys)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("model:\n  init_args:\n    betaa: 3\n", ["'betaa'", "did you mean 'beta'"]),
        ("modle:\n  class_path: ATAC\n", ["modle", "did you mean 'model.class_path'"]),
        ("trainer:\n  max_epoch: 3\n", ["trainer.max_epoch", "did you mean 'trainer.max_epochs'"]),
        ("trainer:\n  max_epochs: many\n", ["trainer.max_epochs", "expected int", "many"]),
        ("model:\n  class_path: ATAK\n", ["there is no class ATAK", "did you mean 'ATAC'"]),
        ("trainer:\n  callbacks:\n  - class_path: Throughputt\n", ["Throughputt", "did you mean 'Throughput'"]),
        ("trainer: {a: [}\n", ["line 1, column"]),
        ("hello\n", ["holds plain text", "a config is a mapping"]),
        ("model:\n  init_args:\n    seed: 3\n", ["model.init_args.seed", "--seed_everything"]),
    ],
)
def test_mistake_in_a_file_names_the_file(
    content: str, parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = tmp_path / "bad.yaml", tmp_path / "good.yaml"
    bad.write_text(content)
    good.write_text("trainer:\n  min_epochs: 1\n")
    message = mistake(["fit", *BASE, "--config", str(bad), "--config", str(good)], capsys)
    assert all(part in message for part in [*parts, str(bad)]), message


def test_configs_are_found_by_name_from_any_folder_and_merge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("model:\n  init_args:\n    critic_lr: 0.25\n")
    config = print_config(["--config", "atac/pendulum.yaml", "-c", "mine", "--model.beta", "2.5"], capsys)
    packaged = yaml.safe_load((ROOT / "configs/atac/pendulum.yaml").read_text())
    arguments = config["model"]["init_args"]
    assert arguments["hidden"] == packaged["model"]["init_args"]["hidden"]
    assert (arguments["critic_lr"], arguments["beta"]) == (0.25, 2.5)
    assert config["model"]["class_path"] == "modules.algorithms.atac.ATAC"


def test_short_class_names_and_help_of_a_class(capsys: pytest.CaptureFixture[str]) -> None:
    config = print_config(["--model", "ATAC", "--data", "OfflineDataModule", "--data.source", "x"], capsys)
    assert config["data"]["class_path"] == "datamodules.offline.OfflineDataModule"
    for argv, text in ((["--model.help", "ATAC"], "weight of the Bellman error"), (["--help"], "episodes")):
        with pytest.raises(SystemExit):
            reverie.main(["fit", *argv])
        assert text in capsys.readouterr().out


def test_a_model_is_no_data_and_nothing_alike_is_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    message = mistake(["fit", *BASE, "--model", "OfflineDataModule"], capsys)
    assert message == "model: there is no class OfflineDataModule"


REQUIRED = "the following arguments are required"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            ["atac/pendulum", "--data.sampler", "torchrl.data.PrioritizedSampler", "--data.sampler.alpha", "1"],
            f"data.sampler: PrioritizedSampler: {REQUIRED}: max_capacity, beta; give --data.sampler.max_capacity VALUE "
            "--data.sampler.beta VALUE, or init_args in a config",
        ),
        (  # within the class that is the default
            ["dreamer/cartpole", "--data.replay.sampler", "EpisodeSampler"],
            f"data.replay.sampler: EpisodeSampler: {REQUIRED}: slice_len; give --data.replay.sampler.slice_len VALUE, "
            "or init_args in a config",
        ),
        (  # what whoever makes it gives is not asked for: `env`
            ["dreamer/cartpole", "--data.wrappers", "[{class_path: gymnasium.wrappers.ClipReward}, "
             "{class_path: gymnasium.wrappers.ResizeObservation}]"],
            f"data.wrappers[1]: ResizeObservation: {REQUIRED}: shape; give {{class_path: "
            "gymnasium.wrappers.transform_observation.ResizeObservation, init_args: {shape: VALUE}}",
        ),
        (
            ["dreamer/cartpole", "--data.wrappers", "gymnasium.wrappers.ClipReward"],
            "data.wrappers: expected a list of classes, such as '[{class_path: gymnasium.wrappers.ClipReward}]'",
        ),
        (
            ["a2c/cartpole", "--trainer.callbacks", "Timer", "--trainer.callbacks+", "EarlyStopping"],
            f"trainer.callbacks[1]: EarlyStopping: {REQUIRED}: monitor; give {{class_path: "
            "pytorch_lightning.callbacks.early_stopping.EarlyStopping, init_args: {monitor: VALUE}}",
        ),
        (  # nor can it be given
            ["r2d2/tmaze", "--data.replay.storage", "torchrl.data.LazyTensorStorage",
             "--data.replay.storage.max_size", "3"],
            "data.replay.storage: Option 'max_size' is not accepted by LazyTensorStorage",
        ),
    ],
)  # fmt: skip
def test_what_a_class_lacks_is_named_with_how_to_give_it(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mistake(["fit", "--config", *argv], capsys) == said


def test_what_is_required_is_named_as_flags(capsys: pytest.CaptureFixture[str]) -> None:
    advice = "start from a config, for example --config atac/pendulum"
    assert mistake(["fit"], capsys) == f"the following arguments are required: --data, --model; {advice}"
    assert mistake(["fit", "--model", "A2C"], capsys) == "the following arguments are required: --data"
    source = mistake(["fit", "--model", "A2C", "--data", "OfflineDataModule"], capsys)
    assert source == (
        "data: OfflineDataModule: the following arguments are required: source; give --data.source VALUE, or init_args "
        "in a config"
    )
    assert mistake(["collect", "--dataset", "x-v0"], capsys) == "the following arguments are required: --environment"


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is not None, reason="TensorBoard is installed")
def test_a_logger_whose_package_is_missing_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    logger = ["--trainer.logger", "TensorBoardLogger", "--trainer.logger.save_dir", "x"]
    message = mistake(["fit", "--config", "moe/mixture", *logger], capsys)
    assert message == "trainer.logger needs TensorBoard: pip install -e '.[tensorboard]'"


def test_a_config_that_is_not_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.bin").write_bytes(b"\xa7\xff" * 10)
    assert "x.bin is no YAML file" in mistake(["fit", "--config", str(tmp_path / "x.bin")], capsys)


def test_own_warnings_are_one_line_and_others_keep_their_place(capsys: pytest.CaptureFixture[str]) -> None:
    show_warning("no evaluation", UserWarning, str(ROOT / "callbacks/evaluation/evaluation.py"), 3)
    assert capsys.readouterr().err == "reverie: warning: no evaluation\n"
    show_warning("odd", UserWarning, "/elsewhere/torch/x.py", 3)
    assert "/elsewhere/torch/x.py:3" in capsys.readouterr().err


def test_sigterm_leaves_with_143(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise SIGTERMException

    monkeypatch.setattr(commands.lightning, "ReverieCLI", stopped)
    with pytest.raises(SystemExit) as leaving:
        reverie.main(["fit"])
    assert leaving.value.code == 143


def test_a_file_that_cannot_be_written_is_named_without_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    message = mistake(["fit", *BASE, "--run_dir", "/dev/null/runs"], capsys)
    assert message.startswith("/dev/null/runs")
    assert message.endswith(": Not a directory")


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVERIE_DEBUG", "1")
    with pytest.raises(ValueError, match="no checkpoint file"):
        reverie.main(["fit", *BASE, "--ckpt_path", "no.ckpt"])


def test_a_start_on_a_terminal_says_at_once_what_it_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with pytest.raises(SystemExit):
        reverie.main(["evaluate", "--ckpt_path", "nowhere.ckpt"])
    assert capsys.readouterr().err.startswith("reverie evaluate: loading PyTorch ...\nreverie: error: ")
    with pytest.raises(SystemExit):
        reverie.main(["evaluate", "--help"])
    assert "loading" not in capsys.readouterr().err


def test_a_package_of_the_users_that_hides_ours_is_named(tmp_path: Path) -> None:
    (tmp_path / "callbacks").mkdir()
    (tmp_path / "callbacks/__init__.py").touch()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "reverie", "fit", "--config", "atac/pendulum"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"reverie: error: the name 'callbacks' means {tmp_path / 'callbacks'} here, not")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("argv", [["--model.help", "A2C"], ["--model.help", "ATAC"], ["--data.help", "MixtureTask"]])
def test_the_help_of_a_class_is_its_own_arguments(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        reverie.main(["fit", *argv])
    text = capsys.readouterr().out
    assert len(text.splitlines()) < 280
    assert "torch.nn" not in text
    assert "LightningModule" not in text
    if argv[1] == "A2C":
        assert "modules.networks.value_heads.PopArtHead" in "".join(text.split())
        assert "Adam learning rate" in text


def test_output_that_nobody_reads_ends_in_silence(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for argument in ("--version", "--help"):
        python = shlex.quote(sys.executable)
        command = f"{python} -m reverie {argument} | true; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert (done.returncode in (0, 141), done.stderr) == (True, "")  # 0 where it was written before that ended


def test_help_lists_the_layers_that_a_trunk_may_be() -> None:
    asked = Callable[[int, int], nn.Module] | None
    listed = {"modules.networks.blocks.DenseStack": True, "modules.experts.layer.SparseMoE": True}
    listed |= {
        "modules.networks.ensemble.EnsembleLinear": False,
        "modules.experts.routers.TopK": False,
        "modules.networks.encoders.Encoder": False,
        "modules.networks.encoders.ConvEncoder": False,
        "modules.networks.causal_transformer.CausalTransformer": False,
        "modules.networks.pixel_control.PixelControl": False,
        "modules.networks.consistency.Consistency": False,
        "modules.world_model.rssm.LayerNormGRU": False,
    }
    assert {path: takes_call(path, asked) for path in listed} == listed
    offered = {path.rpartition(".")[2] for path in layers() if takes_call(path, asked)}
    assert offered == {"DenseStack", "MLP", "OutputLinear", "ResidualStack", "SparseMoE"}


def layers() -> list[str]:
    """All layers of the project."""
    commands.lightning.import_classes()
    paths = {f"{cls.__module__}.{cls.__qualname__}" for cls in walk_subclasses(nn.Module)}
    return sorted(path for path in paths if path.partition(".")[0] == "modules")


def test_help_lists_memories_which_give_more_than_a_tensor() -> None:
    memories = ("recurrent.LSTM", "memory.MemoryLSTM", "two_timescale.TwoTimescale")
    assert all(takes_call(f"modules.networks.{path}", MakeMemory) for path in memories)
