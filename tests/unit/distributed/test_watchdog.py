"""Work under a watchdog: its own end, its own error, or an error where nothing moves; and a limit that C code obeys."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harvester.distributed.watchdog import BackgroundWork
from harvester.errors import StepError

NO_PROGRESS_MINUTES = 0.01


class Counted:
    """Progress that a test moves."""

    def __init__(self, steps: Iterator[int]) -> None:
        self.minutes, self.steps = NO_PROGRESS_MINUTES, steps

    def reached(self) -> int:
        return next(self.steps)

    def waiting(self) -> str:
        return "v1 is waited for"


def watch(work: Callable[[], Any], progress: Any) -> None:
    thread = BackgroundWork(work)
    thread.start()
    thread.watch(progress)


def test_work_that_hangs_is_given_up_with_what_is_waited_for() -> None:
    never = threading.Event()
    with pytest.raises(StepError, match="v1 is waited for"):
        watch(never.wait, Counted(iter(lambda: 0, 1)))
    never.set()


def test_work_goes_on_as_long_as_something_moves_and_its_error_is_raised_here() -> None:
    steps = iter(range(1000))
    done = threading.Event()

    def moving() -> Iterator[int]:
        for step in steps:
            if step == 12:  # three times as long as may pass without progress
                done.set()
            yield step

    watch(done.wait, Counted(moving()))
    assert done.is_set()

    def fails() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        watch(fails, Counted(iter(lambda: 0, 1)))


def test_a_time_limit_ends_the_process_even_in_c_code_that_holds_pythons_lock() -> None:
    code = """
import re
from harvester.distributed.watchdog import time_limit
with time_limit(1.0):
    pass
with time_limit(0.01):
    re.match("(a+)+b", "a" * 60)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr and "line 7 in <module>" in ended.stderr
