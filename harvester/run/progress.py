"""Lines of progress for long work through volumes."""

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from harvester.run.partials import Part
from harvester.run.quarantine import mark_name

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES: Final = 15.0


class ProgressLines:
    """Now and then, and at the end, a line such as "prepare: 40 of 90 volumes, 1.2 a second, 42 s left"."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total = name, total
        self.began = self.last = time.monotonic()
        self.done = 0

    def reached(self, done: int) -> None:
        """So many volumes are done."""
        now = time.monotonic()
        ended = done == self.total != self.done
        self.done = done
        if ended or now - self.last >= SECONDS_BETWEEN_LINES:
            self.last, rate = now, done / max(now - self.began, 1e-9)
            left = f"{(self.total - done) / rate:.0f} s left" if rate else "none done yet"
            logger.info("%s: %d of %d volumes, %.1f a second, %s", self.name, done, self.total, rate, left)


class PartLines:
    """Lines of progress through parts, told by the marks of the volumes that are begun (quarantine.py).

    A part's volumes go in their order: those before the first one that is begun have ended.
    """

    def __init__(self, name: str, parts: Sequence[Part]) -> None:
        self.sizes = {part.name: len(part.rows) for part in parts}
        self.places = {
            mark_name(row["volume_id"]): (part.name, place) for part in parts for place, row in enumerate(part.rows)
        }
        self.lines = ProgressLines(name, len(self.places))
        self.dead: Mapping[str, int | None] | None = None

    def reached(self, left: Collection[str], files: Mapping[str, int | None]) -> None:
        """Parts that have not ended, and when files were written, among them the marks; those there at first are of
        workers that died before."""
        self.dead = files if self.dead is None else self.dead
        marks = [name for name in files if name in self.places and files[name] != self.dead.get(name, -1)]
        ended: dict[str, int] = {}
        for part, place in sorted(self.places[name] for name in marks):
            ended.setdefault(part, place)
        done = self.lines.total - sum(self.sizes[part] - ended.get(part, 0) for part in left)
        self.lines.reached(max(done, self.lines.done))  # for a moment between two volumes none is begun
