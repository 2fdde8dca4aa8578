"""The report while its run goes on: the archive at first, then steps, then rounds."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from harvester.config.settings import ReportSettings, Settings
from harvester.datasets.discovery import LoadedVolume
from harvester.report.live import LiveReport
from harvester.run.progress import StepSaid
from harvester.storage.location import Location
from tests.unit.report.test_build import inputs, mark, store, volume

__all__ = ["store"]  # the fixture
SETTINGS = Settings(name="tiny", report=ReportSettings(gallery=4))


@pytest.fixture
def page(tmp_path: Path) -> LiveReport:
    return LiveReport(Location.of(tmp_path), SETTINGS)


def shown(folder: Path) -> str:
    return (folder / "report.html").read_text()


def reloads(text: str) -> bool:
    return 'http-equiv="refresh"' in text


def test_the_first_volumes_are_shown_with_their_clinical_marks(page: LiveReport, tmp_path: Path) -> None:
    marked = LoadedVolume(volume("v-a"), [mark("v-a", "c1", True), mark("v-a", "t1", False)])
    hidden = LoadedVolume(volume("v-b"), [mark("v-b", "t2", False)])
    page.first_volumes([marked, hidden])
    text = shown(tmp_path)
    assert reloads(text) and "Under way: the volumes are made ready" in text
    assert text.count("<figure>") == 1 and "v-a" in text and "v-b" not in text


def test_the_archive_is_shown_then_the_steps(page: LiveReport, store, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    page.archive(store)
    text = shown(tmp_path)
    assert text.count("<figure>") == 2  # the truth is not in sight
    assert "The archive" in text and "Steps so far" not in text
    page.step(StepSaid(0, "generator"))
    assert "Under way: round 0, training the generator." in shown(tmp_path)
    page.step(StepSaid(0, "generator", 33.4))
    page.step(StepSaid(0, "labels", 0.1))
    page.step(StepSaid(0, "tubelets"))
    text = shown(tmp_path)
    assert "Under way: round 0, proposing lesions." in text
    assert re.findall(r"<td>(.*?)</td>", text.split("Steps so far")[1]) == ["training the generator", "33.4 s"]


def test_rounds_are_shown_as_the_report_shows_them(page: LiveReport, store, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    page.archive(store)
    given = inputs(store, tmp_path, 2, known=True)
    page.rounds(replace(given, summary=given.summary.model_copy(update={"stopped_because": ""})))
    page.step(StepSaid(1, "generator"))
    text = shown(tmp_path)
    assert reloads(text) and "Found lesions" in text and "Under way: round 1, training" in text
    assert text.count("<h1>") == 1 and "Stopped" not in text


def test_a_run_that_fails_says_where_and_reloads_no_more(page: LiveReport, store, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    page.archive(store)
    page.step(StepSaid(1, "scored"))
    with pytest.raises(KeyboardInterrupt), page:
        raise KeyboardInterrupt
    assert "Stopped: round 1, classifying proposals. The same command goes on" in shown(tmp_path)
    assert not reloads(shown(tmp_path))


def test_a_report_of_before_stays_where_nothing_was_begun(page: LiveReport, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("of yesterday")
    with pytest.raises(ValueError, match="a wrong setting"), page:
        raise ValueError("a wrong setting")
    assert shown(tmp_path) == "of yesterday"


def test_a_page_that_cannot_be_written_ends_nothing(store, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "file").write_text("")
    page = LiveReport(Location.of(tmp_path / "file" / "run"), SETTINGS)
    page.archive(store)
    page.step(StepSaid(0, "generator"))
    assert page.now == "round 0, training the generator"
