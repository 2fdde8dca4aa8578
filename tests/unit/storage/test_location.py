"""Paths and URIs as places of a store; files that appear whole or not at all."""

import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from harvester.errors import SettingsError, StoreError
from harvester.storage.location import Location
from harvester.store.container import open_shard
from harvester.store.store import Store


def test_paths_and_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = Location.of("a b")
    assert here == Location.of(tmp_path / "a b") == Location.of(f"file://{tmp_path}/a%20b") == Location.of(here)
    assert (str(here), here.name, str(here.parent), here.on_disk) == (f"{tmp_path}/a b", "a b", str(tmp_path), True)
    far = Location.of("s3://bucket/stores/one/?region=eu-central-1")
    assert (str(far / "x"), far.name, far.on_disk) == ("s3://bucket/stores/one/x", "one", False)
    assert (far / "x").options == "region=eu-central-1"
    assert pickle.loads(pickle.dumps(far)) == far  # noqa: S301  our own bytes
    assert str(Location.of("gs://bucket").parent / "x") != str(Location.of("gs://bucket") / "x")


def test_what_is_opened_for_reading_alone_stays_so_in_all_that_lies_in_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("kept")
    folder = replace(Location.of(tmp_path), read_only=True)
    file = pickle.loads(pickle.dumps(folder / "a"))  # noqa: S301  our own bytes
    assert (file.read_text(), folder.files(), file.parent) == ("kept", ["a"], folder)
    table = pa.table({"a": [1]})
    for touch in (
        lambda: file.write_text("x"),
        lambda: (folder / "new" / "b").write_table(table),
        file.delete,
        folder.delete_folder,
    ):
        with pytest.raises(StoreError, match=r"not touched, for it was opened for reading alone"):
            touch()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    "uri",
    [
        "ftp://host/x", "http://host/x", "s3://", "s3:///key", "s3://[x/y", "s3://b/a/../../other", "gs://b/%2e%2e/x",
        "file://host/x", "file:///a/../b", "s3://b/a#b", "subtree://x", "mock://x", "\ts3:/x://y",
    ],
)  # fmt: skip
def test_other_uris_are_refused(uri: str) -> None:
    with pytest.raises(SettingsError, match="want"):
        Location.of(uri)


@pytest.mark.parametrize(
    "where", ["s3:/bucket/store", "gs:bucket", "file:/x", Path("s3://bucket/store"), "~nobody-of-this-name/store"]
)
def test_half_a_uri_and_nobodys_home_are_no_folders_of_that_name(where: Any) -> None:
    with pytest.raises(SettingsError, match=r"no such place; want a path, s3://bucket/folder"):
        Location.of(where)


def test_a_tilde_is_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Location.of("~/stores/a") == Location.of(Path("~/stores/a")) == Location.of(tmp_path / "stores" / "a")


@pytest.mark.parametrize("uri", ["s3://AKIAX:hush@bucket/store", "s3://bucket/store?region=x&Secret_Key=hush"])
def test_keys_in_a_uri_are_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(SettingsError, match="AWS_ACCESS_KEY_ID") as caught:
        Location.of(uri)
    assert "hush" not in str(caught.value)


def test_files(tmp_path: Path) -> None:
    folder = Location.of(tmp_path / "new" / "folder")
    assert folder.files() == []
    assert not (folder / "a").is_file()
    (folder / "b").write_bytes(b"0123456789")
    (folder / "a").write_bytes(b"")
    assert folder.files() == ["a", "b"]
    assert (folder / "b").read(2, 3) == b"234"
    assert (folder / "b").read(8, 9) == b"89"
    assert (folder / "b").read_bytes() == b"0123456789"
    (folder / "b").delete()
    (folder / "b").delete()
    assert folder.files() == ["a"]
    with pytest.raises(OSError, match="b"):
        (folder / "b").read(0, 1)


def test_tables(tmp_path: Path) -> None:
    file, table = Location.of(tmp_path / "t.parquet"), pa.table({"a": [1, 2], "b": ["x", "y"]})
    file.write_table(table)
    assert file.read_table().equals(table)
    assert file.read_table(columns=["b"]).column_names == ["b"]


def test_a_table_read_with_a_schema_has_its_columns_and_lacks_none(tmp_path: Path) -> None:
    file, schema = Location.of(tmp_path / "t.parquet"), pa.schema([("b", pa.int32()), ("a", pa.float64())])
    file.write_table(pa.table({"a": [1, 2], "c": [0, 0], "b": [3, 4]}))
    assert file.read_table(schema).equals(pa.table({"b": [3, 4], "a": [1.0, 2.0]}, schema=schema))
    file.write_table(pa.table({"b": [3, 4]}))
    with pytest.raises(StoreError, match=r"t.parquet: cannot be read as a table \(lacks a\); make it again"):
        file.read_table(schema)
    file.write_table(pa.table({"a": ["one"], "b": [3]}))
    with pytest.raises(StoreError, match=r"t.parquet: .*one"):
        file.read_table(schema)


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    file = Location.of(tmp_path / "a")
    file.write_bytes(b"before")

    def broken_off() -> None:
        with file.publish() as sink:
            sink.write(b"half of wh")
            raise KeyError

    with pytest.raises(KeyError):
        broken_off()
    assert file.read_bytes() == b"before"
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_what_killed_writers_left_is_swept_and_what_is_being_written_stays(tmp_path: Path) -> None:
    left, new, other = (tmp_path / "round-0" / name for name in (".a.parquet.12-0af3.part", ".b.12-1.part", "c.part"))
    left.parent.mkdir()
    for file in (left, new, other):
        file.write_bytes(b"half")
    for file in (left, other):
        os.utime(file, (1.0, 1.0))
    Location.of(tmp_path).sweep()
    assert sorted(left.parent.iterdir()) == [new, other]
    Location.of(tmp_path / "nowhere").sweep()
    Location.of("s3://bucket/asks-nobody").sweep()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the device that is always full."""
    file = Location.of(tmp_path / "shards" / "one.shard")
    opened = pa.fs.LocalFileSystem()

    def device(self: Location) -> Any:
        class Disk:
            create_dir, delete_file = opened.create_dir, opened.delete_file

            def open_output_stream(self, path: str) -> Any:
                return opened.open_output_stream("/dev/full")

        return Disk()

    monkeypatch.setattr(Location, "filesystem", property(device))
    with (
        pytest.raises(StoreError, match=r"No space left on device\); make room .* start again") as caught,
        open_shard(file) as shard,
    ):
        shard.sink.write(b"0" * (1 << 20))
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "shards").iterdir())


def test_a_server_that_does_not_answer_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        def get_file_info(self, key: str) -> Any:
            raise OSError("AWS Error NETWORK_CONNECTION:\n curlCode: 7")

    monkeypatch.setattr(Location, "filesystem", Silent())
    with pytest.raises(StoreError, match=r"^s3://bucket/one: cannot be asked \(AWS .* curlCode: 7\); .* network$"):
        Store.open("s3://bucket/one")


def test_a_record_that_is_taken_away_while_it_is_read_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Location.of(tmp_path / "begun-1.json")
    assert gone.read_json() is None
    monkeypatch.setattr(Location, "is_file", lambda _: True)  # it was there when it was looked for
    assert gone.read_json() is None
