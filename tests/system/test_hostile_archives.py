"""Archives and pickles of a stranger that torch would read for ever, into all memory, or in another way than Python."""

from __future__ import annotations

import io
import pickle
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import write_checkpoint

import reverie
from callbacks.evaluation.report import Score, markdown, print_table, score_table
from commands.checkpoints import member_index
from modules.agent.checkpoint_file import read_checkpoint
from modules.arguments.changed import no_effect


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "good.ckpt"
    write_checkpoint(path)
    return path


def refusal(path: Path) -> str:
    """The one line that is said of a file."""
    with pytest.raises(ValueError, match=re.escape(path.name)) as error:
        read_checkpoint(path, "cpu")
    said = str(error.value)
    assert said.isprintable()
    assert len(said) < 400 + len(str(path))
    return said


# ------------------------------------------------------------------------------------------------------------ pickles
def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def long(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def tensor(numbers: int, key: str = "0") -> bytes:
    """Of a storage with this many numbers, whatever the file holds."""
    storage = b"(" + text("storage") + named("torch", "FloatStorage") + text(key) + text("cpu") + long(numbers) + b"tQ"
    return (named("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + b"K\0" + long(numbers) + b"\x85K\1\x85\x89"
            + named("collections", "OrderedDict") + b")RtR")  # fmt: skip


PAIRS = b"K\1\x85q\0" + b"".join(b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) for n in range(60))
"""Tuples of two times the one before: 2^60 steps to its hash."""
HEX = named("_codecs", "encode") + text("ab") + text("hex") + b"\x86R"

# Instructions that make one value, and what is said.
VALUES: dict[str, tuple[bytes, str]] = {
    "tuples as a key": (b"}" + PAIRS + b"Ns", "many times over"),
    "a tuple as a key": (b"}K\1\x85Ns", "a tuple as a key"),
    "a set": (named("__builtin__", "set") + b"]" + PAIRS + b"a\x85R", r"it holds __builtin__\.set"),
    "an empty set": (b"\x8f", "the instruction EMPTY_SET"),
    "tuples": (PAIRS, "many times over"),
    "long texts": (b"]" + text("x" * 64_000) + b"q\1" + b"a" + b"h\1a" * 200, "many times over"),
    "memory": (named("__builtin__", "bytearray") + long(2**20) + b"\x85R", r"it holds __builtin__\.bytearray"),
    "text that grows": (HEX, r"it holds _codecs\.encode"),
    "a list in itself": (b"]q\1h\1a", "such as into itself"),
    "lists that hold each other": (b"]q\1]q\2h\1aa", "after it was put into another"),
    "depth": (b"]" * 70 + b"a" * 69, "more than 64 lists or dicts within each other"),
    "a large number": (long(2**900), "a number of 901 bits"),
    "more numbers than are stored": (tensor(4), "a storage should have 4 numbers, and has 2"),
    "a storage that is missing": (tensor(2, "1"), "instructions are damaged"),
    "a tensor of nothing": (named("torch._utils", "_rebuild_tensor_v2") + b")R", "without a storage"),
    "an object": (named("torch", "FloatStorage") + b")\x81", "the instruction NEWOBJ"),
    "complex numbers": (named("torch", "ComplexFloatStorage"), r"it holds torch\.ComplexFloatStorage"),
    "a called type": (named("torch", "FloatStorage") + long(2**40) + b"\x85R", "it calls torch FloatStorage"),
    "too few values": (b"\x87\x87", "its instructions are damaged"),
    "no end": (b"X\xff\xff\xff\x7f", "damaged"),
}


def archive(path: Path, content: bytes, *more: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in (("a/data.pkl", content), ("a/byteorder", b"little"), ("a/version", b"3\n"),
                           ("a/data/0", bytes(8)), *more):  # fmt: skip
            file.writestr(name, data)
    return path


@pytest.mark.parametrize("case", VALUES)
def test_pickles_are_followed_before_they_are_loaded(case: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("torch must not see it"))
    value, said = VALUES[case]
    line = refusal(archive(tmp_path / "x.ckpt", b"\x80\2}" + text("state_dict") + value + b"s."))
    assert re.search(said, line), line


def test_what_the_pickles_of_torch_hold_is_taken(tmp_path: Path, good: Path) -> None:
    path = archive(tmp_path / "x.ckpt", b"\x80\2}" + text("state_dict") + b"}" + text("w") + tensor(2) + b"ss.")
    assert torch.equal(read_checkpoint(path)["state_dict"]["w"], torch.zeros(2))
    content = read_checkpoint(good)
    content["hyper_parameters"] |= {"_more": [torch.device("cpu"), torch.bfloat16, torch.zeros(2, 3).size(), 2**127]}
    content["callbacks"] = {"x": {"many": [{"a": 1.5}] * 1000, "tensors": [
        torch.zeros(2, dtype=kind) for kind in (torch.bool, torch.uint8, torch.int16, torch.bfloat16, torch.float64)
    ]}}  # fmt: skip
    torch.save(content, tmp_path / "more.ckpt")
    again = read_checkpoint(tmp_path / "more.ckpt")
    assert again["hyper_parameters"]["_more"][1:] == [torch.bfloat16, torch.Size([2, 3]), 2**127]
    assert len(again["callbacks"]["x"]["tensors"]) == 5


# ----------------------------------------------------------------------------------------------------------- archives
def entries(content: bytes, compression: int) -> tuple[bytes, bytes]:
    """The entries of an archive, and its directory."""
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w", compression) as file:
        file.writestr(zipfile.ZipInfo("a/data.pkl"), content, compress_type=compression)
    raw = stored.getvalue()
    length, place = struct.unpack("<II", raw[-10:-2])
    return raw[:place], raw[place : place + length]


def two_directories(path: Path, good: Path) -> None:
    """Python finds the second one, before the end of the file, and torch the first one, where the end says it is."""
    hidden, hidden_list = entries(bytes(10**6), zipfile.ZIP_DEFLATED)
    shown, shown_list = entries(b"\x80\2}.", zipfile.ZIP_STORED)
    end = b"PK\5\6" + struct.pack("<4H2IH", 0, 0, 1, 1, len(shown_list), len(hidden), 0)
    path.write_bytes(hidden + hidden_list + shown + shown_list + end)


def old_stream(path: Path, good: Path) -> None:
    """A file as torch wrote it before it wrote archives, with an archive behind it."""
    content = io.BytesIO()
    torch.save(torch.load(good, weights_only=True), content, _use_new_zipfile_serialization=False)
    archive(path, b"\x80\2}.")
    path.write_bytes(content.getvalue() + path.read_bytes())


def moved(path: Path, good: Path) -> None:
    """The directory of large archives is said to be elsewhere."""
    content = bytearray(good.read_bytes())
    assert content[-42:-38] == b"PK\6\7"
    content[-34] ^= 1
    path.write_bytes(content)


def with_comment(path: Path, good: Path) -> None:
    with zipfile.ZipFile(archive(path, b"\x80\2}."), "a") as file:
        file.comment = b"x" * 30


ARCHIVES: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "two directories": (two_directories, "its directory is not where it should be"),
    "a stream with an archive behind it": (old_stream, "does not begin as torch's files do"),
    "a moved directory": (moved, "its directory is not where it should be|damaged"),
    "a comment": (with_comment, "its directory is not where it should be"),
    "two spellings": (lambda path, _: archive(path, b"\x80\2}.", ("a/DATA.pkl", b"N.")), "one is there twice"),
    "two folders": (lambda path, _: archive(path, b"\x80\2}.", ("b/data.pkl", b"N.")), "not in one folder"),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_archives_are_read_as_torch_reads_them(case: str, tmp_path: Path, good: Path) -> None:
    make, said = ARCHIVES[case]
    make(tmp_path / "x.ckpt", good)
    line = refusal(tmp_path / "x.ckpt")
    assert re.search(said, line), line


# ----------------------------------------------------------------------------------------------------------- contents
def changed(*keys: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = to

    return change


def sparse(content: dict[str, Any]) -> None:
    content["state_dict"] = {key: torch.eye(2).to_sparse() for key in content["state_dict"]}


CONTENTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "half of the references": (lambda c: c["dataset"].pop("reference_max"), "one reference without the other"),
    "references of no size": (changed("dataset", "reference_min", to=float("nan")), "reference_min of its dataset is"),
    "references without end": (changed("dataset", "reference_max", to=float("inf")), "reference_max of its dataset is"),
    "large references": (changed("dataset", "reference_max", to=2**1500), "a number of 1501 bits"),
    "more about the dataset": (changed("dataset", "more", to=torch.zeros(3)), "its dataset has an entry more"),
    "nobody alive": (changed("agent", "alive", to=[]), "alive are"),
    "no member": (changed("agent", "member_names", to=[]), "has the members"),
    "long names": (changed("agent", "member_names", to=["a" * 5000]), "has the members"),
    "a large counter": (changed("agent", "updates", to=2**100), "updates of its agent is"),
    "a negative counter": (changed("agent", "updates", to=-1), "updates of its agent is -1"),
    "a long class": (changed("agent", "class_path", to=f"modules.{'A' * 10**5}"), "class_path of its agent is"),
    "more seeds than members": (changed("hyper_parameters", "seeds", to=10**9), "say seeds: 1000000000, and it has 1"),
    "many layers": (changed("hyper_parameters", "hidden", to=[16] * 2000), "hidden of its hyper_parameters has 2,000"),
    "many members": (changed("hyper_parameters", "beta", to=[1.0] * 2000), "beta of its hyper_parameters has 2,000"),
    "a name that clears the screen": (changed("state_dict", "\x1b[2J\n" + "x" * 900, to=torch.zeros(1)), "is named"),
    "a tensor without a name": (lambda c: c["state_dict"].update({5: torch.zeros(1)}), "is named 5"),
    "sparse tensors": (sparse, r"it holds torch\._utils\._rebuild_sparse_tensor"),
    "an old version": (changed("pytorch-lightning_version", to="0.0.1"), "pytorch-lightning_version is 0"),
    "loops as a list": (changed("loops", to=[5]), "its loops are"),
    "a loop as a number": (changed("loops", "fit_loop", to=5), "its loops are"),
    "callbacks as a list": (changed("callbacks", to=[1]), "its callbacks are"),
    "a callback as a number": (changed("callbacks", to={"x": 5}), "its callbacks are"),
    "an epoch as text": (changed("epoch", to="x"), "its epoch is x"),
    "an epoch before the first": (changed("epoch", to=-(10**9)), "its epoch is -1000000000"),
}


def test_what_a_file_says_is_no_markup(tmp_path: Path, good: Path, capsys) -> None:
    content = torch.load(good, weights_only=True)
    content["dataset"]["reference_source"] = "[bold red]x[/nope]"
    torch.save(content, tmp_path / "x.ckpt")
    reverie.main(["evaluate", "--ckpt_path", str(tmp_path / "x.ckpt"), "--episodes", "1"])
    assert "([bold red]x[/nope])" in capsys.readouterr().out
    table = score_table([Score(0, "curve", "[/x]", "", 1, 0.0, 0.0, 0.0)], "[/title]")
    print_table(table, {})
    shown = capsys.readouterr().out
    assert "[/x]" in shown
    assert "[/title]" in shown
    assert "| [/x] |" in markdown(table)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", CONTENTS)
def test_contents_that_reverie_never_writes_are_refused(case: str, tmp_path: Path, good: Path) -> None:
    change, said = CONTENTS[case]
    content = torch.load(good, weights_only=True)
    change(content)
    torch.save(content, tmp_path / "x.ckpt")
    line = refusal(tmp_path / "x.ckpt")
    assert re.search(said, line), line


def test_what_a_file_is_compared_with_is_quoted_in_short() -> None:
    with pytest.raises(ValueError, match="choose one with --member") as error:
        member_index(["a" * 50] * 5000, None)
    assert len(str(error.value)) < 400
    said = no_effect("model.seed", "\x1b[2J\n" + "x" * 900, 0, "it is fixed")
    assert said.isprintable()
    assert len(said) < 400
