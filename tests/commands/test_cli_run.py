"""Whole runs through the command line: what flows from data and arguments into the run, and where it is written."""

from __future__ import annotations

import csv
import os
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn
from torchrl.data import RandomSampler

import reverie
from commands.evaluate import evaluate
from commands.lightning import import_classes
from commands.lightning_cli import ReverieCLI
from modules.agent.agent import Agent
from modules.agent.descent import descend, make_adam
from modules.batch import SequenceBatch, Spaces
from modules.contracts import Update
from modules.trust.names import trusting

TINY = [
    *("--config", "atac/pendulum", "--model.hidden", "[8, 8]", "--model.warm_start.updates", "2"),
    *("--data.updates_per_epoch", "3", "--data.batch_size", "16", "--trainer.accelerator", "cpu"),
    *("--evaluation.episodes", "1", "--evaluation.final_episodes", "1", "--evaluation.parallel", "1"),
    *("--trainer.logger", "false", "--run_dir", "runs/tiny"),
]
AGAIN = ["--ckpt_path", "last", "--seed_everything", "7"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small dataset collected by the command line itself."""
    folder = tmp_path_factory.mktemp("workplace")
    before = Path.cwd()
    os.chdir(folder)
    try:
        reverie.main(["collect", "--config", "collect/pendulum", "--transitions", "2000"])
    finally:
        os.chdir(before)
    import_classes()
    return folder


@pytest.fixture
def run(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of one finished tiny run."""
    monkeypatch.chdir(workplace)
    cli = ReverieCLI("fit", [*TINY, "--trainer.max_epochs", "1", "--seed_everything", "7"])
    assert "REVERIE_RUN_DIR" not in os.environ
    return cli.directory


class Refusing(RandomSampler):
    def sample(self, storage: Any, batch_size: int) -> Any:
        raise RuntimeError("not these rows")


class Empty(RandomSampler):
    def sample(self, storage: Any, batch_size: int) -> Any:
        return torch.empty(0, dtype=torch.int64), {}


@pytest.mark.parametrize(("sampler", "why"), [(Refusing, "not these rows"), (Empty, "drew 0 rows where 16 were")])
def test_a_sampler_that_cannot_draw_is_refused_before_anything_is_written(
    sampler: type, why: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace)
    with pytest.raises(SystemExit):
        reverie.main(["fit", *TINY, "--run_dir", "refused", "--data.sampler", f"{__name__}.{sampler.__name__}"])
    said = capsys.readouterr().err
    assert why in said
    assert "training" not in said
    assert list(Path("refused").iterdir()) == []


def test_run_folder_and_links(run: Path) -> None:
    assert run.parent == Path("runs/tiny").absolute()
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["seed_everything"] == 7
    assert config["run_dir"] == str(run.parent)
    assert "seed" not in config["model"]["init_args"]
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["seed"] == 7
    assert checkpoint["global_step"] == 3
    assert "Pendulum" in checkpoint["dataset"]["environment"]


def test_last_continues_in_the_same_folder_and_arguments_win(run: Path) -> None:
    changed = ["--model.critic.target_rate", "0.5", "--model.critic_lr", "0.01", "--model.actor_lr", "0.02"]
    cli = ReverieCLI("fit", [*TINY, "--trainer.max_epochs", "2", *AGAIN, *changed])
    rates = [optimizer.param_groups[0]["lr"] for optimizer in cli.trainer.optimizers]
    assert rates == [0.02, 0.01, 0.01]  # of the policy in the game, the critics and the temperature
    states = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"]
    assert [state["param_groups"][0]["lr"] for state in states] == rates
    assert cli.directory == run
    assert cli.trainer.global_step == cli.model.updates == 6
    assert cli.model.hparams["critic"]["target_rate"] == 0.5
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["model"]["init_args"]["critic"]["target_rate"] == 0.5


@pytest.mark.parametrize(("shared", "rows"), [("false", 32), ("true", 16)])
def test_a_population_gets_one_minibatch_a_seed(
    shared: str, rows: int, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    members = ["--model.seeds", "2", "--model.beta", "[1, 4]", "--model.shared_batch", shared]
    cli = ReverieCLI("fit", [*TINY, *members, "--trainer.fast_dev_run", "1"])
    assert len(cli.model.member_names) == 4
    assert next(iter(cli.datamodule.train_dataloader())).batch_size[0] == rows


def test_saved_config_starts_a_second_run_beside_the_first(run: Path) -> None:
    cli = ReverieCLI("fit", ["--config", str(run / "config.yaml")])
    assert cli.directory.parent == run.parent
    assert cli.directory != run
    same = [torch.load(d / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for d in (run, cli.directory)]
    assert all(torch.equal(same[0][key], same[1][key]) for key in same[0])


def test_validate_reads_a_checkpoint_and_leaves_the_run_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "config.yaml").read_bytes()
    cli = ReverieCLI("validate", [*TINY, "--ckpt_path", "last"])
    assert (run / "config.yaml").read_bytes() == before
    assert "validation/td_error" in cli.trainer.callback_metrics
    assert cli.model.updates == 3


def test_test_plays_episodes_too(run: Path) -> None:
    cli = ReverieCLI("test", [*TINY, "--ckpt_path", "last"])
    metrics = cli.trainer.callback_metrics
    assert metrics["test/return"] < 0
    assert "test/td_error" in metrics
    with pytest.raises(ValueError, match="no episode is held out"):
        ReverieCLI("test", [*TINY, "--ckpt_path", "last", "--data.validation_fraction", "0"])


class Stop(Callback):
    """Sends the own process a signal in the middle of the first epoch."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 1:
            os.kill(os.getpid(), signal.SIGHUP)


def test_the_command_that_a_stopped_run_prints_goes_on(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace)
    with pytest.raises(SystemExit) as leaving:
        reverie.main(["fit", *TINY, "--trainer.max_epochs", "2", "--trainer.callbacks+", "test_cli_run.Stop"])
    assert leaving.value.code == 129
    said = capsys.readouterr().err.splitlines()[-1]
    before, command = said.split("to go on from update 2: ")
    assert before == "reverie: stopped by SIGHUP; "
    program, *argv = shlex.split(command)
    assert program == "reverie"
    reverie.main(argv)
    folder = Path(argv[-1]).parents[1]
    assert torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 6
    assert (folder / "final_evaluation.json").is_file()


class InterruptOnce(Callback):
    """As Ctrl-C in the first epoch of the first start."""

    left = 1

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 1 and InterruptOnce.left:
            InterruptOnce.left = 0
            raise KeyboardInterrupt


def test_the_command_that_a_job_prints_before_its_first_checkpoint_starts_it_anew(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("REVERIE_RUN_DIR", "job")
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as leaving:
            reverie.main(
                ["fit", *TINY, "--trainer.max_epochs", "1", "--trainer.callbacks+", "test_cli_run.InterruptOnce"]
            )
    finally:
        signal.signal(signal.SIGINT, before)  # which Lightning ignores from then on
    assert leaving.value.code == 130
    said = capsys.readouterr().err.splitlines()[-1]
    _, command = said.split("to start anew: reverie ")
    reverie.main(shlex.split(command))
    assert (workplace / "job/final_evaluation.json").is_file()


@pytest.mark.long
def test_a_resume_that_does_not_fit_leaves_the_run_as_it_was(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="this checkpoint holds the members"):
        ReverieCLI("fit", [*TINY, *AGAIN, "--model.seeds", "2"])
    for argument, value, said in (
        ("--seed_everything", "8", r"model\.seed was 7 .* is 8 now, .*--seed_everything"),
        ("--model.initializer", "torch_default", r"model\.initializer was xavier_normal"),
        ("--model.warm_start.updates", "9", r"model\.warm_start\.updates was 2"),
        ("--data.normalize_observation", "false", r"data\.normalize_observation was true .* is false now"),
    ):
        with pytest.raises(ValueError, match=said):
            ReverieCLI("fit", [*TINY, *AGAIN, argument, value])
    with pytest.raises(ValueError, match=r"is in epoch 1, trainer\.max_epochs is 0"):
        ReverieCLI("fit", [*TINY, *AGAIN, "--trainer.max_epochs", "0"])
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_mistakes_found_while_building_are_one_screen(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace)
    for argv, part in (
        (["--data.source", "data/nothing"], "data/nothing"),
        (["--model.beta", "-1"], "beta"),
        (["--trainer.strategy", "fsdp"], "use ddp"),
        (["--trainer.gradient_clip_val", "1"], "gradient"),
        (["--trainer.devices", "two"], "devices"),
        (["--trainer.log_every_n_steps", "0"], "log_every_n_steps"),
        (["--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.monitor", "x"], "metric `x`"),
        (["--evaluation.environment_arguments", "{gg: 3}"], "'gg'"),
    ):
        with pytest.raises(SystemExit) as leaving:
            reverie.main(["fit", *TINY, *argv])
        lines = capsys.readouterr().err.splitlines(keepends=True)
        message = "".join(line for line in lines if not line.startswith("training ATAC in "))
        assert leaving.value.code == 2
        assert message.startswith("reverie: error: "), message
        assert "Subtypes" not in message
        assert "Traceback" not in message
        assert part in message
        assert len(message.splitlines()) <= 10
    assert all(list(folder.iterdir()) for folder in Path("runs/tiny").iterdir())  # no empty folders are left behind


class Catcher(Agent):
    """Follows the ball, once it has seen it twice, with the chance that it has learned: 1 after the first update."""

    def __init__(self, spaces: Spaces | None = None, seed: int = 0) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["spaces"])
        assert spaces is not None
        self.spaces = spaces
        self.alive = [True]
        self.weight = nn.Parameter(torch.zeros(()))
        self.optimizer = make_adam([self.weight], 0.1)

    def initial_state(self, batch: int) -> Tensor:
        return torch.zeros(batch, dtype=torch.int64)

    def act(self, observation: Any, state: Any = None, *, explore: bool) -> tuple[Tensor, Tensor]:
        columns = observation[:, :, :, 0].long().argmax(2)  # of the bright pixel in each row
        ball = (observation[:, :-1, :, 0].sum((1, 2)) > 0).long() * columns[:, :-1].amax(1)
        follow = 1 + torch.sign(ball - columns[:, -1])
        return torch.where((state > 0) & (self.weight > 0), follow, 1), state + 1

    def learn(self, batch: Any) -> Update:
        rows = SequenceBatch.from_tensordict(batch)
        assert rows.observation["observation"].shape == (9, 4, 10, 5, 1)
        loss = (self.weight - 1.0).square()
        descend(self.optimizer, loss)
        return Update({"loss": loss.detach()})


ONLINE = [
    *("--model", "test_cli_run.Catcher", "--data", "OnlineDataModule", "--data.environment", "reverie/Catch-v0"),
    *("--data.environments", "2", "--data.prefill", "100", "--data.steps_per_epoch", "40"),
    *("--data.updates_per_step", "0.1", "--data.batch_size", "4", "--data.sequence_length", "9"),
    *("--data.capacity", "500", "--trainer.accelerator", "cpu", "--trainer.logger", "false"),
    *("--trainer.log_every_n_steps", "2", "--evaluation.final_episodes", "7", "--run_dir", "runs/catch"),
]


def read(table: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(table.read_text().splitlines()))


def test_a_run_that_collects_its_own_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    import_classes()
    cli = ReverieCLI("fit", [*ONLINE, "--trainer.max_epochs", "2", "--seed_everything", "3"])
    rows = read(cli.directory / "evaluation.csv")
    assert [row["kind"] for row in rows] == ["random", "curve", "curve", "last", "best"]
    assert float(rows[0]["mean"]) < 0.5
    assert {float(row["mean"]) for row in rows[1:]} == {1.0}
    assert [140 <= int(row["environment_steps"]) <= 190 for row in rows[1:4]] == [True] * 3
    assert int(rows[1]["environment_steps"]) < int(rows[2]["environment_steps"])
    assert cli.model.latest_metrics["collection/environment_steps"] == int(rows[2]["environment_steps"])
    printed = capsys.readouterr()
    assert "Catcher on reverie/Catch-v0" in printed.out
    assert "random policy" in printed.out
    assert "environment steps, training return" in printed.err
    checkpoint = cli.directory / "checkpoints" / "last.ckpt"
    with trusting([__name__]):
        evaluate(str(checkpoint), episodes=5, video="films", output="returns.csv")
    assert [float(row["return"]) for row in read(Path("returns.csv"))] == [1.0] * 5
    assert Path("films/policy.mp4").stat().st_size > 500
    reverie.main(["export", "--ckpt_path", str(checkpoint), "--output", "folder", "--trust", __name__])
    assert Path("folder/policy.onnx").is_file()
