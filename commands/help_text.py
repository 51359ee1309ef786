"""The help of a class: its arguments with their words, and of the classes that may stand there only those meant."""

from __future__ import annotations

import re

from commands.jsonargparse_private import WordsOfHelp

OFFERED = ("modules", "datamodules", "callbacks", "pytorch_lightning", "gymnasium")
"""Packages whose classes are listed: any class of the right kind is accepted, and torch alone has hundreds."""


class ReadableHelp(WordsOfHelp):
    """Lists of known subclasses without those of libraries that nobody looks for there."""

    def shown(self, text: str) -> str:
        """The text without them."""
        return re.sub(r",? known subclasses: ([\w.]+(?:, [\w.]+)*)", _ours, text)


def _ours(found: re.Match[str]) -> str:
    """The part of the list that is offered; nothing where that is nothing."""
    paths = found[1].split(", ")
    offered = OFFERED[:3] if "torch.nn.Module" in paths else OFFERED  # no trainer's module is a layer
    kept = [path for path in paths if path.split(".")[0] in offered]
    return f", known subclasses: {', '.join(kept)}" if kept else ""
