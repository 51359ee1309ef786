"""ONNX files of strangers: they hold all that they need, so that reading one opens no other file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any


def check_onnx(path: Path) -> None:
    """Refuse a file that is damaged, or whose numbers are in another file.

    ONNX Runtime runs no code of a file: its operations are ONNX Runtime's own.

    Raises:
        ValueError: it says which of the two.
    """
    import onnx

    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except Exception as error:  # of protobuf, whose classes of errors onnx does not name
        raise ValueError(f"{path} is missing or damaged, no ONNX file: {type(error).__name__}") from error
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in _tensors(model)):
        raise ValueError(f"{path} has numbers in another file, which is not opened: write it with all of them inside")


def _tensors(message: Any) -> Iterator[Any]:
    """All tensors of a message, however deep: those of graphs, of attributes, of functions, of graphs in attributes."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else (value,):
                yield from _tensors(part)
