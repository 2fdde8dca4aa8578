"""Lines of progress for long work through volumes."""

import logging
import time
from typing import Final

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
