"""A disk that fills up: one line that says which and what to do, and no half file under a final name."""

import errno
import logging
import pickle
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from harvester.errors import NoRoomError, StoreError, root_cause
from harvester.run.log import logged_to
from harvester.run.partials import Partials
from harvester.storage.location import Location
from tests.commands import exit_code_of

TABLE = pa.table({"a": list(range(200_000))})


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_shard_that_finds_no_room_is_not_there_and_is_when_room_is_made(
    small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(b"0" * (200 << 10))
    partials = Partials(Location.of(small_disk / "round-0" / "tubelets-1.partials"))

    def work() -> None:
        partials.publish("s", TABLE, {"volumes": []})

    assert exit_code_of(work) == 1
    assert capsys.readouterr().err == (
        f"{partials.folder}: cannot be written (No space left on device); make room there, then start "
        "again with the same command: what is finished is kept\n"
    )
    assert [file for file in small_disk.rglob("*") if file.is_file()] == [filler]
    filler.unlink()
    small = TABLE.slice(0, 10)
    partials.publish("s", small, {"volumes": []})
    assert next(partials.tables(["s"], TABLE.schema)).equals(small)


def test_a_log_without_room_ends_nothing_and_tells_nothing(
    small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with logged_to(Location.of(small_disk)):
        (small_disk / "filler").write_bytes(b"0" * (240 << 10))
        for _ in range(20):
            logging.getLogger("harvester").warning("x" * 4000)
    assert "Traceback" not in capsys.readouterr().err


def test_an_injected_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Location.of(tmp_path / "round-0" / "scored.parquet")
    file.write_bytes(b"before")

    def full(*given: Any, **named: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("pyarrow.parquet.write_table", full)
        with pytest.raises(NoRoomError, match="make room there, then start again"):
            file.write_table(TABLE)
    assert file.read_bytes() == b"before"
    assert [each.name for each in (tmp_path / "round-0").iterdir()] == ["scored.parquet"]
    with pytest.raises(PermissionError), file.publish():
        raise PermissionError(errno.EACCES, "not a matter of room")


def test_it_travels_between_processes_and_is_found_root_cause_what_wraps_it() -> None:
    error = pickle.loads(pickle.dumps(NoRoomError("/data: cannot be written")))  # noqa: S301  our own bytes
    assert isinstance(error, StoreError)
    assert isinstance(error, OSError)
    assert str(error) == "/data: cannot be written"
    wrapped = RuntimeError("a task failed")
    wrapped.__cause__ = ValueError()
    wrapped.__cause__.__cause__ = error
    assert root_cause(wrapped) is error
    assert root_cause(ValueError()) is None
