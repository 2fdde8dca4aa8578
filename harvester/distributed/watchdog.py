"""Long work in a thread under a watchdog: lines of progress, and an error where nothing moves for too long."""

import faulthandler
import gc
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Final, Protocol

from harvester.distributed.capacity import ResourceRequest, without_room
from harvester.distributed.cluster import require_head
from harvester.errors import StepError
from harvester.run.partials import Part
from harvester.run.quarantine import begun
from harvester.storage.location import Location

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS: Final = 1.0
SHARE_OF_LOOKS: Final = 0.02
"""Of the time, that goes into looking: where a look takes long, as in an object store, there are fewer."""
MOST_BETWEEN_LOOKS: Final = 30.0
SECONDS_BETWEEN_LINES: Final = 60.0
STDERR: Final = 2


class Progress(Protocol):
    """How far some work is.

    minutes     without progress until the work is given up
    """

    minutes: float

    def reached(self) -> Any:
        """Whatever differs once something has moved. Called now and then, and when the work is done."""

    def waiting(self) -> str:
        """What is waited for, for the error that gives up."""


def said_begun(folder: Location, parts: Iterable[Part]) -> str:
    """Which of the parts' volumes are begun, for an error that gives up."""
    names = sorted(begun(folder, (row["volume_id"] for part in parts for row in part.rows)))
    if names:
        return f"volumes begun: {', '.join(names[:8])}"
    return f"no volume was begun; does the cluster have room, and do all nodes see {folder.parent}?"


class BackgroundWork(threading.Thread):
    """Work in a thread, to be started and then watched. A daemon, so that what hangs keeps no program from its end.

    result    what the work gave, once it has ended well
    failed    whether any did in this process, so that what it held is to be let go
    """

    failed: ClassVar = False

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self.work = work
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """The work, in the thread; what it gives or raises is kept for who watches."""
        if BackgroundWork.failed:  # what did holds room in the cluster still: Ray keeps it in a cycle with its error
            BackgroundWork.failed = False
            gc.collect()
        try:
            self.result = self.work()
        except BaseException as error:  # noqa: BLE001 - raised where somebody waits for it
            self.error, BackgroundWork.failed = error, True

    def watch(self, progress: Progress, asked: ResourceRequest) -> None:
        """Wait for the end; the work's own error is raised here, and a StepError where nothing moves for so long.

        While nothing has moved at all and the cluster has no room for what is asked, a line per minute says so. A
        cluster whose head is gone is a StepError within a minute, before Ray ends this process without a word.
        """
        began = time.monotonic()
        first = before = progress.reached()
        moved = said = now = time.monotonic()
        while self.is_alive():
            pause = min(max(SECONDS_BETWEEN_LOOKS, (now - began) / SHARE_OF_LOOKS), MOST_BETWEEN_LOOKS)
            self.join(min(pause, 60 * progress.minutes / 4))
            began = time.monotonic()
            require_head()
            reached, now = progress.reached(), time.monotonic()
            if reached != before:
                before, moved = reached, now
            if now - moved > 60 * progress.minutes and self.is_alive():
                raise StepError(progress.waiting())
            if before == first and now - said > SECONDS_BETWEEN_LINES and (taken := without_room(asked)):
                said = now
                logger.info(
                    "waiting for room, up to %g minutes (compute.no_progress_minutes): %s", progress.minutes, taken
                )
        if self.error:
            error, self.error = self.error, None  # which knows this frame: else a cycle of our own
            try:
                raise error
            finally:
                del error


@contextmanager
def time_limit(minutes: float) -> Iterator[None]:
    """End this process, at once, where the block takes longer, even in C code that never returns nor lets go of Python.

    Where it was is then in the process's log. One limit per process at a time.
    """
    faulthandler.dump_traceback_later(60 * minutes, exit=True, file=STDERR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
