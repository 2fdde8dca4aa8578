"""The report while its run goes on: the archive as soon as it is there, then each round as it ends.

It is written in the place of RUN/report.html, anew with every step, and reloads itself until the run ends.
"""

from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final

from harvester.config.settings import Settings
from harvester.datasets.discovery import LoadedVolume
from harvester.records import HarvestTable, empty
from harvester.report.build import REPORT, ReportInputs, chapters
from harvester.report.gallery import Gallery, first_look
from harvester.report.guide import write_guide
from harvester.report.sections import Rows, archive
from harvester.report.templates import render
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
        self.shown: dict[str, Any] = {}
        self.guided = False

    def __enter__(self) -> "LiveReport":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error and self.shown:
            self._write(f"Stopped: {self.now}. The same command goes on where it stopped.", reload_s=0)

    def first_volumes(self, loaded: Sequence[LoadedVolume]) -> None:
        """Some volumes, while there is no store yet."""
        self._show({"marked": first_look(loaded, self.settings.report)})

    def archive(self, store: Store) -> None:
        """What the store holds."""
        marked = Gallery(store, self.settings.report, empty(HarvestTable)).marked()
        self._show({"marked": marked, "archive": archive(store)})

    def step(self, said: StepSaid) -> None:
        """A step begins, or has ended."""
        if said.seconds is None:
            self.now = f"round {said.round}, {step_words(said.step)}"
        else:
            self.steps.append(said)
        self._write()

    def rounds(self, inputs: ReportInputs) -> None:
        """What the rounds so far came to."""
        self._show(chapters(inputs))

    def _show(self, shown: dict[str, Any]) -> None:
        self.shown = shown
        self._write()

    def _write(self, words: str = "", reload_s: int = RELOAD_S) -> None:
        page = {
            "title": f"harvester: {self.settings.name}",
            "config": self.settings.name,
            "now": words or f"Under way: {self.now}. This page follows the run.",
            "reload_s": reload_s,
            "steps_so_far": steps_so_far(self.steps),
        }
        nothing: dict[str, Any] = {"summary": None, "marked": [], "archive": None}
        with suppress(OSError):
            if not self.guided:
                write_guide(self.folder)
                self.guided = True
            (self.folder / REPORT).write_text(render("live.html", nothing | self.shown | page))


def steps_so_far(said: Sequence[StepSaid]) -> Rows:
    """The steps that ended; those that took no time go unsaid."""
    return [
        [f"round {each.round}", step_words(each.step), duration(each.seconds)]
        for each in said
        if (each.seconds or 0) >= 1
    ]
