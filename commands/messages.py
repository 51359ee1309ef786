"""How long a message may be; light, for the command line needs it before anything else is imported."""

from __future__ import annotations

LIMIT = 400
"""Characters of a message to the user."""


def shorten(text: str, limit: int = LIMIT) -> str:
    """The text on one line, without its middle where it is longer than the limit: what is wrong leads, the fix ends."""
    line = " ".join(text.split())
    if len(line) <= limit:
        return line
    end = (limit - 5) // 3
    return f"{line[: limit - 5 - end]} ... {line[-end:]}"
