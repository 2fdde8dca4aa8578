"""One writer at a time in a folder: a living one is told, a dead one is in nobody's way."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from harvester.errors import StoreError
from harvester.storage import owner
from harvester.storage.location import Location
from harvester.storage.owner import Writer, owned

HOLDER = """
import sys, time
from harvester.storage.location import Location
from harvester.storage.owner import owned

with owned(Location.of(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Location:
    return Location.of(tmp_path / "run")


def records(folder: Location) -> list[str]:
    return [name for name in folder.files() if name.startswith(owner.PREFIX)]


def put(folder: Location, **other: Any) -> Location:
    """A record of this process, but for what is given."""
    own = Writer("there", owner._machine(), os.getpid(), owner._began(os.getpid()), 1.75e9)
    file = folder / f"{owner.PREFIX}other.json"
    file.write_text(json.dumps(asdict(own) | other))
    return file


@pytest.fixture
def holder(folder: Location) -> Iterator["subprocess.Popen[str]"]:
    """A process that holds the folder."""
    held = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert held.stdout is not None and held.stdout.readline() == "held\n"
    yield held
    held.kill()
    held.communicate()


def test_a_second_writer_is_told_who_is_there_and_leaves_no_trace(
    folder: Location, holder: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "SECONDS_TO_END", 0.0)
    before = records(folder)
    said = rf"run: is written by process {holder.pid} on \S+ since 20.*; wait for its end, stop it, or give another"
    with pytest.raises(StoreError, match=said), owned(folder):
        pytest.fail("two at once")
    assert records(folder) == before and len(before) == 1


def test_a_killed_writer_is_in_nobodys_way_even_before_its_parent_has_seen_it(
    folder: Location, holder: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "SECONDS_TO_END", 600.0)
    os.kill(holder.pid, signal.SIGKILL)  # nobody waits for it: its number stays
    with owned(folder):
        assert len(records(folder)) == 1
    assert records(folder) == []


def test_one_that_is_ending_is_waited_for(folder: Location, holder: "subprocess.Popen[str]") -> None:
    threading.Timer(0.3, holder.kill).start()
    with owned(folder):
        assert len(records(folder)) == 1


def test_a_number_that_another_process_has_now_is_no_sign_of_life(folder: Location) -> None:
    put(folder, began="1")
    with owned(folder):
        assert len(records(folder)) == 1


UNREADABLE = [b"", b"[]", b"{", b"3", b'{"pid": 1}', b"\xff\xfe\x00", b"[" * 100_000]


@pytest.mark.parametrize("text", UNREADABLE, ids=range(len(UNREADABLE)))
def test_what_is_no_record_holds_nobody_up_unless_it_changes(
    folder: Location, text: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "PAUSE_S", 0.02)
    put(folder)
    file = Path(folder.base) / f"{owner.PREFIX}other.json"
    file.write_bytes(text)
    timer = threading.Timer(0.3, file.write_bytes, [text])
    timer.start()
    with pytest.raises(StoreError, match="no record that this release can read; wait for its writer's"), owned(folder):
        pytest.fail("two at once")
    timer.join()
    os.utime(file, (1.75e9, 1.75e9))
    with owned(folder):
        assert len(records(folder)) == 1
    file.write_bytes(text)
    monkeypatch.setattr(owner, "SECONDS_TO_LIVE", 0.2)
    with owned(folder):
        assert len(records(folder)) == 1


@pytest.mark.parametrize("other", [{"since": "now"}, {"since": float("nan")}, {"pid": "1"}, {"pid": None}])
def test_a_record_of_wrong_types_cannot_be_read(folder: Location, other: dict[str, Any]) -> None:
    assert owner._read(put(folder, **other)) is None
    assert owner.writers(folder) == []


def test_a_record_of_a_later_release_is_read(folder: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "SECONDS_TO_END", 0.0)
    put(folder, release="9.0")
    with pytest.raises(StoreError, match=rf"is written by process {os.getpid()} on there"), owned(folder):
        pytest.fail("two at once")


def test_another_machines_writer_lives_as_long_as_it_beats(folder: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "SECONDS_TO_LIVE", 60.0)
    monkeypatch.setattr(owner, "PAUSE_S", 0.02)
    put(folder, machine="another")
    threading.Timer(0.2, put, [folder], {"machine": "another", "beat": 1}).start()
    with pytest.raises(StoreError, match="on there since"), owned(folder):
        pytest.fail("two at once")
    monkeypatch.setattr(owner, "SECONDS_TO_LIVE", 0.2)
    with owned(folder):
        assert len(records(folder)) == 1


def test_its_heart_beats_until_the_end_and_not_where_another_took_over(
    folder: Location, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(owner, "SECONDS_BETWEEN_BEATS", 0.02)
    with owned(folder):
        (name,) = records(folder)
        deadline = time.monotonic() + 30
        while json.loads((folder / name).read_bytes())["beat"] < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        (folder / name).delete()
        while "took this one for dead" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert records(folder) == []


def test_of_many_that_start_at_once_no_two_work_at_the_same_time(
    folder: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "SECONDS_TO_END", 0.2)
    monkeypatch.setattr(owner, "PAUSE_S", 0.01)
    inside, together, ready = [], [], threading.Barrier(4)

    def start() -> None:
        ready.wait()
        for _ in range(3):
            try:
                with owned(folder):
                    inside.append(1)
                    together.append(len(inside))
                    time.sleep(0.02)
                    inside.pop()
            except StoreError:
                pass

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(together) == {1}
    assert records(folder) == []


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = r"run: cannot be written \((Not a directory|File exists)\); see to that, or give another folder"
    with pytest.raises(StoreError, match=said), owned(Location.of(tmp_path / "file" / "run")):
        pytest.fail("nothing to write")
