"""Makes the guide's pictures from finished runs, with the chromium that is installed: make pictures.

    python docs/generate/pictures.py --phantoms runs/quickstart --proven RUN-audited --review RUN

--phantoms  a finished quickstart: report.png, report-phone.png, frontier.png (harvester tune's)
--proven    a run on real CT whose list a reader proved (harvester audit certify): found-lesions.png
--review    the same before anybody read it: review-page.png
"""

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from playwright.sync_api import Page, sync_playwright

PICTURES = Path(__file__).parents[1] / "pictures"
SHOWN = 6
"""Found lesions in the first picture."""


def main() -> None:
    """All of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phantoms", type=Path)
    parser.add_argument("--proven", type=Path)
    parser.add_argument("--review", type=Path)
    options = parser.parse_args()
    PICTURES.mkdir(exist_ok=True)
    with sync_playwright() as started:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        if options.phantoms:
            report(browser, options.phantoms / "report.html")
            frontier(options.phantoms)
        if options.proven:
            found(browser, options.proven / "report.html")
        if options.review:
            review(browser, options.review)
        browser.close()


def report(browser: Any, file: Path) -> None:
    """The top of a report, on a desk and on a phone."""
    for name, width, height, scale in (("report", 1280, 1150, 1.0), ("report-phone", 390, 1100, 1.5)):
        page = browser.new_page(viewport={"width": width, "height": height}, device_scale_factor=scale)
        page.goto(file.resolve().as_uri())
        save(page, name)


def found(browser: Any, file: Path) -> None:
    """Some found lesions, evenly over the gallery."""
    page = browser.new_page(viewport={"width": 1180, "height": 900})
    page.goto(file.resolve().as_uri())
    page.evaluate(
        """(shown) => {
          const figures = [...document.querySelectorAll("#found figure")];
          const kept = new Set([...Array(shown).keys()].map(k => Math.round(k * (figures.length - 1) / (shown - 1))));
          figures.forEach((figure, at) => { if (!kept.has(at)) figure.remove(); });
        }""",
        SHOWN,
    )
    save(page.locator("#found .gallery"), "found-lesions")


def frontier(run: Path) -> None:
    """What harvester tune draws."""
    with TemporaryDirectory() as folder:
        harvester("tune", "--run", str(run), "--out", folder)
        shutil.copy(Path(folder) / "frontier.png", PICTURES / "frontier.png")


def review(browser: Any, run: Path) -> None:
    """The review page with some answers given."""
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "run"
        shutil.copytree(run, copy, ignore=shutil.ignore_patterns("audit-*", "arms", "mlartifacts"))
        harvester("audit", "--run", str(copy), "draw", "--seed", "1")
        with served(copy) as address:
            page = browser.new_page(viewport={"width": 1180, "height": 860})
            page.goto(address)
            for _ in range(6):
                page.wait_for_timeout(700)
                page.keyboard.press("ArrowRight")
            page.wait_for_timeout(1500)
            save(page, "review-page")


@contextmanager
def served(run: Path) -> Iterator[str]:
    """The address at which harvester review shows a run."""
    command = [sys.executable, "-m", "harvester", "review", "--run", str(run), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        try:
            for line in running.stdout or ():
                if address := re.search(r"http://\S+", line):
                    yield address[0]
                    return
            sys.exit("harvester review gave no address")
        finally:
            running.terminate()


def harvester(*arguments: str) -> None:
    """One of harvester's commands."""
    subprocess.run([sys.executable, "-m", "harvester", *arguments], check=True)


def save(shown: Page | Any, name: str) -> None:
    """A picture, and where it is."""
    file = PICTURES / f"{name}.png"
    shown.screenshot(path=file)
    print(file)


if __name__ == "__main__":
    main()
