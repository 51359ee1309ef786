"""The image and the job of `deploy/`, as far as a machine without Docker and SLURM can tell."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

import reverie

ROOT = Path(reverie.__file__).parent
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
RUNS = re.findall(r"^#   docker run .* reverie (.*)$", DOCKERFILE, re.MULTILINE)
TOLD = re.compile(r"(?<!\S)(--(?:require-hashes|no-deps|no-build-isolation))")
"""Flags of an installation that say what may be installed."""


def accepted(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        reverie.main([*arguments, "--print_config"])
    assert leaving.value.code == 0, capsys.readouterr().err


def test_the_image_installs_as_the_makefile_does() -> None:
    assert re.findall(r"uv==([\d.]+)", DOCKERFILE) == re.findall(r"UV_VERSION := ([\d.]+)", MAKEFILE)
    steps = MAKEFILE[MAKEFILE.index("$(STAMP): req") : MAKEFILE.index("fit: $(STAMP)")]
    assert TOLD.findall(DOCKERFILE) == TOLD.findall(steps) == ["--require-hashes", "--no-deps", "--no-build-isolation"]


def test_the_image_has_all_that_is_installed_and_nothing_else() -> None:
    copied = [name for line in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()]
    assert [name for name in copied if not (ROOT / name).exists()] == []
    let_in = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert sorted(let_in) == sorted(copied)
    assert {*reverie.PACKAGES, "configs", "reverie.py", "requirements.lock"} <= {*copied}


@pytest.mark.parametrize("line", [line for line in RUNS if line.startswith("fit")])
def test_commands_in_the_image_are_accepted(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    accepted(shlex.split(line), capsys)


def test_all_commands_in_the_image_are_known() -> None:
    assert {line.split()[0] for line in RUNS} == {"fit", "ui"} <= reverie.COMMANDS.keys()


def test_the_job_starts_what_scaling_promises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\necho "$REVERIE_RUN_DIR $OMP_NUM_THREADS"\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    job = {"SLURM_JOB_ID": "17", "SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2"}
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", **job}
    script = str(ROOT / "deploy/slurm.sh")
    done = subprocess.run(
        [script, "--config", "r2d2/atari"], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    told, program, *arguments = done.stdout.splitlines()
    assert (told, program) == ("runs/job-17 1", "reverie")
    assert arguments[:3] == ["fit", "--config", "r2d2/atari"]
    given = dict(zip(arguments[3::2], arguments[4::2], strict=True))
    assert given == {
        "--ckpt_path": "last", "--trainer.accelerator": "gpu", "--trainer.devices": "4", "--trainer.num_nodes": "2",
        "--trainer.strategy": "ddp",
    }  # fmt: skip
    accepted(arguments, capsys)

    # The number of tasks is what the job asks for, and nothing is started without a config.
    text = Path(script).read_text()
    assert f"--ntasks-per-node={given['--trainer.devices']}" in text
    assert "--signal=USR1@" in text
    none = subprocess.run([script], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (none.returncode, none.stdout) == (2, "")
