"""Parts of the documentation's pages that are made from measured figures."""

from __future__ import annotations

from collections.abc import Sequence

END = "<!-- end -->"
"""Line of a page behind a part that is made."""


def made_anew(page: str, lines: Sequence[str], by: str = "report") -> str:
    """The text of a page with these lines as the part that a script of this folder makes.

    Raises:
        ValueError: the page has no line where that part begins, or ends.
    """
    begin = f"<!-- made by python benchmarks/{by}.py -->"
    before, found, rest = page.partition(f"{begin}\n")
    _, ended, after = rest.partition(f"{END}\n")
    if not found or not ended:
        raise ValueError(f"a page that {by}.py makes a part of needs the lines {begin} and {END}")
    return before + "\n".join([begin, *lines, "", END]) + "\n" + after
