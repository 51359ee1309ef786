"""Parts of the documentation's pages that are made from measured figures."""

from __future__ import annotations

from collections.abc import Sequence

BEGIN, END = "<!-- made by python benchmarks/report.py -->", "<!-- end -->"
"""Lines of a page between which the part stands."""


def made_anew(page: str, lines: Sequence[str]) -> str:
    """The text of a page with these lines as the part that is made."""
    before, _, rest = page.partition(f"{BEGIN}\n")
    _, _, after = rest.partition(f"{END}\n")
    return before + "\n".join([BEGIN, *lines, "", END]) + "\n" + after
