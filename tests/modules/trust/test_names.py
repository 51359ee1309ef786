"""Names that a file gives: what is looked at before an import, and before a call."""

from __future__ import annotations

import importlib
import inspect
import re
import sys

import gymnasium as gym
import pytest
from torch import nn

from modules.experts.layer import SparseMoE
from modules.trust.names import HARMLESS, check_plain, class_from_file, cut, short, trusting

FOREIGN = "a_package_of_a_stranger"


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A package that is installed, and whose import leaves a trace."""
    (tmp_path / f"{FOREIGN}.py").write_text(
        "from torch import nn\nfrom torch.nn import Linear\n\n\n"
        "class Layer(nn.Module):\n    class Inner(nn.Module): pass\n\n\n"
        "class Other: pass\n\n\ndef run(command): raise SystemExit(command)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield FOREIGN
    sys.modules.pop(FOREIGN, None)


def test_own_and_harmless_classes_need_no_trust() -> None:
    assert class_from_file("modules.experts.layer.SparseMoE", nn.Module, "x.ckpt") is SparseMoE
    for path in ("torch.nn.modules.linear.Linear", "torch.nn.Linear"):
        assert class_from_file(path, nn.Module, "x.ckpt") is nn.Linear
    assert class_from_file("gymnasium.wrappers.TimeLimit", gym.Wrapper, "x.ckpt") is gym.wrappers.TimeLimit


def test_a_foreign_class_is_not_imported_and_following_the_advice_works(foreign) -> None:
    with pytest.raises(ValueError, match=r"^x\.ckpt names \S+Layer, which is not.*nothing was imported") as told:
        class_from_file(f"{foreign}.Layer", nn.Module, "x.ckpt")
    assert foreign not in sys.modules
    advised = re.search(r"--trust (\S+)", str(told.value))[1]
    with trusting([advised]):
        assert class_from_file(f"{foreign}.Layer", nn.Module, "x.ckpt").__name__ == "Layer"
        assert class_from_file(f"{foreign}.Layer.Inner", nn.Module, "x.ckpt").__name__ == "Inner"
        assert class_from_file(f"{foreign}.Linear", nn.Module, "x.ckpt") is nn.Linear
        for wrong, said in (("run", "no such class"), ("Other", "is no Module"), ("Absent", "no such class")):
            with pytest.raises(ValueError, match=said):
                class_from_file(f"{foreign}.{wrong}", nn.Module, "x.ckpt")
    with pytest.raises(ValueError, match="--trust"):
        class_from_file(f"{foreign}.Layer", nn.Module, "x.ckpt")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("os.system", "nothing was imported"),
        ("modulesque.networks.Layer", "nothing was imported"),
        ("gymnasium.wrappers.rendering.RecordVideo", "nothing was imported"),
        ("gymnasium.wrappers.RecordVideo", "nothing was imported"),
        ("torch.nn.Bilinear", "nothing was imported"),
        ("modules.experts.layer.nn.Linear", "no such class"),  # through an import of ours
        ("modules.experts.layer.Tensor", "is no Module"),
        ("modules.experts.layer.sparse_layers", "no such class"),
        ("modules.networks.nothing.Such", "no such class"),
        ("modules.batch.Spaces", "is no Module"),
        ("modules", "should name a class"),
        ("modules.networks..x", "should name a class"),
        ("modules/networks.x", "should name a class"),
        ({"class_path": "os.system"}, "should name a class"),
        (None, "should name a class"),
        ("os." + "x" * 1000, r"should name a class, but says os\.x+ \.\.\.$"),
    ],
)
def test_what_is_refused(path, said: str) -> None:
    with pytest.raises(ValueError, match=said) as told:
        class_from_file(path, nn.Module, "x.ckpt")
    assert len(str(told.value)) < 200


def test_harmless_classes_are_there_under_their_own_names_and_take_no_callable() -> None:
    for path in HARMLESS:
        module, _, name = path.rpartition(".")
        found = vars(importlib.import_module(module))[name]
        assert f"{found.__module__}.{found.__qualname__}" == path
        assert issubclass(found, nn.Module | gym.Wrapper)
        for argument in list(inspect.signature(found).parameters.values())[issubclass(found, gym.Wrapper) :]:
            assert "Callable" not in str(argument.annotation), path
            assert not re.search("folder|path|file|func|trigger", argument.name), path


def test_plain_values() -> None:
    check_plain({"a": [1, 2.0, "x", None, True, {"b": ()}]}, "x.ckpt")
    with pytest.raises(ValueError, match=r"x\.ckpt should hold plain values, but holds a type"):
        check_plain({"a": [int]}, "x.ckpt")
    with pytest.raises(ValueError, match="plain values"):
        check_plain({1: 2}, "x.ckpt")
    laughs: list = ["ha"]
    for _ in range(30):
        laughs = [laughs] * 10
    with pytest.raises(ValueError, match="holds more than 100,000 values"):
        check_plain(laughs, "x.ckpt")


def test_an_error_is_told_by_what_it_says() -> None:
    assert short(ValueError("x.ckpt is truncated"), 100) == "x.ckpt is truncated"
    assert short(OSError(28, "No space left on device", "x.npz"), 100) == "[Errno 28] No space left on device: 'x.npz'"
    assert short(ValueError("a\x1b[2Jb"), 100) == r"'a\x1b[2Jb'"


def test_a_text_is_cut_to_its_limit_and_what_moves_a_cursor_is_escaped() -> None:
    assert cut("a  b\nc", 7) == "a b c"
    assert cut("x" * 84) == "x" * 84
    assert cut("x" * 85) == "x" * 80 + " ..."
    assert cut("\x1b[2J", 20) == "\\x1b[2J"
    assert len(short([1] * 1000)) <= 84
