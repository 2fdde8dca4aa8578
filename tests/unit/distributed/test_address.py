"""Which Ray is joined: a living one, in words none, and never one that left only its address behind."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from harvester.distributed import address
from harvester.distributed.address import answers, resolve_auto
from harvester.errors import SettingsError


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `ray start` notes its cluster."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


def test_auto_is_the_noted_cluster_where_it_lives_and_nothing_where_only_its_note_is_left(
    noted: Path, caplog: pytest.LogCaptureFixture
) -> None:
    resolve_auto()
    assert os.environ["RAY_ADDRESS"] == "auto"  # nothing is noted: Ray may know better
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        noted.write_text(address + "\n")
        resolve_auto()
        assert os.environ["RAY_ADDRESS"] == address
        assert answers(address) and answers(f"ray://{address}") and answers("local")
    os.environ["RAY_ADDRESS"] = "auto"
    resolve_auto()
    assert "RAY_ADDRESS" not in os.environ
    assert caplog.messages == [
        f"RAY_ADDRESS = auto: the Ray that was at {address} is gone; one is started on this machine"
    ]


def test_a_cluster_that_does_not_answer_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    command = [sys.executable, "-m", "harvester", "harvest", "--config", "quickstart", "--run", str(tmp_path / "run")]
    ended = subprocess.run(
        command, env=os.environ | {"RAY_ADDRESS": address}, capture_output=True, text=True, timeout=120, check=False
    )
    assert (ended.returncode, ended.stderr) == (
        2, f"RAY_ADDRESS = {address}: no Ray answers there; start it, or unset RAY_ADDRESS\n",
    )  # fmt: skip


@pytest.mark.parametrize(("length", "short"), [(36, False), (37, True), (90, True)])
def test_sockets_have_room_in_whatever_folder_a_scheduler_gives(
    monkeypatch: pytest.MonkeyPatch, length: int, short: bool
) -> None:
    folder = "/" + "x" * (length - 1)
    monkeypatch.setenv("RAY_TMPDIR", folder)
    assert address.short_folder() == (address.SHORT if short else folder)
    assert len(address.short_folder()) + 71 <= 107
    monkeypatch.setattr(address, "SHORT", "/nowhere")
    if short:
        with pytest.raises(SettingsError, match="set RAY_TMPDIR to a folder of at most"):
            address.short_folder()
