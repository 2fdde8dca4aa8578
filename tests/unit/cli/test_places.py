"""Paths of a submitted Ray job lead to a folder that lasts; everywhere else they lead where they always did."""

from pathlib import Path

import pytest

from harvester.cli import places
from harvester.cli.places import existing, home, lasting, lasting_path, run_folder, store_folder
from harvester.errors import SettingsError
from harvester.storage.location import Location
from tests.builders import made_store


@pytest.fixture(autouse=True)
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The head's home."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv(places.HOME, raising=False)
    monkeypatch.delenv(places.RAY_JOB, raising=False)
    return tmp_path / "home" / "harvester"


def unpacked(tmp_path: Path, digest: str) -> Path:
    """Ray's copy of a working directory."""
    copy = tmp_path / "ray" / "session_1" / "runtime_resources" / "working_dir_files" / f"_ray_pkg_{digest}"
    copy.mkdir(parents=True)
    return copy


@pytest.mark.parametrize("sign", ["Ray's variable", "Ray's copy"])
def test_in_a_job_relative_paths_last(sign: str, head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it is submitted again from changed sources, which makes another copy."""
    for digest in ("0123", "4567"):
        copy = unpacked(tmp_path, digest) if sign == "Ray's copy" else tmp_path
        monkeypatch.chdir(copy)
        if sign == "Ray's variable":
            monkeypatch.setenv(places.RAY_JOB, "{}")
        for given in ("runs/night", "./runs/night", "runs/../runs/night", Path("runs/night"), copy / "runs" / "night"):
            assert lasting(given) == Location.of(head / "runs" / "night")
        (tmp_path / f"session_latest-{digest}").symlink_to(copy)
        assert lasting(tmp_path / f"session_latest-{digest}" / "runs" / "night") == Location.of(head / "runs" / "night")
        assert lasting("../../other") == Location.of(head / "other")
        assert lasting(".") == home() == Location.of(head)
        assert lasting_path(Path("boxes")) == head / "boxes"
        for given in ("s3://bucket/runs/night", "/shared/runs/night", "file:///shared/x"):
            assert lasting(given) == Location.of(given)


def test_another_home_may_be_named_also_in_a_bucket(
    head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(places.RAY_JOB, "{}")
    monkeypatch.setenv(places.HOME, str(tmp_path / "shared"))
    assert lasting("runs/night") == Location.of(tmp_path / "shared" / "runs" / "night")
    monkeypatch.setenv(places.HOME, "s3://bucket/harvester?region=x")
    assert lasting("runs/night").uri == "s3://bucket/harvester/runs/night?region=x"
    with pytest.raises(SettingsError, match=r"boxes: s3://bucket/harvester/boxes is no folder of a disk; give an abs"):
        lasting_path(Path("boxes"))


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(SettingsError, match="set HARVESTER_HOME to a folder or URI that lasts"):
        home()


@pytest.mark.parametrize("named", ["rel/dir", ".", " ", "$NOBODYS/x", "~nobodys/x", "copy"])
def test_a_home_that_ray_throws_away_is_refused(named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = unpacked(tmp_path, "0123")
    monkeypatch.chdir(copy)
    named = str(copy / "x") if named == "copy" else named
    monkeypatch.setenv(places.HOME, named)
    with pytest.raises(SettingsError) as caught:
        lasting("runs/night")
    thrown = "a job's own folder is thrown away"
    assert str(caught.value) == f"HARVESTER_HOME = {named}: want an absolute folder or a URI: {thrown}"
    monkeypatch.delenv(places.HOME)
    for own in ("rel", str(copy)):
        monkeypatch.setenv("HOME", own)
        with pytest.raises(SettingsError, match=rf"not set, and ~/harvester is {own}/harvester: want .* {thrown}"):
            lasting("runs/night")


def test_variables_in_a_home_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(places.HOME, "$HOME/x")
    assert home() == Location.of(tmp_path / "home" / "x")
    monkeypatch.setenv(places.HOME, "~/x")
    assert home() == Location.of(tmp_path / "home" / "x")


def test_a_run_that_lies_here_needs_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(places.HOME, "rel")
    Path("settings.yaml").write_text("")
    assert run_folder(".") == Location.of(tmp_path)
    with pytest.raises(SettingsError, match="HARVESTER_HOME = rel"):
        run_folder("another")


def test_outside_of_a_job_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert lasting("runs/night") == run_folder("runs/night") == Location.of(tmp_path / "runs" / "night")
    assert lasting_path(Path("boxes")) == tmp_path / "boxes"
    assert store_folder(None) is None


def test_what_a_job_left_is_found_again_inside_and_outside_of_one(
    head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = unpacked(tmp_path, "0123")
    (head / "runs" / "night").mkdir(parents=True)
    (head / "runs" / "night" / "settings.yaml").write_text("")
    for place in (tmp_path, copy):
        monkeypatch.chdir(place)
        assert run_folder("runs/night") == Location.of(head / "runs" / "night")


def test_a_store_that_came_with_the_working_directory_is_read_there(
    head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = unpacked(tmp_path, "0123")
    monkeypatch.chdir(copy)
    assert store_folder("store") == Location.of(head / "store")
    made_store(copy / "store", {"a": "vm"})
    assert store_folder("store") == Location.of(copy / "store")
    made_store(head / "store", {"a": "vm"})
    assert existing("store", "manifest.parquet") == Location.of(head / "store")
