"""The report while its run goes on: the archive as soon as it is there, then each round as it ends.

It is written in the place of RUN/report.html, anew with every step, and reloads itself until the run ends.
"""

from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final

from harvester.config.settings import Settings
from harvester.datasets.discovery import LoadedVolume
from harvester.records import HarvestTable, empty
from harvester.report.build import REPORT, ReportInputs, chapters
from harvester.report.gallery import Gallery, first_look, legend
from harvester.report.html import Html, page, section, table, tag
from harvester.report.sections import archive
from harvester.run.progress import StepSaid, step_words
from harvester.storage.location import Location
from harvester.store.store import Store
from harvester.text import duration

RELOAD_S: Final = 5


class LiveReport:
    """The page of a run's folder. A page that cannot be written for a while is no reason to end the run."""

    def __init__(self, folder: Location, settings: Settings) -> None:
        self.folder, self.settings = folder, settings
        self.now = "the volumes are made ready"
        self.steps: list[StepSaid] = []
        self.shown: Sequence[Html] = ()
        self.titled = True

    def __enter__(self) -> "LiveReport":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error and self.shown:
            self._write(f"Stopped: {self.now}. The same command goes on where it stopped.", reload_s=0)

    def first_volumes(self, loaded: Sequence[LoadedVolume]) -> None:
        """Some volumes, while there is no store yet."""
        self._show(marked(first_look(loaded, self.settings.report)))

    def archive(self, store: Store) -> None:
        """What the store holds."""
        figures = Gallery(store, self.settings.report, empty(HarvestTable)).marked()
        self._show(marked(figures), archive(store))

    def step(self, said: StepSaid) -> None:
        """A step begins, or has ended."""
        if said.seconds is None:
            self.now = f"round {said.round}, {step_words(said.step)}"
        else:
            self.steps.append(said)
        self._write()

    def rounds(self, inputs: ReportInputs) -> None:
        """What the rounds so far came to."""
        self.titled = False  # they have a title of their own
        self._show(*chapters(inputs))

    def _show(self, *shown: Html) -> None:
        self.shown = shown
        self._write()

    def _write(self, words: str = "", reload_s: int = RELOAD_S) -> None:
        words = words or f"Under way: {self.now}. This page follows the run."
        title = [tag("h1", f"Harvest of {self.settings.name}")] if self.titled else []
        head = tag("header", *title, tag("p", words, class_="lead"))
        parts = [head, *self.shown, steps_so_far(self.steps)]
        text = page(f"harvester: {self.settings.name}", *parts, reload_s=reload_s)
        with suppress(OSError):
            (self.folder / REPORT).write_text(text)


def marked(figures: Html) -> Html:
    """What the archive marks, while nothing is found yet."""
    words = "Some of the lesions that the archive marks, in their volumes: is everything where it belongs?"
    return section("The archive’s own marks", tag("p", words), legend("clinical mark"), figures, wide=True)


def steps_so_far(said: Sequence[StepSaid]) -> Html:
    """The steps that ended; those that took no time go unsaid."""
    rows = [
        [f"round {each.round}", step_words(each.step), duration(each.seconds)]
        for each in said
        if (each.seconds or 0) >= 1
    ]
    return section("Steps so far", table(("", "", "time"), rows)) if rows else Html()
