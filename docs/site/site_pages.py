"""Where files of the repository are on the site, and their Markdown as the site's generator reads it."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("modules", "datamodules", "callbacks", "commands")
BESIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/RESULTS.md": "results.md",
}
"""Pages that are not below `docs/`, and their places on the site."""

FENCED = re.compile(r"^( *)(```+|~~~+).*?^ *\2 *$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(\]\()([^)\s]+)(\))")
MARK = re.compile(r"<!--.*?-->\n?", re.DOTALL)
ITEM = re.compile(r" *([-*+]|\d+\.) ")


def place_of(name: str) -> str | None:
    """The site's page or file of a file of the repository, by its path from the root; None where there is none.

    A module has its page in the reference, a notebook one with what comes of it; a picture is copied, any other
    file is shown as it stands.
    """
    file = ROOT / name
    if not file.is_file():
        return None
    if name in BESIDE:
        return BESIDE[name]
    if name.startswith("docs/") and file.suffix in {".md", ".png"}:
        return name.removeprefix("docs/")
    if name.startswith("docs/notebooks/"):
        return name.removeprefix("docs/").replace(".ipynb", ".md")
    if file.suffix == ".png":
        return f"pictures/{file.name}"
    if file.suffix == ".py" and (name.split("/")[0] in PACKAGES or name == "reverie.py"):
        return api_place(name)
    return f"source/{name}.md"


def api_place(name: str) -> str:
    """The page of the reference about a module, by its path from the root; of a package, about its `__init__.py`."""
    return f"api/{name.removesuffix('.py').replace('__init__', 'index')}.md"


def linked_files(markdown: str, name: str) -> list[str]:
    """The files of the repository that a page links to, by their paths from the root; `name` is the page's own."""
    found: list[str] = []

    def note(target: str) -> str:
        found.append(resolved(target, name))
        return target

    _with_links(markdown, note)
    return [file for file in dict.fromkeys(found) if (ROOT / file).is_file()]


def resolved(target: str, name: str) -> str:
    """The path from the root of a link's target, without the part of the page, in the file `name`."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), target.split("#")[0]))


def for_the_site(markdown: str, name: str, place: str) -> str:
    """A page of the repository as the generator reads it.

    Links lead to places on the site, marks of numbers are left out, and lists stand apart from the text above them, as
    other readers of Markdown do not ask for.

    Args:
        markdown: the page.
        name: its path from the root of the repository.
        place: its place on the site.
    """

    def moved(target: str) -> str:
        found = place_of(resolved(target, name))
        if found is None:
            return target  # which the generator then says leads nowhere
        _, hash_, part = target.partition("#")
        return posixpath.relpath(found, posixpath.dirname(place) or ".") + hash_ + part

    text = outside_fences(markdown, lambda text: MARK.sub(_without_mark, text))
    return outside_fences(_with_links(text, moved), lists_apart)


def outside_fences(markdown: str, change: Callable[[str], str]) -> str:
    """A page of which all but the blocks of code is changed."""
    pieces, end = [], 0
    for fence in FENCED.finditer(markdown):
        pieces += [change(markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*pieces, change(markdown[end:])])


def lists_apart(text: str) -> str:
    """Text with an empty line between a paragraph and the list below it."""
    lines: list[str] = []
    for line in text.split("\n"):
        above = lines[-1] if lines else ""
        in_list = any(ITEM.match(one) for one in _paragraph(lines))
        if ITEM.match(line) and above.strip() and not in_list:
            lines.append("")
        lines.append(line)
    return "\n".join(lines)


def _paragraph(lines: list[str]) -> list[str]:
    """The last lines, back to an empty one."""
    start = next((n for n in range(len(lines), 0, -1) if not lines[n - 1].strip()), 0)
    return lines[start:]


def _without_mark(mark: re.Match[str]) -> str:
    return "\n" if mark[0].endswith("\n") and mark.start() and mark.string[mark.start() - 1] != "\n" else ""


def _with_links(markdown: str, change: Callable[[str], str]) -> str:
    """A page of which the targets of all links are changed but those to other sites, and to parts of the page."""

    def one(link: re.Match[str]) -> str:
        kept = link[2].startswith(("#", "http:", "https:", "mailto:"))
        return link[0] if kept else f"{link[1]}{change(link[2])}{link[3]}"

    return outside_fences(markdown, lambda text: LINK.sub(one, text))
