"""What a driver does before and after its harvest: it holds its folder, and says where that is. Ray is not started."""

from pathlib import Path

import pytest

from harvester.cli.harvest import main
from harvester.storage import owner
from harvester.storage.location import Location
from harvester.storage.owner import owned


def test_a_second_driver_is_refused_in_one_line_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(owner, "SECONDS_TO_END", 0.0)
    with owned(Location.of(tmp_path / "run")):
        before = sorted(tmp_path.rglob("*"))
        assert main(["--run", str(tmp_path / "run")]) == 1
        assert sorted(tmp_path.rglob("*")) == before
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{tmp_path}/run: is written by process ")
    assert line.endswith("; wait for its end, stop it, or give another folder")
