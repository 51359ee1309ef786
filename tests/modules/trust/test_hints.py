"""The kinds that hints ask for, and which plain values are that."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import pytest
from torch import nn

import modules.algorithms
import modules.networks
from modules.trust.class_path import resolve
from modules.trust.hints import fits, given_by_call, hints_of, kinds_of, made_by, part_of, unread_hints


class Makes(Protocol):
    def __call__(self, width: int) -> nn.Linear:
        """A layer."""


@pytest.mark.parametrize(
    ("hint", "kind"),
    [
        (Callable[[int, int], nn.Module], nn.Module),
        (Callable[[int], list[int]], list),
        (Callable[[], nn.Linear] | None, nn.Linear),
        (Makes, nn.Linear),
        (Callable[..., Any], None),
        (Callable[[int], None], None),
        (Callable, None),
        (nn.Module, None),
        (int | None, None),
        (Any, None),
    ],
)
def test_what_a_callable_makes(hint: Any, kind: type | None) -> None:
    assert made_by(hint) is kind


@pytest.mark.parametrize(
    ("hint", "right", "wrong"),
    [
        (int, [3, -1], [True, 1.0, "3", None]),
        (float, [3, 0.5], [True, "0.5"]),
        (bool, [True], [1, "true"]),
        (str, [""], [1, ["a"]]),
        (None, [None], [0]),
        (float | None, [None, 1.5], ["x"]),
        (Literal["a", 1], ["a", 1], ["b", True, 1.0]),
        (list[int], [[], [1], (1, 2)], [[1.5], 1, "12"]),
        (Sequence[str], [["a"]], ["a"]),
        (tuple[float, float], [(1.0, 2), [0, 1]], [(1.0,), (1, 2, 3), ("a", "b")]),
        (tuple[int, ...], [(1, 2, 3)], [(1, "2")]),
        (dict[str, int], [{"a": 1}], [{"a": "b"}, [1]]),
        (Mapping[str, list[float]], [{"a": [1]}], [{"a": 1}]),
        (float | list[float], [1.0, [1.0, 2.0]], [["a"], "a"]),
        (Path, ["x"], [1]),
        (Callable[[int], nn.Module], [], ["os.system", len, None]),
        (Callable[[int], nn.Module] | None, [None], ["os.system", "{class_path: os.system}", {"a": 1}]),
        (Any, [1, "x", [None]], []),
        (Makes, [], ["x"]),
        (nn.Module, [nn.Linear(1, 1)], ["x", {"class_path": "torch.nn.Linear"}]),
    ],
)
def test_which_values_fit(hint: Any, right: list[Any], wrong: list[Any]) -> None:
    for value in right:
        assert fits(value, hint), value
    for value in wrong:
        assert not fits(value, hint), value


def test_parts() -> None:
    assert part_of(list[int], 4) is int
    assert part_of(tuple[int, str], 1) is str
    assert part_of(dict[str, float] | None, "a") is float
    assert part_of(float | list[str], 0) is str
    assert part_of(int, 0) is Any
    assert part_of(Any, "a") is Any


def test_hints_of_all_our_classes_can_be_looked_up() -> None:
    """Where they could not, nothing would be known of what an argument takes."""
    for package in (modules.algorithms, modules.networks):
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            for cls in vars(importlib.import_module(found.name)).values():
                if inspect.isclass(cls) and issubclass(cls, nn.Module) and cls.__module__ == found.name:
                    taken = set(inspect.signature(cls).parameters)
                    if "__init__" in vars(cls) and taken:
                        assert hints_of(cls).keys() >= taken, cls


class HalfRead:
    def __init__(self, size: int, part: NoSuchName = None) -> None: ...  # type: ignore[name-defined]  # noqa: F821 - on purpose


def test_a_hint_that_cannot_be_read_takes_no_other_with_it() -> None:
    assert hints_of(HalfRead) == {"size": int, "return": type(None)}
    assert unread_hints(HalfRead) == ["part"]
    assert unread_hints(nn.Linear) == []


def test_files_may_not_name_a_class_whose_hints_cannot_be_read() -> None:
    with pytest.raises(ValueError, match=r"^x\.ckpt names HalfRead, and what its part may be cannot be looked up"):
        resolve(HalfRead, {"size": 1}, "x.ckpt")
    assert resolve(HalfRead, {"size": 1}, "this process", own=True) == {"size": 1}


def test_kinds_that_a_hint_asks_for() -> None:
    assert kinds_of(nn.Module | Callable[..., nn.Linear] | list[nn.ReLU] | str | None) == [nn.Module, nn.Linear]
    assert kinds_of(dict[str, Any]) == kinds_of(Any) == kinds_of(Iterable[nn.Module]) == kinds_of(object) == []
    assert part_of(str | Iterable[nn.Linear], 0) is nn.Linear


@pytest.mark.parametrize(
    ("hint", "count"),
    [(Callable[[int, int], nn.Module] | None, 2), (Callable[[], nn.Module], 0), (Makes, 1), (nn.Module, 0), (int, 0)],
)
def test_the_arguments_that_whoever_makes_a_thing_gives(hint: Any, count: int) -> None:
    assert given_by_call(hint) == count


class Late:
    def __init__(self, part: Later) -> None:  # type: ignore[name-defined]  # noqa: F821
        """Take what its module may know later."""


def test_hints_are_looked_up_again_where_one_was_missing_or_is_written_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hints_of(Late) == {"return": type(None)}
    monkeypatch.setattr(sys.modules[__name__], "Later", int, raising=False)
    found = hints_of(Late)
    assert found == {"part": int, "return": type(None)}
    found.clear()  # the caller's own
    assert hints_of(Late)["part"] is int
    monkeypatch.setitem(Late.__init__.__annotations__, "part", "str")
    assert hints_of(Late)["part"] is str
