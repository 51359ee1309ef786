"""Strategies that change a good file: its bytes, or the tree of mappings, lists, arrays and values that it holds."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

TEXTS = ("", "os.system", "a_stranger.Layer", "\x1b[2J", "é" * 40, "nan", "1e999", "../../etc/passwd", "x" * 3000)
NUMBERS = (0, -1, 1, 2, 2**31, 2**63, -(2**63), 10**400, 0.0, -0.5, 1e-320, 1e308, float("inf"), float("nan"))

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 70_000) | st.sampled_from(NUMBERS) | st.sampled_from(TEXTS)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
"""Values that files of text can hold."""

classes = st.builds(
    lambda path, arguments: {"class_path": path, "init_args": arguments},
    st.sampled_from(("os.system", "subprocess.Popen", "a_stranger.Layer", "torch.nn.Linear", "builtins.eval", "")),
    st.just({"command": "touch canary"}) | st.dictionaries(st.text(max_size=4), plain, max_size=2),
)
"""Names of classes and functions, as arguments of an agent name them."""


@st.composite
def changed_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """The content with one to four places that are overwritten, lost, doubled, inserted or cut off."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(len(changed) - 1, 0)))
        end = min(start + draw(st.integers(1, 64)), len(changed))
        how = draw(st.sampled_from(("overwrite", "lose", "double", "insert", "cut")))
        if how == "overwrite":
            changed[start:end] = draw(st.binary(min_size=end - start, max_size=end - start))
        elif how == "lose":
            del changed[start:end]
        elif how == "double":
            changed[end:end] = changed[start:end]
        elif how == "insert":
            changed[start:start] = draw(st.binary(min_size=1, max_size=32))
        else:
            del changed[start:]
    return bytes(changed)


def _inside(tree: Any) -> list[Any]:
    """Keys of a mapping or places of a list; none of anything else."""
    if isinstance(tree, dict):
        return list(tree)
    return list(range(len(tree))) if isinstance(tree, list) else []


@st.composite
def changed_tree(draw: st.DrawFn, tree: dict[str, Any], values: st.SearchStrategy[Any]) -> dict[str, Any]:
    """A copy of a tree with one to three entries that are lost, renamed, doubled, put into a list, or another value."""
    changed = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        if not changed:
            break
        # A way down, which ends early or at a leaf.
        place: Any = changed
        key = draw(st.sampled_from(_inside(place)))
        while _inside(place[key]) and draw(st.integers(0, 3)):
            place = place[key]
            key = draw(st.sampled_from(_inside(place)))
        # What happens there.
        how = draw(st.sampled_from(("lose", "rename", "double", "wrap", "resize", "value", "value", "value")))
        if how == "lose":
            del place[key]
        elif how in ("rename", "double") and isinstance(place, dict):
            place[draw(st.sampled_from(_inside(place)) | st.text(max_size=5))] = place[key]
            if how == "rename":
                place.pop(key)
        elif how == "wrap":
            place[key] = [place[key]]
        elif how == "resize" and isinstance(place[key], np.ndarray | torch.Tensor):
            place[key] = draw(resized(place[key]))
        else:
            place[key] = draw(values)
    return changed


@st.composite
def resized(draw: st.DrawFn, values: Any) -> Any:
    """An array or tensor with fewer or more rows, another shape, another type, or without a finite value."""
    how = draw(st.sampled_from(("empty", "shorter", "longer", "deeper", "flat", "float64", "int8", "bool", "nan")))
    if how == "empty":
        return values[:0] if values.ndim else values
    if how == "shorter":
        return values[:-1] if values.ndim else values
    if how == "longer":
        stack = np.concatenate if isinstance(values, np.ndarray) else torch.cat
        return stack([values, values]) if values.ndim else values
    if how in ("deeper", "flat"):
        return values[None] if how == "deeper" else values.reshape(-1)
    if isinstance(values, np.ndarray) and values.dtype.kind not in "biufc":  # texts and times are of no other type
        return values
    if how == "nan":
        return values * float("nan")
    return values.astype(how) if isinstance(values, np.ndarray) else values.to(getattr(torch, how))


tensors = st.sampled_from(
    [
        torch.zeros(0),
        torch.zeros(3),
        torch.zeros(2, 2, dtype=torch.int64),
        torch.tensor(float("nan")),
        torch.ones(1) > 0,
    ]
)
arrays = st.sampled_from([
    np.zeros(0), np.zeros((12, 3), np.float32), np.full(12, np.nan), np.arange(12), np.array("text"), np.float32(1),
    np.zeros((12, 0)), np.zeros(12, complex), np.array(["a"] * 12), np.zeros(12, "datetime64[s]"),
])  # fmt: skip
