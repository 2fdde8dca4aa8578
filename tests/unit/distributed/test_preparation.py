"""What a start of a preparation makes anew, without Ray: files that hold something else, and reads that failed."""

import errno
import json
import logging
import os
import shutil
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml

from harvester.config.settings import Settings
from harvester.datasets.discovery import LoadedVolume
from harvester.datasets.inventory import Inventory
from harvester.distributed import preparation
from harvester.distributed.preparation import Collected, Maker, prepare, prepared
from harvester.errors import StoreError, VolumeError
from harvester.records import Reject, Volume
from harvester.run.partials import Part
from harvester.storage.location import Location
from harvester.store.shard_plan import ShardNote
from harvester.store.store import Store
from tests.dicom_files import put, put_series
from tests.dicom_objects import group, report, scoord

SHAPE = (32, 24, 9)
AFFINE = np.diag([1.0, 1.0, 3.0, 1.0])


class Workshop:
    """Preparations in this process; `read` has the volumes that each start read, `errors` what reading one raises."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.archive, self.store = folder / "archive", folder / "store"
        self.archive.mkdir()
        self.read: list[str] = []
        self.errors: dict[str, Exception] = {}
        load = Maker.load

        def loaded(maker: Maker, case: dict[str, Any]) -> LoadedVolume:
            self.read.append(case["volume_id"])
            if error := self.errors.get(case["volume_id"]):
                raise error
            return load(maker, case)

        monkeypatch.setattr(Maker, "load", loaded)
        monkeypatch.setattr(preparation, "_make_all", made_here)

    def names(self) -> list[str]:
        """The volumes that a look finds."""
        settings = Settings.model_validate({"data": {"kind": "archive"}})
        return [*looked(settings, self.archive, self.store).source_hashes]

    def prepare(self, **settings: Any) -> Store:
        self.read.clear()
        data = {"kind": "archive", "max_reject_share": 0.5, **settings}
        return prepare(Settings.model_validate({"data": data}), self.archive, Location.of(self.store), shard_bytes=1)


def looked(settings: Settings, archive: Path, store: Path) -> Inventory:
    return Inventory.of(settings, preparation.list_cases(settings, archive, Location.of(store)))


def made_here(
    maker: type[Maker], given: Any, parts: Sequence[Part], refused: Sequence[Reject], volumes: int
) -> tuple[list[ShardNote], list[Reject]]:
    collected = Collected(given[0], given[-1], parts, refused, volumes)
    collected.require_few()
    rows = [{"name": part.name, "rows": json.dumps(part.rows)} for part in parts]
    collected.take(lambda: map(maker(*given), rows))
    return collected.notes, collected.rejects


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    return Workshop(tmp_path, monkeypatch)


def put_scan(file: Path, seed: int) -> None:
    hu = np.random.default_rng(seed).integers(-100, 100, SHAPE).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(hu, AFFINE), file)


def put_mask(file: Path, corner: int) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[corner : corner + 9, 4:12, 3] = 1
    nibabel.save(nibabel.Nifti1Image(mask, AFFINE), file)


def exchange(file: Path, write: Callable[[], object], keep_time: bool) -> None:
    """Put something else into a file, of the same size; `keep_time`: as a copy that preserves times would."""
    before = file.stat()
    write()
    assert file.stat().st_size == before.st_size
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + (not keep_time)))


def test_an_exchanged_scan_or_mask_of_equal_size_makes_its_volume_anew_and_a_touched_one_the_same(
    workshop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    root = workshop.archive
    for number in range(3):
        put_scan(root / f"s{number}.nii", number)
        put_mask(root / f"s{number}.mask.nii", 2)
    first = workshop.prepare()
    assert len(workshop.read) == 3
    before, data_hash = first.marks(), first.data_hash()
    workshop.prepare()
    assert workshop.read == []

    exchange(root / "s1.mask.nii", lambda: put_mask(root / "s1.mask.nii", 20), keep_time=True)
    with caplog.at_level(logging.INFO):
        marks = workshop.prepare().marks()
    assert "its data have changed since it was made; 1 of 3 volumes are made now" in caplog.text
    assert len(workshop.read) == 1
    assert sorted(marks["x1"].to_pylist()) != sorted(before["x1"].to_pylist())

    exchange(root / "s2.nii", lambda: put_scan(root / "s2.nii", 7), keep_time=False)
    voxels = {row["volume_id"]: row["voxel_hash"] for row in workshop.prepare().manifest.to_pylist()}
    assert len(workshop.read) == 1
    assert sum(row["voxel_hash"] != voxels[row["volume_id"]] for row in first.manifest.to_pylist()) == 1

    put_mask(root / "s1.mask.nii", 2)
    put_scan(root / "s2.nii", 2)
    os.utime(root / "s0.nii")
    again = workshop.prepare()
    assert len(workshop.read) == 3  # at most what was touched, and a run's steps stay: the data are as they were
    assert again.data_hash() == data_hash


def dicom(root: Path) -> Path:
    put_series(root / "ct")
    return put_report(root)


def put_report(root: Path, x: int = 1) -> Path:
    sr = report(group(scoord("1.2.3.4", "POLYLINE", [x, 1, x + 3, 1, x + 3, 4, x, 4, x, 1])))
    sr.SOPInstanceUID = "1.2.99"
    return put(root / "sr.dcm", sr)


def test_a_corrected_dicom_object_and_an_exchanged_slice_are_noticed(workshop: Workshop) -> None:
    file = dicom(workshop.archive)
    settings = {"archive": {"dicom": {"machine_marks": True}}}
    before = workshop.prepare(**settings).marks().to_pylist()
    exchange(file, lambda: put_report(workshop.archive, 2), keep_time=True)
    after = workshop.prepare(**settings).marks().to_pylist()
    assert [row["x1"] + 1 for row in before] == [row["x1"] for row in after] != []
    os.utime(workshop.archive / "ct" / "003.dcm")
    workshop.prepare(**settings)
    assert len(workshop.read) == 1
    workshop.prepare(**settings)
    assert workshop.read == []


@pytest.fixture
def backgrounds(workshop: Workshop) -> Callable[..., Settings]:
    """The settings of a store of insertions, after its list or files were changed."""
    file = workshop.store.parent / "list.yaml"
    for name in ("a", "b"):
        put_scan(workshop.archive / f"{name}.nii", 1)
    put_mask(workshop.archive / "a.mask.nii", 2)

    def listed(**of_a: Any) -> Settings:
        a = {"id": "a", "file": "a.nii", "patient": "a", "role": "vm", "mask": "a.mask.nii", **of_a}
        file.write_text(yaml.safe_dump([a, {"id": "b", "file": "b.nii", "patient": "b", "role": "vh_test"}]))
        own = {
            "source": "$HARVESTER_DATA",
            "backgrounds": str(file),
            "vm_volumes": 2,
            "vh_test_volumes": 1,
            "depth": [6, 8],
        }
        return Settings.model_validate({"data": {"kind": "insertion", "insertion": own}})

    return listed


def test_insertions_follow_the_list_of_backgrounds_their_scans_and_masks(
    workshop: Workshop, backgrounds: Callable[..., Settings], tmp_path: Path
) -> None:
    def look(**of_a: Any) -> set[str]:
        return {*looked(backgrounds(**of_a), workshop.archive, tmp_path).source_hashes.values()}

    first = look()
    assert len(first) == 3
    assert look(why="told better") == first
    assert len(look(avoid_mm=[[0, 9, 0, 9, 0, 9]]) & first) == 1
    assert len(look(clean_mm=[[0, 18]]) & first) == 1
    assert len(look(mask=None) & first) == 1
    exchange(workshop.archive / "a.mask.nii", lambda: put_mask(workshop.archive / "a.mask.nii", 9), keep_time=True)
    assert len(look() & first) == 1
    os.utime(workshop.archive / "b.nii")
    assert not look() & first
    moved = shutil.copytree(workshop.archive, tmp_path / "moved")
    here = look()
    workshop.archive = moved
    assert look() == here


def test_a_store_of_insertions_is_not_taken_for_that_of_another_list(
    workshop: Workshop, backgrounds: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Maker, "load", lambda maker, case: made_volume(case))
    store = Location.of(workshop.store)
    given = backgrounds()
    assert prepared(given, workshop.archive, store) is None
    first = prepare(given, workshop.archive, store)
    assert prepared(given, workshop.archive, store) is not None
    assert not (workshop.store.parent / "store.salt").exists()
    changed = backgrounds(avoid_mm=[[0, 9, 0, 9, 0, 9]])
    assert prepared(changed, workshop.archive, store) is None
    again = prepare(changed, workshop.archive, store)
    assert prepared(changed, workshop.archive, store) is not None
    assert again.data_hash() == first.data_hash()


def made_volume(case: dict[str, Any]) -> LoadedVolume:
    return LoadedVolume(Volume(case["volume_id"], case["patient_id"], np.zeros((6, 8, 8), np.int16), (3, 1, 1)), [])


def test_the_volume_before_is_let_go_of_before_the_next_is_read(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two in memory at a time would make the second look as if it had killed the worker."""
    for number in range(3):
        put_scan(workshop.archive / f"s{number}.nii", number)
    alive: weakref.WeakSet[Volume] = weakref.WeakSet()
    beside: list[int] = []

    def load(maker: Maker, case: dict[str, Any]) -> LoadedVolume:
        beside.append(len(alive))
        loaded = made_volume(case)
        alive.add(loaded.volume)
        return loaded

    monkeypatch.setattr(Maker, "load", load)
    settings = Settings.model_validate({"data": {"kind": "archive"}})
    prepare(settings, workshop.archive, Location.of(workshop.store))
    assert beside == [0, 0, 0]


def test_shards_that_other_nodes_kept_for_themselves_are_told(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_scan(workshop.archive / "s.nii", 1)

    def elsewhere(*given: Any) -> Any:
        made = made_here(*given)
        shutil.rmtree(workshop.store / "shards")
        return made

    monkeypatch.setattr(preparation, "_make_all", elsewhere)
    with pytest.raises(StoreError, match=r"1 of 1 shards .* are not here; is the store's folder shared by all nodes"):
        workshop.prepare()


PASSING = [
    OSError(errno.EIO, os.strerror(errno.EIO)),
    PermissionError(errno.EACCES, os.strerror(errno.EACCES)),
    TimeoutError(),
    ConnectionResetError(),
]


def wrapped(error: Exception) -> Exception:
    """As a reader says it that takes every OSError for a broken file."""
    try:
        try:
            raise error
        except type(error):
            raise VolumeError("unreadable", "volume x: broken") from None
    except VolumeError as said:
        return said


@pytest.mark.parametrize("error", [*PASSING, OSError("stale handle"), *map(wrapped, PASSING), wrapped(MemoryError())])
def test_what_could_not_be_read_is_tried_again_and_what_is_refused_for_what_it_is_is_not(
    workshop: Workshop, error: Exception
) -> None:
    for number in range(4):
        put_scan(workshop.archive / f"s{number}.nii", number)
    away, broken, *_ = names = workshop.names()
    workshop.errors = {away: error, broken: VolumeError("not_hu", f"volume {broken}: no HU")}
    store = workshop.prepare()
    assert sorted(workshop.read) == sorted(names)
    rejects = {row["reason"]: row["message"] for row in store.rejects().to_pylist()}
    assert rejects.keys() == {"try_again", "not_hu"}
    assert rejects["try_again"].startswith(f"volume {away}: cannot be read (")
    assert rejects["try_again"].endswith("the next start tries it again")

    made = (workshop.store / "manifest.parquet").stat().st_mtime_ns
    assert len(workshop.prepare().rejects()) == 2
    assert workshop.read == [away]
    assert (workshop.store / "manifest.parquet").stat().st_mtime_ns == made  # nobody's store is rewritten for nothing
    del workshop.errors[away]
    store = workshop.prepare()
    assert workshop.read == [away]
    assert [row["reason"] for row in store.rejects().to_pylist()] == ["not_hu"]
    assert len(store.manifest) == 3
    workshop.prepare()
    assert workshop.read == []
    put_scan(workshop.archive / "s9.nii", 9)
    assert len(workshop.prepare().rejects()) == 1
    assert len(workshop.read) == 1 and broken not in workshop.read


def test_what_was_refused_before_counts_for_the_share(workshop: Workshop) -> None:
    for number in range(4):
        put_scan(workshop.archive / f"s{number}.nii", number)
    names = workshop.names()
    workshop.errors = {name: VolumeError("not_hu", "no HU") for name in names[:2]}
    workshop.prepare()
    for number in range(4, 6):
        put_scan(workshop.archive / f"s{number}.nii", number)
    workshop.errors |= {name: VolumeError("not_hu", "no HU") for name in workshop.names() if name not in names}
    with pytest.raises(StoreError, match=r"4 of 6 volumes were refused, more than data.max_reject_share"):
        workshop.prepare()
    (workshop.archive / "s5.nii").unlink()
    with pytest.raises(StoreError, match=r"2 of 5 volumes were refused, more than data.max_reject_share allows \(1\)"):
        workshop.prepare(max_reject_share=0.2)
    assert workshop.read == []  # what is known is said before anything is made
