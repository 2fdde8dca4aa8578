"""What harvester prepare takes its data from, and what it says before a store is made."""

from pathlib import Path

import pytest

from harvester.cli.prepare import main, parser, settings_of
from harvester.datasets.deeplesion.files import is_deeplesion


@pytest.fixture(autouse=True)
def no_data_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARVESTER_DATA", raising=False)


def kind_of(*arguments: str) -> str:
    return settings_of(parser.parse_args(["--out", "STORE", *arguments])).data.kind


def test_phantoms_are_made_where_something_says_so_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path / "store"), "--dry-run"]) == 2
    assert capsys.readouterr().err == (
        "nothing says what to prepare: give --source SCANS, or --config quickstart for made phantoms; as data.kind "
        "there are phantom, insertion, made, archive and deeplesion\n"
    )
    assert kind_of("--config", "quickstart") == kind_of("--format", "phantom") == "phantom"
    assert kind_of("--set", "data.kind=phantom") == "phantom"
    assert (
        kind_of("--source", str(tmp_path)) == kind_of("--source", str(tmp_path), "--config", "quickstart") == "archive"
    )
    monkeypatch.setenv("HARVESTER_DATA", str(tmp_path))
    assert kind_of() == kind_of("--config", "deeplesion") == "archive"
    assert kind_of("--config", "quickstart") == "phantom"
    assert kind_of("--config", "real_ct") == "insertion"


def test_deeplesion_is_known_by_its_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not is_deeplesion(tmp_path)
    (tmp_path / "Images_png").mkdir()
    (tmp_path / "DL_info.csv").write_text("File_name\n")
    assert is_deeplesion(tmp_path)
    # Then its own reader looks at the table.
    assert main(["--out", str(tmp_path / "store"), "--source", str(tmp_path), "--dry-run"]) == 1
    assert main(["--out", str(tmp_path / "store"), "--source", str(tmp_path), "--format", "auto", "--dry-run"]) == 0
    # What makes its own volumes makes them, whatever lies in the folder of the scans.
    monkeypatch.setenv("HARVESTER_DATA", str(tmp_path))
    capsys.readouterr()
    assert main(["--out", str(tmp_path / "made"), "--config", "quickstart", "--dry-run"]) == 0
    assert "vm         150" in capsys.readouterr().out


def test_a_dry_run_says_what_keeps_the_archive_from_being_harvested(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path / "store"), "--source", str(tmp_path), "--dry-run"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in told[-2:]] == ["cannot be harvested with these settings"] * 2
    assert "V_M is empty" in told[-2] and "V_H is empty" in told[-1]


def test_ids_of_a_store_that_is_not_made_are_not_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [
        "--out",
        str(tmp_path / "store"),
        "--source",
        str(tmp_path),
        "--dry-run",
        "--scans",
        str(tmp_path / "s.csv"),
    ]
    assert main(asked) == 2
    assert "is not made yet, nor its ids; prepare it, then ask again" in capsys.readouterr().err
    assert not (tmp_path / "s.csv").exists()
