"""How far long work is: a line now and then for files, every look for a terminal (cli/terminal.py).

Log records carry it beside their text: `progress` a Reached, `step` a StepSaid.
"""

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from harvester.run.partials import Part
from harvester.text import time_left

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES: Final = 15.0


@dataclass(frozen=True)
class Reached:
    """How far some work is.

    name        of the work
    unit        what is counted, in the plural
    rate        so many a second; None before one is done
    more        what else there is to say
    """

    name: str
    done: int
    total: int
    unit: str
    rate: float | None
    more: str = ""

    @property
    def told(self) -> str:
        """40 of 90 volumes, 1.2 a second, 42 s left."""
        left = time_left((self.total - self.done) / self.rate) if self.rate else "none done yet"
        return f"{self.done:,} of {self.total:,} {self.unit}, {self.rate or 0:.1f} a second, {left}"

    def __str__(self) -> str:
        more = f" ({self.more})" if self.more else ""
        return f"{self.name}: {self.told}{more}"


@dataclass(frozen=True)
class StepSaid:
    """A step of a run: it begins, or it took so many seconds."""

    round: int
    step: str
    seconds: float | None = None


STEP_WORDS: Final = {
    "labels": "labels to learn from",
    "generator": "training the generator",
    "tubelets": "proposing lesions",
    "examples": "examples for the classifier",
    "classifier": "training the classifier",
    "scored": "classifying proposals",
    "candidates": "proposals in V_M",
    "lesions": "lesions of V_M",
    "known": "proposals on known lesions",
    "rivals": "proposals beside them",
    "operating-point": "choosing the operating point",
}


def step_words(step: str) -> str:
    """A step in words."""
    return STEP_WORDS.get(step, step)


class ProgressLines:
    """Tells how far work is: at level INFO now and then and at the end, at level DEBUG every time.

    A line is such as "prepare: 40 of 90 volumes, 1.2 a second, 42 s left".
    """

    def __init__(self, name: str, total: int, unit: str = "volumes") -> None:
        self.name, self.total, self.unit = name, total, unit
        self.began = self.last = time.monotonic()
        self.done = self.first = 0

    def reached(self, done: int, more: str = "") -> None:
        """So many are done."""
        now = time.monotonic()
        ended = done == self.total != self.done
        self.done = done
        due = ended or now - self.last >= SECONDS_BETWEEN_LINES
        rate = (done - self.first) / max(now - self.began, 1e-9)
        if due:
            self.last = now
        said = Reached(self.name, done, self.total, self.unit, rate or None, more)
        logger.log(logging.INFO if due else logging.DEBUG, "%s", said, extra={"progress": said})

    def resumed(self, done: int) -> None:
        """So many were done before: they have no part in the rate."""
        self.first = self.done = done


class PartLines:
    """Lines of progress through the volumes of parts."""

    def __init__(self, name: str, parts: Sequence[Part]) -> None:
        self.sizes = {part.name: len(part.rows) for part in parts}
        self.lines = ProgressLines(name, sum(self.sizes.values()))

    def reached(self, left: Collection[str], begun: Mapping[str, int]) -> None:
        """Parts that have not ended; of those that are begun, how many volumes have not (quarantine.py)."""
        done = self.lines.total - sum(begun.get(part, self.sizes[part]) for part in left)
        self.lines.reached(max(done, self.lines.done))  # between its last volume and its end a part has no mark
