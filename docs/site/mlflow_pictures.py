"""Pictures of MLflow's pages of a run for `docs/mlflow.md`: a browser opens what `reverie ui` shows, page by page.

    pip install -e '.[pictures]'
    reverie fit --config atac/pendulum --evaluation.video_every 5
    python docs/site/mlflow_pictures.py runs/atac-pendulum/TIME [--curves REGEX] [--browser /usr/bin/chromium]

Playwright drives a Chromium that is installed already; nothing is fetched. A page without what it is to show is an
error.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Locator, Page, sync_playwright

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "docs/figures"
SIZE = {"width": 1240, "height": 900}
CURVES = "^(evaluation/return|[^/]+/(value|bellman_error))$"
SEEN = {"mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true", "mlflow.assistant.panelOpen_v1": "false"}
"""What MLflow's pages remember about a panel that they open for whoever comes for the first time."""
SECONDS = 40
"""That a page may take, at most."""


def main(folder: Path, curves: str, browser: str, port: int) -> None:
    """Take all pictures of the run in a folder."""
    film = newest_film(folder)
    about = json.loads((folder / "mlflow_run.json").read_text())
    with served(folder, port) as address, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport=SIZE, color_scheme="light")
        page.set_default_timeout(1000 * SECONDS)
        page.add_init_script("; ".join(f"localStorage.setItem('{key}', '{value}')" for key, value in SEEN.items()))
        run = f"{address}/#/experiments/{about['experiment_id']}/runs/{about['run_id']}"

        def opened(tab: str) -> None:
            page.goto(f"{run}/{tab}?workflowType=machine_learning")
            page.reload()  # an address that differs behind the # alone is no other page to a browser
            page.get_by_role("heading", level=2).first.wait_for()

        # Curves, of those that a search finds.
        opened("model-metrics")
        page.get_by_placeholder("Search metric charts").fill(curves)
        taken(page, "mlflow", page.locator(".js-plotly-plot .scatterlayer").first)
        # Description and parameters.
        opened("overview")
        page.get_by_placeholder("Search metrics").fill("last/return")
        page.get_by_placeholder("Search parameters").fill("model.")
        taken(page, "mlflow_overview", page.get_by_text("model.class_path").first)
        # Files: the table of returns, a figure, and a film of the policy.
        opened("artifacts/evaluation.json")
        taken(page, "mlflow_table", page.get_by_role("cell", name="best checkpoint"))
        opened("artifacts/learning_curve.png")
        taken(page, "mlflow_figure", page.locator("img[src^='blob:']:visible").first)
        opened(f"artifacts/videos/{film.name}")
        taken(page, "mlflow_film", page.locator("video"))
        chromium.close()


@contextmanager
def served(folder: Path, port: int) -> Iterator[str]:
    """MLflow's server, as long as the block lasts: its address."""
    command = [sys.executable, "-m", "reverie", "ui", "--folder", str(folder), "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            found = next((line for line in server.stdout if line.startswith("http")), None)
            if found is None:
                raise SystemExit(f"no server for {folder}: its own words are above")
            yield found.split("/#")[0].strip()
        finally:
            server.terminate()


def newest_film(folder: Path) -> Path:
    """The last film of a run, in the order of names, which have the updates.

    Raises:
        SystemExit: there is none.
    """
    films = sorted(folder.glob("videos/*.mp4"))
    if not films:
        raise SystemExit(f"{folder} has no films: train with --evaluation.video_every 5")
    return films[-1]


def taken(page: Page, name: str, shown: Locator) -> None:
    """Take a picture when what it is to show is there."""
    shown.wait_for()
    page.wait_for_timeout(4000)  # figures are drawn, and move to their places; the pages ask for news without end
    path = FIGURES / f"{name}.png"
    page.screenshot(path=path)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the run")
    parser.add_argument("--curves", default=CURVES, help="which curves are shown, a regular expression")
    parser.add_argument("--browser", default="/usr/bin/chromium", help="a Chromium that is installed")
    parser.add_argument("--port", type=int, default=5050)
    arguments = parser.parse_args()
    main(arguments.folder.resolve(), arguments.curves, arguments.browser, arguments.port)
