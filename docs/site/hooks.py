"""Hooks of the site's generator: pages beside those in `docs/`, their links and their formulas.

`mkdocs.yml` names this file. The guide's pages are those below `docs/`; this adds the pages of the repository's root, a
page for every module, the reference of configs, notebooks with what comes of them, and files that pages link to.
"""

from __future__ import annotations

import html
import logging
import posixpath
import re
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from config_reference import beginnings_first, config_pages
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from notebooks import FOLDER, outcome, page
from pymdownx.slugs import slugify
from site_pages import BESIDE, PACKAGES, ROOT, api_place, for_the_site, linked_files, place_of

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
UNKNOWN = re.compile(r"<m\w+>(\\\w+)</m\w+>")
"""A command of LaTeX that is none of MathML's, which stands in the formula as it was written."""

log = logging.getLogger("mkdocs.hooks.site")  # whose warnings end a strict build

ADDED: dict[str, str] = {}
"""Pages that are made or come from outside `docs/`: place on the site, and path from the root where there is one."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name parts of pages as other readers of Markdown do, and put the reference of modules into the navigation."""
    config.mdx_configs["toc"] |= {"slugify": slugify(case="lower")}
    assert config.nav is not None
    config.nav[-1:-1] = [{"Configs": sorted(config_pages(), key=beginnings_first)}, {"Modules": api_navigation()}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add all that is not below `docs/`."""
    # Pages of the root, and modules.
    for name, place in BESIDE.items():
        add(files, config, place, (ROOT / name).read_text(), name)
    for name in modules():
        add(files, config, api_place(name), api_page(name))
    for place, content in config_pages().items():
        add(files, config, place, content)
    for path in sorted(FOLDER.glob("*.ipynb")):
        markdown, pictures = page(outcome(path), path.stem)
        add(files, config, f"notebooks/{path.stem}.md", markdown, path.relative_to(ROOT).as_posix())
        for name, picture in pictures.items():
            add(files, config, f"notebooks/{name}", picture)

    # Whatever these and the pages of the guide link to.
    pages = [*BESIDE, *(f"docs/{file.src_uri}" for file in files.documentation_pages() if file.src_uri not in ADDED)]
    linked = dict.fromkeys(
        file for name in pages for file in linked_files((ROOT / name).read_text(), name) if place_of(file) is not None
    )
    for name in linked:
        place = place_of(name)
        assert place is not None
        if files.get_file_from_path(place) is None:
            content = (ROOT / name).read_bytes()
            add(files, config, place, content if place.endswith(".png") else source_page(name, content.decode()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page with links that lead to places on the site."""
    place = page.file.src_uri
    name = ADDED.get(place, f"docs/{place}")
    return for_the_site(markdown, name, place) if name else markdown


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """The page with formulas as MathML, which browsers show without a script."""

    def shown(formula: re.Match[str]) -> str:
        made = convert(html.unescape(formula[2]), display="block" if formula[1] == "div" else "inline")
        for command in UNKNOWN.findall(made):
            log.warning("%s: %s is no command that formulas know: write it otherwise", page.file.src_uri, command)
        return made

    return FORMULA.sub(shown, content)


def add(files: Files, config: MkDocsConfig, place: str, content: str | bytes, name: str = "") -> None:
    """Put one more file on the site; `name` is its path from the root where its links are of there."""
    files.append(File.generated(config, place, content=content))
    ADDED[place] = name


def modules() -> Iterable[str]:
    """All modules of ours by their paths from the root; of packages only those that say something."""
    yield "reverie.py"
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.name != "__init__.py" or path.read_text().strip():
                yield path.relative_to(ROOT).as_posix()


def api_page(name: str) -> str:
    """The page of a module, which is filled from its docstrings."""
    dotted = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    source = (ROOT / name).read_text().rstrip()
    return (
        f"# `{dotted}`\n\n::: {dotted}\n\n## Source {{ data-search-exclude }}\n\n"
        f'??? note "{name}"\n\n{textwrap.indent(fenced(source, "python"), "    ")}\n'
    )


def fenced(text: str, language: str) -> str:
    """A text as a block of code that may hold such blocks."""
    return f"``````{language}\n{text}\n``````"


def api_navigation() -> list[Any]:
    """Modules in folders, as they lie."""
    tree: dict[str, Any] = {}
    for name in modules():
        *folders, file = name.split("/")
        branch = tree
        for folder in folders:
            branch = branch.setdefault(f"{folder}/", {})
        branch[file] = api_place(name)
    return entries(tree)


def entries(tree: dict[str, Any]) -> list[Any]:
    """A tree of folders as the navigation has it, folders first."""
    order = sorted(tree, key=lambda name: (not name.endswith("/"), name))
    return [{name.rstrip("/"): entries(tree[name]) if isinstance(tree[name], dict) else tree[name]} for name in order]


def source_page(name: str, text: str) -> str:
    """A file of the repository as it stands."""
    language = {".py": "python", ".yaml": "yaml", ".json": "json", ".toml": "toml"}.get(Path(name).suffix, "text")
    head = "---\nsearch:\n  exclude: true\n---\n\n"
    return f"{head}# {posixpath.basename(name)}\n\n`{name}`\n\n{fenced(text, language)}\n"
