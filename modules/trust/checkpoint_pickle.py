"""The objects that a checkpoint's pickle would make, worked out from its instructions without making any.

torch's own reader calls nothing harmful, but it takes calls that ask for any amount of memory, keys whose hash takes
for ever, lists within lists of any depth, and values that hold each other many times over. Of the instructions that
reverie's checkpoints are made of, each is followed here with the size and depth of what it makes.
"""

from __future__ import annotations

import pickletools
from collections.abc import Mapping
from typing import Any

from modules.trust.names import MOST_VALUES, short

DEEPEST = 64
"""Lists and dicts within each other; reverie's own checkpoints have a dozen."""
OPERATIONS = 10_000_000
"""Instructions of a pickle; a small agent's has ten thousand, most of them for its history and its optimisers."""
BITS = 128
"""Most bits of a whole number; states of generators have as many."""

STORAGES = {"BoolStorage": 1, "ByteStorage": 1, "CharStorage": 1, "ShortStorage": 2, "IntStorage": 4, "LongStorage": 8,
            "HalfStorage": 2, "BFloat16Storage": 2, "FloatStorage": 4, "DoubleStorage": 8}  # fmt: skip
"""Bytes of a number in the kinds of storage of a strided tensor of real numbers."""
TENSOR, ORDERED = "torch._utils _rebuild_tensor_v2", "collections OrderedDict"
CALLED = (TENSOR, ORDERED, "torch device", "torch Size")
NAMED = {f"torch {name}" for name in ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16",
                                      "float32", "float64", *STORAGES)}.union(CALLED)  # fmt: skip
"""All that a checkpoint may name: numbers' types, and what tensors and ordered dicts are made of."""


class NotPlain(ValueError):
    """The pickle names something that no checkpoint of tensors and plain values does; its text is that name."""


class _Item:
    """An entry of the stack: how much it holds when it is walked through, itself included, and how deep."""

    __slots__ = ("closed", "depth", "kind", "parts", "size", "value")

    def __init__(self, kind: str, value: Any = None, size: int = 1) -> None:
        self.kind = kind
        self.value = value
        self.size = size
        self.depth = 0
        self.parts: list[_Item] = []
        self.closed = False  # lies in another one, whose size is known by now


def check_pickle(content: bytes, entries: Mapping[str, int]) -> None:
    """Refuse a pickle that reverie's checkpoints never are, before anything is made of it.

    Args:
        content: content of `data.pkl`.
        entries: bytes of every storage in the file by its key.

    Raises:
        NotPlain: it names something else than tensors are made of.
        ValueError: it has other instructions, too many, or damaged ones; or makes what is too large, too deep or holds
            itself, or has keys that are no text and no number.
    """
    _Scan(len(content) + MOST_VALUES, entries).run(content)


class _Scan:
    def __init__(self, largest: int, entries: Mapping[str, int]) -> None:
        self.largest = largest
        self.entries = entries
        self.stack: list[_Item] = []
        self.memo: dict[Any, _Item] = {}

    def run(self, content: bytes) -> None:
        """Follow all instructions."""
        try:
            for count, (operation, argument, _) in enumerate(pickletools.genops(content)):
                if count > OPERATIONS:
                    raise ValueError(f"it has more than {OPERATIONS:,} instructions")
                self._follow(operation.name, argument)
        except (IndexError, KeyError, UnicodeDecodeError) as error:
            raise ValueError("its instructions are damaged") from error

    def _follow(self, name: str, argument: Any) -> None:
        """One instruction."""
        if name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name in ("APPEND", "APPENDS"):
            self._fill("list", self._pop(1) if name == "APPEND" else self._to_mark())
        elif name in ("SETITEM", "SETITEMS"):
            self._items(self._pop(2) if name == "SETITEM" else self._to_mark())
        elif name == "BUILD":
            self._fill("dict", self._pop(1))
        elif name not in ("PROTO", "STOP"):
            self._make(name, argument)

    def _make(self, name: str, argument: Any) -> None:
        """An instruction that puts something new onto the stack."""
        if name in ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "NONE", "NEWTRUE", "NEWFALSE"):
            if isinstance(argument, int) and argument.bit_length() > BITS:
                raise ValueError(f"it holds a number of {argument.bit_length()} bits")
            self.stack.append(_Item("number", argument))
        elif name == "BINUNICODE":
            self.stack.append(_Item("text", argument, 1 + len(argument) // 64))
        elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "MARK"):
            self.stack.append(_Item(name.removeprefix("EMPTY_").lower()))
        elif name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            self._tuple(self._to_mark() if name == "TUPLE" else self._pop(int(name[-1])))
        elif name == "GLOBAL":
            if argument not in NAMED:
                raise NotPlain(short(argument.replace(" ", ".", 1)))
            self.stack.append(_Item(argument))
        elif name == "BINPERSID":
            self.stack.append(self._storage(self.stack.pop()))
        elif name == "REDUCE":
            self._call(*self._pop(2))
        else:
            raise ValueError(f"it has the instruction {name}, which reverie never writes")

    def _pop(self, count: int) -> list[_Item]:
        return [self.stack.pop() for _ in range(count)][::-1]

    def _to_mark(self) -> list[_Item]:
        parts = []
        while (item := self.stack.pop()).kind != "mark":
            parts.append(item)
        return parts[::-1]

    def _tuple(self, parts: list[_Item]) -> None:
        self.stack.append(_Item("tuple"))
        self._fill("tuple", parts)
        self.stack[-1].parts = parts

    def _items(self, parts: list[_Item]) -> None:
        for key in parts[::2]:
            if key.kind not in ("number", "text"):
                raise ValueError(f"it has a {key.kind} as a key")
        self._fill("dict", parts)

    def _fill(self, kind: str, parts: list[_Item]) -> None:
        """Put parts into what lies on top of the stack, which must be of this kind."""
        whole = self.stack[-1]
        for part in parts:
            part.closed = True
            whole.size += part.size
            whole.depth = max(whole.depth, part.depth + 1)
        if whole.kind != kind:
            raise ValueError(f"it puts parts into a {whole.kind}")
        if whole.closed:
            raise ValueError("it holds something that is filled after it was put into another, such as into itself")
        if whole.depth > DEEPEST:
            raise ValueError(f"it holds more than {DEEPEST} lists or dicts within each other")
        if whole.size > self.largest:
            raise ValueError(f"it holds parts of itself many times over, more than {self.largest:,} values in all")

    def _storage(self, named: _Item) -> _Item:
        """The storage of tensors that a tuple of its kind, key, place and length names: as long as the file has it."""
        kind, storage, key, _, length = named.parts
        width = STORAGES.get(storage.kind.removeprefix("torch "))
        if kind.value != "storage" or width is None or not isinstance(length.value, int):
            raise ValueError("it names a storage of another kind")
        if self.entries[key.value] != width * length.value:
            raise ValueError(
                f"a storage should have {length.value:,} numbers, and has {self.entries[key.value] // width:,}"
            )
        return _Item("storage")

    def _call(self, function: _Item, arguments: _Item) -> None:
        """The result of a call; that of `OrderedDict` is empty at first."""
        parts = arguments.parts
        if function.kind not in CALLED or arguments.kind != "tuple" or (function.kind == ORDERED and parts):
            raise ValueError(f"it calls {short(function.kind)} with other arguments than reverie writes")
        if function.kind == TENSOR and (not parts or parts[0].kind != "storage"):
            raise ValueError("it has a tensor without a storage")
        self.stack.append(_Item("dict" if function.kind == ORDERED else "tensor", size=arguments.size))
