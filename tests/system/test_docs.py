"""The documentation holds: links lead somewhere, commands parse, configs exist, and its code runs as it stands."""

from __future__ import annotations

import functools
import importlib
import itertools
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from checkpoint_files import write_checkpoint
from fit_command import write_dataset
from forked import run_reverie

import reverie
from commands.parsing import CONFIGS, config_names, find_config
from datamodules.recorded.references import measured_reference
from modules.agent.agent import Agent
from modules.trust.names import trusting

ROOT = Path(reverie.__file__).parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLE = "cloning"  # the algorithm that a page adds: not there before
UNPRINTED = (
    "compare",
    "doctor",
    "inspect",
    "evaluate",
    "evolve",
    "export",
    "publish",
    "reproduce",
    "select",
    "sweep",
    "sync",
    "ui",
)  # which print no config, or pass arguments on
ROOMS = "modules|datamodules|callbacks|commands"
DOTTED = re.compile(rf"`((?:{ROOMS})(?:\.\w+)+)`")
PATHS = re.compile(rf"(?<![\w./-])((?:{ROOMS}|configs|docs|tests|benchmarks)(?:/[\w-]+)+\.[a-z]+)\b")
NOT_RUNNABLE = re.compile(r"[|<]|\.\.\.|: ")


def blocks(page: Path, language: str) -> list[str]:
    return [code for found, code in FENCE.findall(page.read_text()) if found == language]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def command_lines() -> list[str]:
    """Every `reverie <subcommand> <arguments>` in a plain code block or between backticks, once."""
    found: dict[str, None] = {}
    for page in PAGES:
        lines = [line for code in blocks(page, "") for line in code.splitlines()]
        lines += re.findall(r"`([^`\n]+)`", prose(page))
        found |= dict.fromkeys(line.strip() for line in lines if re.match(r"\s*(python -m )?reverie\s+\S", line))
    return [line for line in found if not NOT_RUNNABLE.search(line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_to_files(page: Path) -> None:
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", prose(page))]
    local = [target for target in targets if target and not target.startswith(("http:", "https:"))]
    assert [target for target in local if not (page.parent / target).exists()] == []


def joined(text: str) -> list[str]:
    """Lines of a page in which a heading or a table runs into the text beside it, as after a careless reflow."""
    lines, wrong = ["", *FENCE.sub("", text).splitlines(), ""], []
    wrong += [line for line in lines if re.match(r"#+ .*([.,;:]$|[.!?] )|#+ .{75,}", line)]
    wrong += [line for line in lines if re.search(r"\S\s+##+ |```", line)]
    for row, line in enumerate(lines):
        if not re.search(r"-{3,}\s*\|", line):
            continue
        # A header of as many cells above, rows below, which may leave out empty cells at their end, and nothing else.
        header, above = lines[row - 1], lines[row - 2].strip()
        table = itertools.takewhile(str.strip, lines[row + 1 :])
        wrong += [header] if cells(header) != cells(line) else []
        wrong += [one for one in table if not 1 < cells(one) <= cells(line)]
        wrong += [above] if above and not above.startswith(("#", "<!--")) else []
        wrong += [] if re.fullmatch(r"[\s|:-]+", line) else [line]
    return wrong


def cells(row: str) -> int:
    """Number of cells of a row of a table."""
    return len(re.split(r"(?<!\\)\|", re.sub(r"`[^`]*`", "code", row).strip().strip("|")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_headings_and_tables_stand_apart_from_text(page: Path) -> None:
    assert joined(page.read_text()) == []


@pytest.mark.parametrize(
    "text",
    [
        "## Candidates `last` or `best` (of the run that `--config` or `--run_dir` names), a\ncheckpoint file.",
        "## The choice, and the fallback Taken is the policy with the highest bound, if\nany.",
        "## Files They are small. They are few.\n",
        "## Files\nThey are small. ## Folders\n",
        "Text\n\nName | Meaning\n--- | ---\na | b\nand text goes on.",
        "The table:\nName | Meaning\n--- | ---\na | b\n",
        "Name | Meaning --- | --- a | b\n",
        "Name\n--- | ---\na | b\n",
        "Text ```\nreverie fit\n```\n",
    ],
)
def test_what_runs_into_text_is_found(text: str) -> None:
    assert joined(text) != []


def test_figures_are_small() -> None:
    figures = list((ROOT / "docs/figures").glob("*.png"))
    assert figures
    assert [path.name for path in figures if path.stat().st_size > 300_000] == []


def test_named_configs_exist() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    groups = "|".join(path.name for path in CONFIGS.iterdir() if path.is_dir())
    named = set(re.findall(rf"`((?:{groups})/[a-z0-9_]+)`", text))
    assert "atac/pendulum" in named
    assert named <= set(config_names())
    for name in re.findall(r"--config ([\w/.-]+)", text):
        if not name.startswith(("runs/", f"{EXAMPLE}/")):
            find_config(name)


def test_named_code_exists() -> None:
    """A dotted name between backticks, such as `modules.agent.events.EVENTS`, leads to something; a path to a file."""
    places = [path for room in (*ROOMS.split("|"), "benchmarks") for path in sorted((ROOT / room).rglob("*.py"))]
    texts = {path: path.read_text() for path in [*PAGES, *places, *sorted(CONFIGS.rglob("*.yaml"))]}
    found = {(path.name, name) for path, text in texts.items() for name in DOTTED.findall(text) if EXAMPLE not in name}
    assert ("popart.py", "modules.agent.events.EVENTS") in found
    gone = []
    for place, name in sorted(found):
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError) as error:
            gone.append((place, name, str(error)))
    assert gone == []
    paths = {(path.name, name) for path, text in texts.items() for name in PATHS.findall(text) if EXAMPLE not in name}
    assert ("CHANGELOG.md", "modules/contracts.py") in paths
    assert [(place, name) for place, name in sorted(paths) if not (ROOT / name).exists()] == []


def is_a_whole_config(subcommand: str, arguments: list[str]) -> bool:
    """`reverie fit --config NAME` of a packaged config with model and data, which tests/test_configs.py parses."""
    if [subcommand, *arguments[:-1]] != ["fit", "--config"] or arguments[-1] not in config_names():
        return False
    config = yaml.safe_load(find_config(arguments[-1]).read_text())
    return "class_path" in config.get("model", {}) and "data" in config


@pytest.mark.parametrize("line", command_lines())
def test_command_line_parses(line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A known subcommand, known flags, values of the right type; nothing is run."""
    subcommand, *arguments = shlex.split(line.removeprefix("python -m "))[1:]
    assert subcommand in reverie.COMMANDS
    if not arguments or EXAMPLE in line.lower() or is_a_whole_config(subcommand, arguments):
        return
    arguments = [re.sub(r"^runs/.*\.yaml$", "atac/pendulum", part) for part in arguments]  # what a run has written
    if subcommand in UNPRINTED:
        module = importlib.import_module(f"commands.{subcommand}")

        @functools.wraps(getattr(module, subcommand))
        def parsed(**given: object) -> None:
            print(given)
            sys.exit(0)

        monkeypatch.setattr(module, subcommand, parsed)
    elif not any(part.endswith("help") for part in arguments):
        arguments.append("--print_config")
    with pytest.raises(SystemExit) as leaving:
        reverie.main([subcommand, *arguments])
    printed = capsys.readouterr()
    assert leaving.value.code == 0, printed.err
    assert printed.out


def printed_config(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict:
    with pytest.raises(SystemExit) as leaving:
        reverie.main(["fit", "--config", "atac/pendulum", *arguments, "--print_config"])
    printed = capsys.readouterr()
    assert leaving.value.code == 0, (arguments, printed.err)
    return yaml.safe_load(printed.out)


def test_flags_in_prose_exist(capsys: pytest.CaptureFixture[str]) -> None:
    """`--data.truncation drop` and the like, outside of whole commands, are accepted by `fit`."""
    defaults = printed_config([], capsys)
    flags = {flag for page in PAGES for flag in re.findall(r"`--(\w+)\.(\w+)((?: [^`]+)?)`", prose(page))}
    for group, key, value in sorted(flags):
        if value:
            printed_config(shlex.split(f"--{group}.{key}{value}"), capsys)
        else:
            assert key in defaults[group].get("init_args", defaults[group]), (group, key)
    assert len(flags) > 10


def test_the_example_of_loading_plays_an_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs/atac-pendulum/2026-01-01_00-00-00/checkpoints"
    folder.mkdir(parents=True)
    write_checkpoint(folder / "best.ckpt")
    monkeypatch.chdir(tmp_path)
    (code,) = [code for code in blocks(ROOT / "README.md", "python") if "reverie.load" in code]
    exec(code, {})
    assert -2000 < float(capsys.readouterr().out) < 0


def reverie_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`reverie` in a folder, which is searched for modules first, as it is for a user there."""
    return run_reverie(arguments, folder, {"PYTHONPATH": str(ROOT), "REVERIE_CACHE": str(folder / "cache")})


def test_the_example_algorithm_learns_resumes_and_acts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / "docs/adding_an_algorithm.md"
    (code,) = blocks(page, "python")
    (config,) = blocks(page, "yaml")
    (tmp_path / "cloning.py").write_text(code)
    settings = yaml.safe_load(config)
    settings["model"]["class_path"] = "cloning.Cloning"  # where a user keeps it outside of the project
    settings["data"]["init_args"] |= {"source": "tiny.npz", "updates_per_epoch": 50}
    settings["trainer"] |= {"logger": False, "log_every_n_steps": 10}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    write_dataset(tmp_path / "tiny.npz")
    with np.load(tmp_path / "tiny.npz") as file:
        arrays = dict(file)
    arrays["actions"] = np.tanh(arrays["observations"][:, :2])  # something to learn
    np.savez(tmp_path / "tiny.npz", **arrays)

    done = reverie_in(tmp_path, "fit", "--config", "mine", "--trainer.max_epochs", "3")
    assert done.returncode == 0, done.stderr
    done = reverie_in(tmp_path, "fit", "--config", "mine", "--trainer.max_epochs", "5", "--ckpt_path", "last")
    assert done.returncode == 0, done.stderr
    (checkpoint,) = tmp_path.glob("runs/mine/*/checkpoints/last.ckpt")
    monkeypatch.syspath_prepend(str(tmp_path))
    with trusting(["cloning"]):
        agent = Agent.from_checkpoint(checkpoint)
    assert agent.updates == 250
    observation = torch.from_numpy(arrays["observations"])
    action, _ = agent.act(observation, explore=False)
    torch.testing.assert_close(agent.policy()(observation), action)
    error = (action - torch.from_numpy(arrays["actions"])).square().mean().item()
    assert error < 0.01 < arrays["actions"].var()


def test_the_readme_lists_every_page_on_a_line_of_its_own() -> None:
    """Two changes that add a page then meet in no line."""
    lines = (ROOT / "README.md").read_text().partition("\n## More\n")[2].splitlines()
    listed = [re.findall(r"\(docs/(\w+\.md)\)", line) for line in lines]
    assert sorted(page for pages in listed for page in pages) == sorted(p.name for p in (ROOT / "docs").glob("*.md"))
    assert max(map(len, listed)) == 1


@pytest.mark.parametrize("page", ["README.md", "docs/data.md"])
def test_the_example_data_can_be_trained_on(page: str, tmp_path: Path) -> None:
    (code,) = [code for code in blocks(ROOT / page, "python") if "savez" in code]
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=250)
    (data,) = tmp_path.glob("*.npz")
    done = reverie_in(tmp_path, "datasets", "check", data.name)
    assert done.returncode == 0, done.stderr
    assert "time-outs" in done.stdout


def test_a_replay_takes_torchrls_own_calls_as_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = [code for code in blocks(ROOT / "docs/data.md", "python") if "ReplaySettings" in code]
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert capsys.readouterr().out.strip() == "torch.Size([4, 5])"
    assert (tmp_path / "replay-dump" / "buffer_metadata.json").exists()


def test_normalised_numbers_are_by_the_yardstick_of_the_environment() -> None:
    low, high, _ = measured_reference("Pendulum-v1") or pytest.fail("no reference")
    table = (ROOT / "README.md").read_text().partition("<!-- fit-table -->")[2].partition("<!-- /fit-table -->")[0]
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text().partition("### pendulum-mixed")[2].partition("\n`")[0]
    rows = re.findall(r"(-[\d.]+) -[\d.]+ \.\. -[\d.]+ +([\d.]+) \d+ episodes", table)
    rows += re.findall(r"\| (-[\d.]+) \| -[\d.]+ \.\. -[\d.]+ \| ([\d.]+) \|", results)
    assert len(rows) > 10
    for value, normalised in rows:
        assert float(normalised) == pytest.approx(100 * (float(value) - low) / (high - low), abs=0.06)
    named = f"0 is {low:.1f}, 100 is {high:.1f} (measured"
    assert named in table
    assert named in results
