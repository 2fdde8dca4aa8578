"""The store: slice ranges, tables, and what a broken one answers."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harvester.errors import StoreError
from harvester.records import IGNORE, MARKS, REJECTS, REVIEWED, Mark, Split, Volume
from harvester.storage.location import Location
from harvester.store import store as store_module
from harvester.store.container import open_shard
from harvester.store.store import FORMAT, FORMAT_KEY, Store, finish_store, read_volume, write_reviewed
from tests.builders import label, made_store, mark, reviewed, write_volume

SPACING = (4.0, 1.6, 1.5)
HU = np.random.default_rng(0).integers(-1024, 3071, (7, 5, 6)).astype(np.int16)
MARK = Mark("a", "a-0", 3, 1, 1, 4, 3.5, clinical=True, kind="nodule")
HIDDEN = Mark("a", "a-1", 4, 0, 0, 2, 2, clinical=False)


@pytest.fixture(params=["kept decoded", "read by slice"])
def made(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "read by slice":
        monkeypatch.setattr(store_module, "CACHED_BYTES", 0)
    rows = [write_volume(tmp_path, Volume(name, f"p{name}", HU, SPACING), Split.VH_TEST, "h") for name in "ba"]
    reject = {"source_hash": "h", "reason": "not_ct", "message": "no"}
    region = {"volume_id": "a", "z1": 0, "z2": 2, "x1": 0.0, "y1": 0.0, "x2": 3.0, "y2": 4.0}
    return finish_store(tmp_path, rows, [MARK], [MARK, HIDDEN], [reject], [region])


def test_a_store_knows_whether_its_shards_are_whole(tmp_path: Path) -> None:
    store = made_store(tmp_path, {"a": "vm", "b": "vh"})
    assert store.is_whole()
    shard = next((tmp_path / "shards").glob("*.shard"))
    shard.write_bytes(shard.read_bytes()[:-1])
    assert not store.is_whole()
    shard.unlink()
    assert not store.is_whole()


def test_what_was_written_comes_back(made: Store) -> None:
    volume = made.read("a")
    np.testing.assert_array_equal(volume.hu_zyx, HU)
    assert (volume.volume_id, volume.patient_id, volume.spacing_zyx_mm) == ("a", "pa", SPACING)


@pytest.mark.parametrize(("z_start", "z_end"), [(0, 1), (2, 5), (6, 7), (0, 7)])
def test_a_slice_range(made: Store, z_start: int, z_end: int) -> None:
    np.testing.assert_array_equal(made.read("a", z_start, z_end).hu_zyx, HU[z_start:z_end])
    np.testing.assert_array_equal(made.read("a", z_start).hu_zyx, HU[z_start:])


@pytest.mark.parametrize(("z_start", "z_end"), [(-1, 2), (0, 8), (3, 3), (5, 2), (7, 8), (0, 0)])
def test_a_range_beyond_the_volume_is_an_error(made: Store, z_start: int, z_end: int) -> None:
    with pytest.raises(StoreError, match="volume a: slices"):
        made.read("a", z_start, z_end)


def shard_of(store: Store, volume_id: str) -> tuple[Path, int, int]:
    """The file of a volume, and its first and last byte there."""
    (row,) = [row for row in store.manifest.to_pylist() if row["volume_id"] == volume_id]
    return Path(str(store.path / "shards" / row["shard"])), row["offset"], row["offset"] + row["bytes"] - 1


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 4
    file.write_bytes(data)


def in_one_shard(folder: Path, volumes: dict[str, Any]) -> Store:
    with open_shard(Location.of(folder) / "shards" / "one.shard") as shard:
        rows = [shard.add(Volume(name, f"p{name}", hu, SPACING), Split.VH, "h") for name, hu in volumes.items()]
    return finish_store(folder, rows, [], [])


def test_a_broken_slice_harms_no_other(tmp_path: Path) -> None:
    """Where a volume is not small, only what is asked for is read, and what is read is checked."""
    big = np.random.default_rng(1).integers(-1024, 3071, (4, 900, 900)).astype(np.int16)
    store = in_one_shard(tmp_path, {"a": HU, "b": big, "c": HU})
    file, _, last = shard_of(store, "b")
    flip(file, last - 9)
    np.testing.assert_array_equal(read_volume(store.path, "b", 0, 3).hu_zyx, big[:3])
    for name in "ac":
        np.testing.assert_array_equal(store.read(name).hu_zyx, HU)
    with pytest.raises(StoreError, match="volume b"):
        store.read("b", 3, 4)


@pytest.mark.parametrize("place", [0, 5, 9, 13, 30, 200, -200, -1])
def test_no_flipped_bit_gives_wrong_pixels(made: Store, place: int) -> None:
    file, first, last = shard_of(made, "b")
    flip(file, first + place if place >= 0 else last + 1 + place)
    with pytest.raises(StoreError, match="volume b"):
        Store.open(made.path).read("b")
    np.testing.assert_array_equal(made.read("a").hu_zyx, HU)


def test_volumes_of_one_shard_come_back_each(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    sides = [(1, 1, 1), (3, 5, 7), (2, 16, 9), (40, 3, 2)]
    volumes = {f"v{i}": rng.integers(-32768, 32768, side).astype(np.int16) for i, side in enumerate(sides)}
    store = in_one_shard(tmp_path, volumes)
    assert store.manifest["shard"].unique().to_pylist() == ["one.shard"]
    for name, hu in volumes.items():
        np.testing.assert_array_equal(store.read(name).hu_zyx, hu)
        np.testing.assert_array_equal(store.read(name, len(hu) // 2).hu_zyx, hu[len(hu) // 2 :])


def test_a_volume_of_many_slices_has_a_long_header(tmp_path: Path) -> None:
    hu = np.arange(2000, dtype=np.int16).reshape(2000, 1, 1)
    store = in_one_shard(tmp_path, {"long": hu})
    np.testing.assert_array_equal(store.read("long", 1500, 1503).hu_zyx, hu[1500:1503])


def test_what_is_remembered_is_dropped_with_a_new_store(tmp_path: Path) -> None:
    assert in_one_shard(tmp_path, {"a": HU}).read("a").hu_zyx[0, 0, 0] == HU[0, 0, 0]
    assert in_one_shard(tmp_path, {"a": HU - 1}).read("a").hu_zyx[0, 0, 0] == HU[0, 0, 0] - 1


def test_the_tables(made: Store) -> None:
    assert made.manifest["volume_id"].to_pylist() == ["a", "b"]
    row = made.manifest.to_pylist()[0]
    assert (row["depth"], row["height"], row["width"], row["split"]) == (7, 5, 6, "vh_test")
    assert (row["spacing_z_mm"], row["spacing_y_mm"], row["spacing_x_mm"]) == SPACING
    assert made.marks()["mark_id"].to_pylist() == ["a-0"]
    assert made.truth()["clinical"].to_pylist() == [True, False]
    assert made.rejects()["reason"].to_pylist() == ["not_ct"]
    assert made.ignore()["z2"].to_pylist() == [2]


def test_no_leftovers(made: Store) -> None:
    assert not [file for file in Path(str(made.path)).rglob(".*") if file.is_file()]


def test_empty_tables_have_their_columns(tmp_path: Path) -> None:
    empty = finish_store(tmp_path, [], [], [])
    assert empty.marks().schema.equals(MARKS)
    assert empty.truth().schema.equals(MARKS)
    assert empty.ignore().schema.equals(IGNORE)
    assert empty.rejects().schema.equals(REJECTS)
    assert len(empty.manifest) == 0


def test_a_store_without_its_side_tables_opens(made: Store) -> None:
    for name in ("truth", "ignore", "rejects"):
        (made.path / f"{name}.parquet").delete()
    opened = Store.open(made.path)
    assert [len(table) for table in (opened.truth(), opened.ignore(), opened.rejects())] == [0, 0, 0]


def test_a_table_that_lacks_a_column_or_has_another_type_is_named_with_its_file(made: Store) -> None:
    file = made.path / "marks.parquet"
    for wrong in (made.marks().drop_columns(["z"]), made.marks().set_column(2, "z", pa.array(["x"]))):
        file.write_table(wrong)
        with pytest.raises(StoreError, match=r"marks.parquet: cannot be read as a table.*(lacks z|x)"):
            Store.open(made.path).marks()


def test_a_table_with_more_columns_in_another_order_is_read_as_its_schema_has_it(made: Store) -> None:
    table = made.truth()
    more = (
        table.set_column(2, "z", table["z"].cast(pa.int64()))
        .select(reversed(MARKS.names))
        .append_column("note", pa.array(["a", "b"]))
    )
    (made.path / "truth.parquet").write_table(more)
    assert made.truth().equals(table)


def test_what_was_reviewed_is_kept_in_one_order(made: Store) -> None:
    assert made.reviewed().schema.equals(REVIEWED)
    rows = [label(name, (1, 1, 3, 3), role) for name in "ba" for role in ("lesion", "hard_negative")]
    write_reviewed(made.path, reviewed(*rows))
    assert made.reviewed().schema.equals(REVIEWED)
    assert made.reviewed()["volume_id"].to_pylist() == ["a", "a", "b", "b"]
    assert made.data_hash() != made_store(Path(str(made.path)), {"a": "vh"}).data_hash()


def test_only_opening_a_store_forgets_what_is_remembered_of_it(tmp_path: Path) -> None:
    store = made_store(tmp_path, {"a": "vm"}, hu=HU)
    first = store.read("a").hu_zyx
    assert Store(store.path, store.manifest).read("a").hu_zyx.base is first.base
    assert Store.open(tmp_path).read("a").hu_zyx.base is not first.base


def test_the_data_hash_follows_rows_and_marks(made: Store, tmp_path: Path) -> None:
    rows, first = made.manifest.to_pylist(), made.data_hash()
    assert finish_store(tmp_path, reversed(rows), [MARK], [], ignore=made.ignore().to_pylist()).data_hash() == first
    assert finish_store(tmp_path, rows, [HIDDEN], []).data_hash() != first
    assert finish_store(tmp_path, rows[:1], [MARK], []).data_hash() != first


def test_the_data_hash_follows_voxels_and_not_where_they_lie(tmp_path: Path) -> None:
    alone = [write_volume(tmp_path / "alone", Volume(name, f"p{name}", HU, SPACING), Split.VH, "h") for name in "ab"]
    first = finish_store(tmp_path / "alone", alone, [], []).data_hash()
    assert in_one_shard(tmp_path / "one", {"b": HU, "a": HU}).data_hash() == first
    other = HU.copy()
    other[3, 2, 1] += 1
    assert in_one_shard(tmp_path / "other", {"a": HU, "b": other}).data_hash() != first


@pytest.mark.parametrize("data", [b"", b"HVSHARD1 but no more", b"\0" * 5000])
def test_a_broken_file_is_an_error_that_names_the_volume(made: Store, data: bytes) -> None:
    shard_of(made, "b")[0].write_bytes(data)
    with pytest.raises(StoreError, match="volume b"):
        made.read("b")


def test_a_file_cut_short_and_a_missing_one(made: Store) -> None:
    file, _, _ = shard_of(made, "b")
    file.write_bytes(file.read_bytes()[:-100])
    for name in ("b", "c"):
        with pytest.raises(StoreError, match=f"volume {name}"):
            made.read(name)
    file.unlink()
    with pytest.raises(StoreError, match="volume b"):
        Store.open(made.path).read("b")


@pytest.mark.parametrize("name", ["../a.shard", "/etc/passwd", "a/b.shard", "..", "a.txt", None])
def test_a_manifest_that_leads_out_of_the_store_is_refused(made: Store, name: str | None) -> None:
    rows = [{**row, "shard": name} for row in made.manifest.to_pylist()]
    with pytest.raises(StoreError, match="outside the store"):
        finish_store(made.path, rows, [], [])
    with pytest.raises(StoreError, match="outside the store"):
        read_volume(made.path, "a")


def test_a_store_of_an_earlier_version_is_to_be_made_again(made: Store) -> None:
    file = made.path / "manifest.parquet"
    file.write_table(made.manifest.drop_columns(["shard", "offset"]))
    for opening in (lambda: Store.open(made.path), lambda: read_volume(made.path, "a")):
        with pytest.raises(StoreError, match=r"lacks offset, shard.*harvester prepare"):
            opening()


@pytest.mark.parametrize("metadata", [{FORMAT_KEY: str(FORMAT + 1)}, {FORMAT_KEY: "two"}])
def test_a_store_of_a_newer_format_is_refused(made: Store, metadata: dict[bytes, str]) -> None:
    file = made.path / "manifest.parquet"
    assert int(pq.read_schema(file.key).metadata[FORMAT_KEY]) == FORMAT
    file.write_table(made.manifest.replace_schema_metadata(metadata))
    for opening in (lambda: Store.open(made.path), lambda: read_volume(made.path, "a")):
        with pytest.raises(StoreError, match=r"newer harvester's format.*make another store"):
            opening()


def test_a_store_older_than_formats_is_read(made: Store) -> None:
    (made.path / "manifest.parquet").write_table(made.manifest)
    older = Store.open(made.path)
    assert older.data_hash() == made.data_hash()
    assert older.read("a").volume_id == "a"


@pytest.mark.parametrize("name", ["marks", "truth", "ignore"])
def test_a_row_of_a_volume_that_is_not_in_the_manifest_is_refused(tmp_path: Path, name: str) -> None:
    made_store(tmp_path, {"a": "vm", "b": "vm"}, [mark("a", (1, 1, 2, 2), z=0)], hu=np.zeros((2, 4, 4), np.int16))
    file, schema = tmp_path / f"{name}.parquet", IGNORE if name == "ignore" else MARKS
    pq.write_table(pa.Table.from_pylist([{"volume_id": "c"}], schema), file)
    store = Store.open(tmp_path)
    with pytest.raises(StoreError, match=rf"{name}.parquet: names volume c, which is not in the manifest"):
        getattr(store, name)()


def test_a_stores_place_travels_to_workers(made: Store) -> None:
    assert pickle.loads(pickle.dumps(made.path)) == made.path  # noqa: S301  our own bytes


def test_a_folder_without_a_manifest_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"harvester prepare"):
        Store.open(tmp_path)


@pytest.mark.parametrize("volume_id", ["../../x", "a/b", "a\\b", "..", "", "=cmd", "a\n", None])
def test_a_manifest_whose_volume_ids_are_no_file_names_is_refused(made: Store, volume_id: str | None) -> None:
    """Exports name files by them."""
    rows = made.manifest.to_pylist()
    rows[0]["volume_id"] = volume_id
    (made.path / "manifest.parquet").write_table(pa.Table.from_pylist(rows, made.manifest.schema))
    with pytest.raises(StoreError, match="volume ids that are no file names"):
        Store.open(made.path)


def test_a_file_that_is_no_table_is_one_clear_error(made: Store) -> None:
    (made.path / "marks.parquet").write_bytes(b"no table")
    with pytest.raises(StoreError, match=r"marks.parquet: cannot be read as a table \(.*make it again"):
        made.marks()
