"""The package as it is shipped: the wheel is whole, nothing names a machine, and the compiled parts fit together."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("modules", "datamodules", "callbacks", "commands")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("source")
    for name in (*PACKAGES, "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("reverie.py", "pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, folder)
    code = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True)
    (built,) = (folder / "dist").glob("*.whl")
    return zipfile.ZipFile(built)


def test_wheel_holds_every_file_of_the_packages(wheel: zipfile.ZipFile) -> None:
    files = [path for name in (*PACKAGES, "configs") for path in (ROOT / name).rglob("*") if path.is_file()]
    expected = {path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts}
    assert {".py", ".cpp", ".yaml", ".typed"} == {Path(name).suffix for name in expected}
    names = set(wheel.namelist())
    assert expected | {"reverie.py"} <= names, expected - names
    assert not [name for name in names if name.startswith(("tests", "benchmarks"))]
    entry_points = next(name for name in names if name.endswith("entry_points.txt"))
    assert "reverie = reverie:main" in wheel.read(entry_points).decode()
    assert any(name.endswith("LICENSE") for name in names)


def test_configs_are_found_in_an_unpacked_wheel(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from commands.parsing import find_config; print(find_config('atac/pendulum'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.strip() == str(tmp_path / "configs/atac/pendulum.yaml")


@pytest.mark.long
def test_an_installed_wheel_works_in_an_empty_folder(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(installed)]
    subprocess.run([*pip, str(wheel.filename)], check=True, capture_output=True, timeout=250)
    assert (installed / "modules/py.typed").exists()
    environment = {**os.environ, "PYTHONPATH": str(installed)}

    def ran(*command: str) -> str:
        done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, timeout=250)
        assert done.returncode == 0, done.stderr
        return done.stdout

    config = ran(str(installed / "bin/reverie"), "fit", "--config", "atac/pendulum", "--print_config")
    assert "class_path: modules.algorithms.atac.ATAC" in config
    code = "import modules.experts.layer as layer; print(layer.__file__, layer.SparseMoE(4, 4).num_experts)"
    assert ran(sys.executable, "-c", code).split() == [str(installed / "modules/experts/layer.py"), "8"]
    assert list(empty.iterdir()) == []


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_machine_paths_and_no_download_addresses() -> None:
    paths = re.compile(r"(?<![\w.])/(?:home|root|Users|work)/\w")
    addresses = re.compile(r"--(?:index-url|extra-index-url|find-links|trusted-host)[ =]+\S")
    found = []
    for file in tracked_files():
        if file.suffix in {".png", ".mp4", ".gif", ".npz", ".h5", ".hdf5", ".onnx"}:
            continue
        text = file.read_text(errors="ignore")
        found += [f"{file.relative_to(ROOT)}: {m[0]}" for m in (*paths.finditer(text), *addresses.finditer(text))]
    assert not found


def test_lock_has_versions_and_hashes_only() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    lines = [line for line in lock.splitlines() if line and not line.startswith((" ", "#"))]
    assert len(lines) > 100
    assert all(re.match(r"[\w.-]+==[\w.+!]+ (; .+ )?\\$", line) for line in lines)
    assert lock.count("--hash=sha256:") >= len(lines)


def test_lock_names_every_dependency() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["dev"], *extras["docs"]]
    names = {re.match(r"[\w.-]+", item)[0].lower() for item in wanted}
    locked = {line.split("==")[0] for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line}
    assert names <= locked, names - locked


def test_compiled_extension_of_torchrl_loads() -> None:
    from torchrl.data import LazyTensorStorage, PrioritizedReplayBuffer

    # Bound to one minor version of torch; without it the constructor fails.
    PrioritizedReplayBuffer(alpha=0.7, beta=0.5, storage=LazyTensorStorage(10))
