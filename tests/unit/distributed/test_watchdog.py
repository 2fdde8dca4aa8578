"""Work under a watchdog: its own end, its own error, or an error where nothing moves; and a limit that C code obeys."""

import gc
import itertools
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from harvester.distributed import cluster, watchdog
from harvester.distributed.capacity import ResourceRequest
from harvester.distributed.watchdog import BackgroundWork
from harvester.errors import StepError

NO_PROGRESS_MINUTES = 0.01


class Counted:
    """Progress that a test moves."""

    def __init__(self, steps: Iterator[int], minutes: float = NO_PROGRESS_MINUTES) -> None:
        self.minutes, self.steps = minutes, steps

    def reached(self) -> int:
        return next(self.steps)

    def waiting(self) -> str:
        return "v1 is waited for"


def watch(work: Callable[[], Any], progress: Any) -> None:
    thread = BackgroundWork(work)
    thread.start()
    thread.watch(progress, ResourceRequest("compute.replicas", 2, {"CPU": 1.0}))


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


def test_what_failed_work_held_is_let_go_before_the_next_begins() -> None:
    """As Ray's executor is, with its actors: in a cycle with the error. Garbage is not collected by chance here."""

    class Executor:
        error: Exception

    held: list[weakref.ref[Executor]] = []

    def failing() -> None:
        executor = Executor()
        held.append(weakref.ref(executor))
        executor.error = StepError("failed")
        raise executor.error

    gone: list[bool] = []
    gc.disable()
    try:
        with pytest.raises(StepError, match="failed"):
            watch(failing, Counted(itertools.count()))
        watch(lambda: gone.append(held[0]() is None), Counted(itertools.count()))
    finally:
        gc.enable()
    assert gone == [True]


def test_work_that_waits_for_room_on_a_busy_cluster_says_so_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As long as nothing has begun and there is no room; not before a minute, and no more once something moves."""
    caplog.set_level("INFO")
    monkeypatch.setattr(watchdog, "SECONDS_BETWEEN_LOOKS", 0.1)
    monkeypatch.setattr(watchdog, "SECONDS_BETWEEN_LINES", 0.3)
    monkeypatch.setattr(watchdog, "without_room", lambda asked: f"{asked.setting}; free: nothing")
    done, looks = threading.Event(), []

    def moving() -> Iterator[int]:
        while True:
            looks.append(1)
            if len(looks) == 16:
                done.set()
            yield int(len(looks) > 8)

    watch(done.wait, Counted(moving(), minutes=1))
    line = "waiting for room, up to 1 minutes (compute.no_progress_minutes): compute.replicas; free: nothing"
    assert caplog.messages[0] == line and 1 <= caplog.messages.count(line) <= 5

    monkeypatch.setattr(watchdog, "without_room", lambda asked: "")
    caplog.clear()
    with pytest.raises(StepError):
        watch(threading.Event().wait, Counted(iter(lambda: 0, 1)))
    assert caplog.messages == []


def test_a_head_that_died_ends_the_work_in_a_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(cluster.ray, "is_initialized", lambda: True)
        monkeypatch.setattr(cluster.ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address=address))
        monkeypatch.setattr(cluster, "SECONDS_WITHOUT_HEAD", 0.3)
        monkeypatch.setattr(cluster, "SECONDS_BETWEEN_TRIES", 0.1)
        cluster.require_head()
        assert caplog.messages == []
    with pytest.raises(StepError, match=f"the head of the Ray cluster at {address} is gone; start it and the same"):
        watch(threading.Event().wait, Counted(itertools.count()))
    assert caplog.messages == [f"the head of the Ray cluster at {address} does not answer; it is waited for"]


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
