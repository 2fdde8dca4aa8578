"""Long work in a thread under a watchdog: lines of progress, and an error where nothing moves for too long."""

import faulthandler
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

from harvester.errors import StepError
from harvester.run.quarantine import begun
from harvester.storage.location import Location

SECONDS_BETWEEN_LOOKS: Final = 15.0
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


def said_begun(folder: Location, volume_ids: Iterable[str]) -> str:
    """Which of the volumes are begun, for an error that gives up."""
    names = sorted(begun(folder, volume_ids))
    return f"volumes begun: {', '.join(names[:8])}" if names else "no volume was begun; does the cluster have room?"


class _Work(threading.Thread):
    """A daemon, so that work which hangs keeps no program from its end."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self.work = work
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.work()
        except BaseException as error:  # noqa: BLE001 - raised where somebody waits for it
            self.error = error


def watch(work: Callable[[], Any], progress: Progress) -> None:
    """Do the work; its own errors are raised here, and a StepError where nothing moves for progress.minutes."""
    before, moved = progress.reached(), time.monotonic()
    thread = _Work(work)
    thread.start()
    while thread.is_alive():
        thread.join(min(SECONDS_BETWEEN_LOOKS, 60 * progress.minutes / 4))
        now, reached = time.monotonic(), progress.reached()
        if reached != before:
            before, moved = reached, now
        if now - moved > 60 * progress.minutes and thread.is_alive():
            raise StepError(progress.waiting())
    if thread.error:
        raise thread.error


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
