"""Long work in a thread, watched: lines of progress, and an error where nothing moves for too long."""

import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from harvester.errors import StepError

T = TypeVar("T")

SECONDS_BETWEEN_LINES: Final = 15.0


def watched(
    work: Callable[[], Any],
    progress: Callable[[], T],
    minutes: float,
    waited_for: Callable[[T], str],
    tell: Callable[[T, float], None] = lambda reached, seconds: None,
) -> None:
    """Do the work; its own errors are raised here.

    progress    how far it is: whatever differs once something has moved
    minutes     without any such difference until it is given up with a StepError that says what `waited_for` says
    tell        called now and then with the progress and the seconds since the start
    """
    failed: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised where somebody waits for it
            failed.append(error)

    before = progress()
    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    began = told = moved = time.monotonic()
    while thread.is_alive():
        thread.join(min(SECONDS_BETWEEN_LINES, 60 * minutes / 4))
        now, reached = time.monotonic(), progress()
        if reached != before:
            before, moved = reached, now
        if now - told >= SECONDS_BETWEEN_LINES:
            told = now
            tell(reached, now - began)
        if now - moved > 60 * minutes and thread.is_alive():
            raise StepError(waited_for(reached))
    if failed:
        raise failed[0]
