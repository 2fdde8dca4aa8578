"""The store: slice ranges, tables, and what a broken one answers."""

from pathlib import Path

import numpy as np
import pytest

from harvester.errors import StoreError
from harvester.records import IGNORE, MARKS, REJECTS, Mark, Volume
from harvester.volumes import store as store_module
from harvester.volumes.store import Store, finish_store, read_volume, write_volume

LZ4_FRAME = bytes.fromhex("04224d18")
SPACING = (4.0, 1.6, 1.5)
HU = np.random.default_rng(0).integers(-1024, 3071, (7, 5, 6)).astype(np.int16)
MARK = Mark("a", "a-0", 3, 1, 1, 4, 3.5, clinical=True, kind="nodule")
HIDDEN = Mark("a", "a-1", 4, 0, 0, 2, 2, clinical=False)


@pytest.fixture(params=["kept decoded", "read by slice"])
def made(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "read by slice":
        monkeypatch.setattr(store_module, "CACHED_BYTES", 0)
    rows = [write_volume(tmp_path, Volume(name, f"p{name}", HU, SPACING), "vh_test", "h") for name in "ba"]
    reject = {"source_hash": "h", "reason": "not_ct", "message": "no"}
    region = {"volume_id": "a", "z1": 0, "z2": 2, "x1": 0.0, "y1": 0.0, "x2": 3.0, "y2": 4.0}
    return finish_store(tmp_path, rows, [MARK], [MARK, HIDDEN], [reject], [region])


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


def test_only_the_slices_asked_for_are_decoded(made: Store) -> None:
    """A broken last slice does no harm to those before it (where the volume is not small)."""
    file = made.path / "volumes" / "a.arrow"
    big = np.zeros((4, 1200, 1200), np.int16)
    big[:] = np.random.default_rng(1).integers(0, 3000, (1200, 1200))
    write_volume(made.path, Volume("a", "pa", big, SPACING), "vh", "h")
    data = bytearray(file.read_bytes())
    at = data.rindex(LZ4_FRAME)
    data[at : at + 4] = b"junk"
    file.write_bytes(data)
    np.testing.assert_array_equal(read_volume(made.path, "a", 0, 2).hu_zyx, big[:2])
    with pytest.raises(StoreError, match="volume a"):
        read_volume(made.path, "a", 3, 4)


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
    assert not [file for file in made.path.rglob(".*") if file.is_file()]


def test_empty_tables_have_their_columns(tmp_path: Path) -> None:
    empty = finish_store(tmp_path, [], [], [])
    assert empty.marks().schema.equals(MARKS)
    assert empty.truth().schema.equals(MARKS)
    assert empty.ignore().schema.equals(IGNORE)
    assert empty.rejects().schema.equals(REJECTS)
    assert len(empty.manifest) == 0


def test_a_store_without_its_side_tables_opens(made: Store) -> None:
    for name in ("truth", "ignore", "rejects"):
        (made.path / f"{name}.parquet").unlink()
    opened = Store(made.path)
    assert [len(table) for table in (opened.truth(), opened.ignore(), opened.rejects())] == [0, 0, 0]


def test_the_data_hash_follows_rows_and_marks(made: Store, tmp_path: Path) -> None:
    rows, first = made.manifest.to_pylist(), made.data_hash()
    assert (
        finish_store(tmp_path, reversed(rows), [MARK], [], ignore=made.ignore().to_pylist()).data_hash()
        == first
    )
    assert finish_store(tmp_path, rows, [HIDDEN], []).data_hash() != first
    assert finish_store(tmp_path, rows[:1], [MARK], []).data_hash() != first


@pytest.mark.parametrize("data", [b"", b"ARROW1 but no more", b"\0" * 5000])
def test_a_broken_file_is_an_error_that_names_the_volume(made: Store, data: bytes) -> None:
    (made.path / "volumes" / "b.arrow").write_bytes(data)
    with pytest.raises(StoreError, match="volume b"):
        made.read("b")


def test_a_file_cut_short_and_a_missing_one(made: Store) -> None:
    file = made.path / "volumes" / "b.arrow"
    file.write_bytes(file.read_bytes()[:-300])
    for name in ("b", "c"):
        with pytest.raises(StoreError, match=f"volume {name}"):
            made.read(name)


def test_a_folder_without_a_manifest_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"jobs/prepare.py"):
        Store(tmp_path)
