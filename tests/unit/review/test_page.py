"""The review page in a real browser (Debian's chromium): sixty finds by keys, killed and restarted in the middle."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harvester.certificate.audit import Verdict
from harvester.certificate.audit_folder import AuditFolder
from harvester.storage.location import Location
from tests.builders import made_store, mark

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="no chromium: apt-get install chromium"),
    pytest.mark.timeout(300),
]
FINDS = 62
SPACING = (2.0, 0.8, 0.8)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    with playwright.sync_playwright() as started:
        shown = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield shown
        shown.close()


@pytest.fixture
def archive(tmp_path: Path) -> list[str]:
    """Two volumes of 512 x 512 with a disk in each, and detections on them; as arguments of harvester review."""
    rng, rows = np.random.default_rng(0), np.hypot(*np.mgrid[-256:256, -256:256])
    hu = np.where(rows < 220, 40, -1000) + rng.normal(0, 10, (24, 512, 512))
    marks = [mark("a", (240, 240, 260, 260), z=10)]
    made_store(tmp_path / "store", {"a": "vh", "b": "vh"}, marks, hu=hu, spacing_zyx_mm=SPACING)
    found = [
        {"volume_id": "ab"[at % 2], "z": [9, 10, 11], "slice_score": [0.5 + at / 1000] * 3}
        | {side: [float(150 + 3 * at + 20 * (side in ("x2", "y2")))] * 3 for side in ("x1", "y1", "x2", "y2")}
        for at in range(FINDS)
    ]
    pq.write_table(pa.Table.from_pylist(found), tmp_path / "found.parquet")
    files = {"--store": "store", "--tubelets": "found.parquet", "--out": "audit"}
    return [part for option, name in files.items() for part in (option, str(tmp_path / name))]


class Served:
    """A harvester review of its own, which is ended as a terminal or a crash would."""

    def __init__(self, arguments: list[str]) -> None:
        command = [sys.executable, "-m", "harvester", "review", *arguments, "--no-browser"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ})
        assert self.process.stdout
        for line in self.process.stdout:
            if address := re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", line):
                self.address = address[0]
                return
        pytest.fail("no address was printed")

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        self.process.communicate(timeout=60)
        return self.process.returncode


@pytest.fixture
def served(archive: list[str]) -> Iterator[list[Served]]:
    every = [Served(archive)]
    yield every
    for each in every:
        each.process.kill()
        each.process.communicate()


def opened(browser: Any, served: Served) -> tuple[Any, list[str]]:
    """The page, and what it complained of."""
    page, told = browser.new_page(viewport={"width": 1280, "height": 800}), []
    page.on("console", lambda message: told.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: told.append(str(error)))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(served.address)
    until(page, lambda: page.text_content("#slice").startswith("slice"))
    assert all(url.startswith(served.address.partition("/?")[0]) for url in asked), "no address but its own"
    return page, told


def until(page: Any, holds: Callable[[], bool]) -> None:
    """Wait for the page; its content security policy lets nobody evaluate strings in it, Playwright's own waits too."""
    for _ in range(3000):
        if holds():
            return
        page.wait_for_timeout(5)
    pytest.fail(page.inner_text("body"))


def press(page: Any, key: str, read: int) -> None:
    page.keyboard.press(key)
    until(page, lambda: page.text_content("#where").startswith(f"{read} of"))


def test_sixty_finds_by_keys_a_kill_in_the_middle_and_a_box_that_is_dragged(
    browser: Any, served: list[Served], archive: list[str], tmp_path: Path
) -> None:
    page, told = opened(browser, served[0])
    folder = AuditFolder.open(Location.of(tmp_path / "audit" / "audit-0"))
    for at in range(30):
        press(page, ["ArrowRight", "ArrowLeft", "?"][at % 3], at + 1)
    assert len(folder.said("reader")) == 30
    press(page, "z", 29)
    press(page, "ArrowRight", 30)
    assert told == []
    served[0].end(signal.SIGKILL)
    page.keyboard.press("ArrowRight")
    until(page, lambda: page.text_content("#error").startswith("not kept"))
    page.close()
    served.append(Served(archive))
    page, more = opened(browser, served[1])
    assert page.text_content("#where") == f"30 of {FINDS} read"
    dragged(page)
    for at in range(31, 60):
        press(page, "ArrowRight", at + 1)
    assert "right, so at least" in page.text_content("#words")
    shown = page.evaluate("window.reviewTiming.shown")
    print(f"ms from key to next picture: median {np.median(shown):.0f}, worst {max(shown):.0f}")
    verdicts = folder.verdicts("reader")
    assert [verdicts[find] for find in folder.plan.deck.screens(0)[:4]] == [
        Verdict.ACCEPTED, Verdict.REJECTED, Verdict.UNSURE, Verdict.ACCEPTED,
    ]  # fmt: skip
    assert len(verdicts) == 60
    assert more == []
    assert served[1].end(signal.SIGINT) == 130
    page.close()


def dragged(page: Any) -> None:
    """Move the box by 40 and 24 screen pixels; what is kept is that many voxels away, to a tenth of one."""
    page.keyboard.press("b")
    shown = page.evaluate("({box: [...view.edit.box], z: view.edit.z, ...view.place, ratio: devicePixelRatio})")
    canvas = page.locator("#axial").bounding_box()
    x = canvas["x"] + (shown["left"] + (shown["box"][0] + shown["box"][2] + 1) / 2 * shown["sx"]) / shown["ratio"]
    y = canvas["y"] + (shown["top"] + (shown["box"][1] + shown["box"][3] + 1) / 2 * shown["sy"]) / shown["ratio"]
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 20, y + 12, steps=3)
    page.mouse.move(x + 40, y + 24, steps=3)
    page.mouse.up()
    moved = page.evaluate("view.edit.box")
    by_x, by_y = 40 * shown["ratio"] / shown["sx"], 24 * shown["ratio"] / shown["sy"]
    assert moved == pytest.approx(
        [shown["box"][0] + by_x, shown["box"][1] + by_y, shown["box"][2] + by_x, shown["box"][3] + by_y], abs=0.1
    )
    press(page, "Enter", 31)


def test_the_page_is_small_and_its_pictures_can_be_windowed_scrolled_and_played(
    browser: Any, served: list[Served]
) -> None:
    page, told = opened(browser, served[0])
    files = [file.stat().st_size for file in (Path(__file__).parents[3] / "harvester/review/page").iterdir()]
    assert sum(files) < 150_000
    first = page.text_content("#slice")
    page.keyboard.press("3")
    assert "window -450 to 1050 HU" in page.text_content("#slice")
    page.keyboard.press("ArrowUp")
    assert page.text_content("#slice") != first
    pixels = "document.getElementById('axial').getContext('2d').getImageData(100, 100, 400, 400).data"
    assert page.evaluate(f"[...{pixels}].some((value) => value > 60 && value < 250)")
    page.mouse.move(400, 400)
    page.mouse.wheel(0, 100)
    page.keyboard.press(" ")
    until(page, lambda: page.evaluate("view.playing") != 0)
    page.keyboard.press("h")
    page.keyboard.press(" ")
    page.click("text=cannot tell")
    until(page, lambda: page.text_content("#where") == f"1 of {FINDS} read")
    assert told == []
    page.close()
