"""The site of `make docs`: every page is in its navigation, links lead to pages, and it builds without a warning."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]

sys.path.append(str(ROOT / "docs/site"))
import site_pages  # noqa: E402 - beside the documentation, of the site's generator

SETTINGS = yaml.safe_load((ROOT / "mkdocs.yml").read_text())


def entries(branch: Any) -> Iterator[str]:
    """Pages of a navigation, however deep."""
    for part in branch.values() if isinstance(branch, dict) else branch:
        yield from [part] if isinstance(part, str) else entries(part)


def test_the_navigation_has_every_page_once() -> None:
    own = [path.name for path in (ROOT / "docs").glob("*.md")]
    own += [f"notebooks/{path.stem}.md" for path in (ROOT / "docs/notebooks").glob("*.ipynb")]
    assert sorted(entries(SETTINGS["nav"])) == sorted([*own, *site_pages.BESIDE.values()])


@pytest.mark.parametrize(
    ("name", "link", "expected"),
    [
        ("README.md", "docs/data.md#files", "data.md#files"),
        ("README.md", "docs/figures/mlflow.png", "figures/mlflow.png"),
        ("docs/data.md", "../CHANGELOG.md", "changelog.md"),
        ("docs/data.md", "../benchmarks/RESULTS.md#lookahead", "results.md#lookahead"),
        ("docs/data.md", "../modules/batch.py", "api/modules/batch.md"),
        ("docs/library.md", "notebooks/mixture.ipynb", "notebooks/mixture.md"),
        ("docs/notebooks/mixture.ipynb", "../moe.md#routing", "../moe.md#routing"),
        ("docs/notebooks/mixture.ipynb", "../../modules/batch.py", "../api/modules/batch.md"),
        ("docs/data.md", "../configs/atac/pendulum.yaml", "source/configs/atac/pendulum.yaml.md"),
        ("benchmarks/RESULTS.md", "results/r2d2-tmaze.png", "pictures/r2d2-tmaze.png"),
        ("docs/data.md", "metrics.md", "metrics.md"),
        ("docs/data.md", "#files", "#files"),
        ("docs/data.md", "https://example.org/a", "https://example.org/a"),
        ("docs/data.md", "../modules/gone.py", "../modules/gone.py"),
    ],
)
def test_links_lead_to_places_on_the_site(name: str, link: str, expected: str) -> None:
    place = site_pages.place_of(name)
    assert place is not None
    assert site_pages.for_the_site(f"See [it]({link}).", name, place) == f"See [it]({expected})."
    fenced = f"```\n[it]({link})\n```"
    assert site_pages.for_the_site(fenced, name, place) == fenced


def test_marks_are_left_out_and_lists_stand_apart() -> None:
    text = "<!-- made -->\n\nIt is <!-- n a.json x -->4<!-- /n -->:\n- one,\n  of these\n- two\n\n```\na\n- b\n```\n"
    expected = "\n\nIt is 4:\n\n- one,\n  of these\n- two\n\n```\na\n- b\n```\n"
    assert site_pages.for_the_site(text, "docs/a.md", "a.md").lstrip() == expected.lstrip()


def places_of(text: str) -> set[str]:
    """Ends of links to the headings of a page, as GitHub and the site make them."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_links_to_parts_of_pages_lead_to_their_headings() -> None:
    read = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/RESULTS.md")]
    gone = []
    for page in [*read, *sorted((ROOT / "docs").glob("*.md"))]:
        for place, part in re.findall(r"\]\(([\w./-]*\.md)?#([^)]+)\)", page.read_text()):
            to = page.parent / place if place else page
            if not to.exists() or part not in places_of(to.read_text()):
                gone.append(f"{page.name}: {place}#{part}")
    assert gone == []


@pytest.mark.long
@pytest.mark.parametrize(("link", "status"), [("b.md#part", 0), ("gone.md", 1), ("b.md#gone", 1), ("/b.md", 1)])
def test_a_link_that_leads_nowhere_fails_the_build(link: str, status: int, tmp_path: Path) -> None:
    kept = {key: SETTINGS[key] for key in ("site_name", "strict", "validation")}
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump({**kept, "plugins": []}))
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text(f"[it]({link})")
    (tmp_path / "docs/b.md").write_text("# B\n\n## Part\n")
    assert build(tmp_path, tmp_path / "site").returncode == status


def build(folder: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=3000)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_site_builds_is_whole_and_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTEBOOK_SHARE", "0.1")  # as test_notebooks has it, so that each runs once
    done = build(ROOT, tmp_path)
    assert done.returncode == 0, done.stderr

    # Nothing is fetched when a page is read: no script, style, font or picture of another host.
    sources = r'<(?:script|img|iframe|source)[^>]*\ssrc="?(?:https?:)?//'
    styles = r'<link[^>]*rel="?(?:stylesheet|preload|preconnect)[^>]*href="?https?:'
    fetched = re.compile(f"{sources}|{styles}")
    found = {path: path.read_text() for path in sorted(tmp_path.rglob("*.html"))}
    assert len(found) > 400
    assert [path.name for path, text in found.items() if fetched.search(text)] == []

    # Formulas are shown, and configs and modules have their pages.
    assert "<math" in found[tmp_path / "atac.html"]
    assert not [path.name for path, text in found.items() if 'class="arithmatex"' in text]
    agents = found[tmp_path / "config/agents.html"]
    assert [cls for cls in ("ATAC", "DreamerV2", "R2D2", "MuZero") if f'id="{cls.lower()}"' not in agents] == []
    assert "critic.target_rate" in agents
    assert "lambda_returns" in found[tmp_path / "api/modules/functional/returns.html"]
    assert 'src="mixture_files/' in found[tmp_path / "notebooks/mixture.html"]

    # The search finds them.
    index = json.loads((tmp_path / "search/search_index.json").read_text())
    places = {one["location"].split("#")[0] for one in index["docs"]}
    assert {"atac.html", "config/agents.html", "api/modules/functional/returns.html"} <= places
