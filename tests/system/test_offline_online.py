"""An offline policy learns on where it is played, through the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from recorded_toys import record_toy

import reverie
from modules.agent.agent import Agent
from modules.algorithms.atac import ATAC

SMALL = (
    "--model.hidden", "[8,8]", "--trainer.logger", "false", "--trainer.max_epochs", "1", "--data.batch_size", "16",
    "--evaluation.episodes", "1", "--evaluation.final_episodes", "1", "--trainer.log_every_n_steps", "5",
)  # fmt: skip
ONLINE = ("--config", "atac/pendulum", "--config", "atac/pendulum_online", *SMALL, "--data.steps_per_epoch", "20")


def last(folder: str) -> Path:
    (checkpoint,) = Path(folder).glob("*/checkpoints/last.ckpt")
    return checkpoint


@pytest.mark.long
def test_an_offline_policy_learns_on_and_resumes_without_its_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    source = record_toy(tmp_path / "data", "Pendulum-v1", 1000)
    offline = ("--config", "atac/pendulum", *SMALL, "--model.warm_start.updates", "5", "--data.updates_per_epoch", "10")
    reverie.main(["fit", *offline, "--data.source", source, "--run_dir", "offline"])
    weights = last("offline")
    started = (*ONLINE, "--data.start_from", source, "--weights_from", str(weights))

    with pytest.raises(SystemExit) as leaving:
        reverie.main(["fit", *started, "--data.reward_scale", "1.0", "--run_dir", "refused"])
    assert leaving.value.code == 2
    assert "set data.reward_scale to 0.1" in capsys.readouterr().err
    assert not list(Path("refused").glob("*/*"))

    reverie.main(["fit", *started, "--run_dir", "online"])
    printed = capsys.readouterr()
    assert "behaviour" in printed.out  # the dataset's own episodes stand in the table
    old, new = Agent.from_checkpoint(weights), Agent.from_checkpoint(last("online"))
    assert isinstance(old, ATAC)
    assert isinstance(new, ATAC)
    assert (old.updates, new.updates) == (10, 10)
    assert torch.equal(old.normalize.mean, new.normalize.mean)
    ahead = [(a - b).abs().max() for a, b in zip(old.actor.parameters(), new.actor.parameters(), strict=True)]
    assert 0 < max(ahead) < 0.1  # it went on from there

    weights.unlink()
    reverie.main(["fit", *started, "--run_dir", "online", "--trainer.max_epochs", "2", "--ckpt_path", "last"])
    assert "not exactly" not in capsys.readouterr().err
    assert Agent.from_checkpoint(last("online")).updates == 20
