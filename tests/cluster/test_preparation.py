"""Archives to shards on a local Ray: the same data however they are cut, what is made again, what stops a job."""

import csv
import errno
import gzip
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from harvester.cli.prepare import main
from harvester.config.data import ArchiveSettings
from harvester.config.settings import Settings
from harvester.datasets.archive.archive import discover, read
from harvester.datasets.discovery import Dataset, LoadedVolume
from harvester.distributed import cluster, preparation
from harvester.distributed.preparation import Maker, prepare
from harvester.errors import StepError, StoreError
from harvester.storage.location import Location
from harvester.store.container import ShardWriter
from harvester.store.store import Store
from tests.dicom_files import put_series

SHAPE = (16, 12, 8)
ALONE = 8 * 16 * 12 * 2 + 352
"""Bytes of a scan's file: with such a target each is a shard of its own."""


def settings(replicas: int = 1, **data: Any) -> Settings:
    return Settings.model_validate(
        {"compute": {"replicas": replicas}, "data": {"kind": "archive", "max_reject_share": 0.2, **data}}
    )


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    folder.mkdir()
    for number in range(9):
        add_scan(folder, number)
    rows = [f"s{number}.nii,{number % 5},2,3,6,7.5,1" for number in range(0, 9, 2)]
    (folder / "marks.csv").write_text("\n".join(["file,z,x1,y1,x2,y2,complete", *rows]) + "\n")
    return folder


def add_scan(folder: Path, number: int, shape: tuple[int, int, int] = SHAPE) -> None:
    hu = np.random.default_rng(number).integers(-1024, 900, shape).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(hu, np.diag([0.8, 0.8, 2.5, 1])), folder / f"s{number}.nii")


def shards(store: Store) -> dict[str, int]:
    folder = Path(str(store.path)) / "shards"
    return {file.name: file.stat().st_mtime_ns for file in folder.glob("*.shard")}


def voxels(store: Store) -> dict[str, bytes]:
    return {name: store.read(name).hu_zyx.tobytes() for name in store.manifest["volume_id"].to_pylist()}


def test_the_same_data_come_out_for_any_actors_and_any_shards(local_ray: None, archive: Path, tmp_path: Path) -> None:
    (tmp_path / "b.salt").write_text("5a17" * 8)
    (tmp_path / "a.salt").write_text("5a17" * 8)
    (archive / "DOE_JANE.nii").write_bytes((archive / "s0.nii").read_bytes()[:-100])
    one = prepare(settings(), archive, tmp_path / "a")
    many = prepare(settings(2), archive, f"file://{tmp_path}/b", shard_bytes=ALONE)
    assert (len(shards(one)), len(shards(many))) == (1, 9)
    assert one.data_hash() == many.data_hash()
    assert voxels(one) == voxels(many)
    for table in (Store.marks, Store.truth, Store.ignore):
        assert table(one).equals(table(many))
    assert len(one.marks()) == 5
    assert len(set(voxels(one).values())) == 9
    (reject,) = one.rejects().to_pylist()
    assert many.rejects().to_pylist() == [reject]
    assert not [word for word in ("DOE", str(tmp_path)) if word in reject["message"]]


def test_a_changed_archive_remakes_what_changed(
    local_ray: None, archive: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = prepare(settings(), archive, tmp_path / "a", shard_bytes=ALONE)
    before, kept = shards(first), voxels(first)
    with caplog.at_level(logging.INFO):
        assert shards(prepare(settings(), archive, tmp_path / "a")) == before
    assert "made before" in caplog.text
    add_scan(archive, 9)
    (archive / "s1.nii").unlink()
    marks = archive / "marks.csv"
    marks.write_text(marks.read_text().replace("7.5", "8.5", 1))
    again = prepare(settings(), archive, tmp_path / "a", shard_bytes=ALONE)
    after = shards(again)
    assert sum(before.get(name) == made for name, made in after.items()) == 7
    assert len(after) == 9
    assert len(kept.keys() & voxels(again).keys()) == 8
    fresh = tmp_path / "fresh"
    (tmp_path / "fresh.salt").write_text((tmp_path / "a.salt").read_text())
    assert prepare(settings(), archive, fresh).data_hash() == again.data_hash()
    with pytest.raises(StoreError, match="other settings"):
        prepare(settings(archive={"format": "nifti"}), archive, tmp_path / "a")


def test_a_killed_preparation_makes_only_what_is_missing(local_ray: None, archive: Path, tmp_path: Path) -> None:
    """Killed: no tables, one shard half written, one without its note."""
    whole = prepare(settings(), archive, tmp_path / "a", shard_bytes=ALONE)
    before, data_hash = shards(whole), whole.data_hash()
    for name in ("manifest", "marks", "truth", "ignore", "rejects"):
        (whole.path / f"{name}.parquet").delete()
    half, bare = sorted(before)[:2]
    folder = tmp_path / "a" / "shards"
    (folder / half).rename(folder / f".{half}.part")
    (folder / half).with_suffix(".json").unlink()
    (folder / bare).with_suffix(".json").unlink()
    again = prepare(settings(), archive, tmp_path / "a", shard_bytes=ALONE)
    after = shards(again)
    assert again.data_hash() == data_hash
    assert {name for name in before if after.get(name) == before[name]} == set(before) - {half, bare}
    assert not list(folder.glob(".*"))


def test_too_many_refusals_end_the_job_and_are_read_again_next_time(
    local_ray: None, archive: Path, tmp_path: Path
) -> None:
    scan = archive / "s3.nii.gz"
    good = gzip.compress((archive / "s3.nii").read_bytes(), mtime=0)
    (archive / "s3.nii").unlink()
    scan.write_bytes(good[: len(good) // 2].ljust(len(good), b"\0"))  # its header is sound: refused when it is read
    with pytest.raises(StoreError, match=r"1 of 9 volumes were refused, more than data.max_reject_share"):
        prepare(settings(max_reject_share=0.05), archive, tmp_path / "a", shard_bytes=ALONE)
    assert not (tmp_path / "a" / "manifest.parquet").exists()
    scan.write_bytes(good)
    store = prepare(settings(max_reject_share=0.06), archive, tmp_path / "a", shard_bytes=ALONE)
    assert (len(store.manifest), len(store.rejects())) == (9, 0)


def case(name: str) -> dict[str, Any]:
    return {"volume_id": name, "patient_id": f"p-{name}", "split": "vh", "patient_index": 1, "volume_index": 0}


def row(*names: str) -> dict[str, Any]:
    return {
        "name": "one",
        "rows": json.dumps([{"volume_id": name, "source_hash": f"h-{name}", "case": case(name)} for name in names]),
    }


def phantoms(tmp_path: Path) -> Maker:
    return Maker(
        Settings.model_validate({"data": {"kind": "phantom", "phantom": {"depth": 6}}}),
        None,
        tmp_path,
        tmp_path / "begun",
    )


def test_what_a_reader_raises_is_a_refusal_without_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is: the volumes beside it are stored, and neither path nor text of a file gets into the row."""
    errors = [
        FileNotFoundError(errno.ENOENT, "No such file", "/archive/DOE^JANE/1.dcm"),
        ValueError("PatientName DOE^JANE"), KeyError("DOE^JANE"), LookupError("DOE^JANE"), RecursionError("DOE^JANE"),
    ]  # fmt: skip
    load = Maker.load

    def broken(self: Maker, given: dict[str, Any]) -> Any:
        if given["volume_id"].startswith("bad"):
            raise errors[int(given["volume_id"][3:])]
        return load(self, given)

    monkeypatch.setattr(Maker, "load", broken)
    made = phantoms(tmp_path)(row("bad0", "v1", "bad1", "bad2", "v2", "bad3", "bad4"))
    assert made["error"] == ""
    assert list(json.loads(made["note"])["cases"]) == ["v1", "v2"]
    rejects = json.loads(made["rejects"])
    assert [each["reason"] for each in rejects] == ["try_again", *(type(error).__name__ for error in errors[1:])]
    assert all(f"volume bad{i}: cannot be read" in each["message"] for i, each in enumerate(rejects))
    assert "DOE" not in made["rejects"] and "archive" not in made["rejects"]


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))])
def test_want_of_memory_is_no_refusal_and_leaves_no_shard(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Maker, given: dict[str, Any]) -> Any:
        raise error

    monkeypatch.setattr(Maker, "load", broken)
    with pytest.raises(StepError, match=r"^volume v1: no memory was left \(\w+\); take fewer replicas"):
        phantoms(tmp_path)(row("v1", "v2"))
    assert Location.of(tmp_path / "shards").files() == []


def test_a_shard_of_refusals_alone_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Maker, given: dict[str, Any]) -> Any:
        raise ValueError

    monkeypatch.setattr(Maker, "load", broken)
    made = phantoms(tmp_path)(row("v1"))
    assert (made["error"], len(json.loads(made["rejects"]))) == ("", 1)
    assert Location.of(tmp_path / "shards").files() == []


def test_a_full_disk_ends_the_job_with_one_error_and_no_half_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second volume of the second shard does not fit any more; what was finished stays."""
    maker, written = phantoms(tmp_path), []
    add = ShardWriter.add

    def full(self: Any, *given: Any) -> Any:
        written.append(given)
        if len(written) == 4:
            self.sink.write(b"half a volume")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return add(self, *given)

    monkeypatch.setattr(ShardWriter, "add", full)
    assert maker(row("v1", "v2"))["error"] == ""
    made = maker({**row("v3", "v4", "v5"), "name": "two"})
    assert "No space left on device); make room there, then start again" in made["error"]
    assert (made["note"], made["rejects"]) == ("", "[]")
    assert len(written) == 4
    assert Location.of(tmp_path / "shards").files() == ["one.json", "one.shard"]


def test_an_actors_full_disk_is_the_jobs_error(
    local_ray: None, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Local, so that it travels to the worker by value.
    class FullMaker(Maker):
        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            return {"note": "", "rejects": "[]", "error": "no room left"}

    monkeypatch.setattr(preparation, "Maker", FullMaker)
    with pytest.raises(StoreError, match=r"^no room left$"):
        prepare(settings(), archive, tmp_path / "a", shard_bytes=ALONE)
    assert not (tmp_path / "a" / "manifest.parquet").exists()


KILLERS = {2.0: "exits", 3.0: "hangs"}
"""Slice distance of the scan whose reader does so."""


@pytest.fixture
def hostile(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two of nine scans have a reader that ends or keeps its process; the log says how often each was read."""
    for number, distance in ((3, 2.0), (5, 3.0)):
        hu = np.random.default_rng(number).integers(-1024, 900, SHAPE).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(hu, np.diag([0.8, 0.8, distance, 1])), archive / f"s{number}.nii")
    log, killers = tmp_path / "log", dict(KILLERS)

    # Local, so that both travel to the worker by value.
    class Reader:
        def __init__(self, dataset: Dataset) -> None:
            self.dataset = dataset

        def load(self, case: Mapping[str, Any]) -> LoadedVolume:
            loaded = self.dataset.load(case)
            does = killers.get(round(loaded.volume.spacing_zyx_mm[0], 1), "")
            with log.open("a") as file:
                file.write(f"{case['volume_id']} {does}\n")
            if does == "exits":
                os._exit(1)
            if does == "hangs":
                time.sleep(600)
            return loaded

    class HostileMaker(Maker):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            self.dataset = Reader(self.dataset)  # type: ignore[assignment]

    monkeypatch.setattr(preparation, "Maker", HostileMaker)
    return log


def test_a_scan_that_kills_its_reader_or_keeps_it_is_refused_and_the_rest_is_prepared(
    local_ray: None, archive: Path, tmp_path: Path, hostile: Path
) -> None:
    given = settings(max_reject_share=0.3)
    limited = given.compute.model_copy(update={"no_progress_minutes": 0.05})
    store = prepare(given.model_copy(update={"compute": limited}), archive, tmp_path / "a")
    rejects = store.rejects().to_pylist()
    assert [row["reason"] for row in rejects] == ["crash", "crash"]
    assert all("2 workers that had it alone did not come back, dead or stuck" in row["message"] for row in rejects)
    assert len(store.manifest) == 7
    # Each read twice, nobody else's work redone but that of the shard in hand.
    read = [line.split(" ")[1] for line in hostile.read_text().splitlines()]
    assert (read.count("exits"), read.count("hangs")) == (2, 2)
    assert sorted(file.name for file in (tmp_path / "a").iterdir() if file.is_dir()) == ["shards"]
    assert not list((tmp_path / "a" / "shards").glob(".*"))


def test_what_killed_before_a_restart_is_left_out_at_once(
    local_ray: None, archive: Path, tmp_path: Path, hostile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job ends between verdict and tables; once the scan is mended, it is read again."""
    (archive / "s5.nii").unlink()
    given = settings(max_reject_share=0.3)

    def killed(*_: Any) -> Store:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(preparation, "commit_store", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(given, archive, tmp_path / "a", shard_bytes=ALONE)
    assert hostile.read_text().count("exits") == 2
    store = prepare(given, archive, tmp_path / "a", shard_bytes=ALONE)
    assert hostile.read_text().count("exits") == 2
    assert store.rejects()["reason"].to_pylist() == ["crash"]
    add_scan(archive, 3, (16, 12, 9))
    assert len(prepare(given, archive, tmp_path / "a", shard_bytes=ALONE).rejects()) == 0


def test_one_scan_in_two_formats_is_stored_once_and_the_files_that_are_refused_are_told(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dcm2niix's output beside its DICOM, which a table says is completely marked."""
    monkeypatch.setattr(cluster, "start_ray", lambda: None)  # it runs
    folder, refused = tmp_path / "archive", tmp_path / "refused.csv"
    put_series(folder / "s", PixelSpacing=[0.8, 0.8])
    case = discover(folder, ArchiveSettings(), 0, "salt").cases[0]
    hu = read(case, folder)[0].hu_zyx
    affine = np.diag([-0.8, -0.8, 2.5, 1])
    nibabel.save(nibabel.Nifti1Image(hu.transpose(2, 1, 0), affine), folder / "s.nii")
    add_scan(folder, 1)
    (folder / "volumes.csv").write_text("file,complete\ns.nii,1\n")
    (folder / "more.zip").write_bytes(b"PK")
    scans = tmp_path / "scans.csv"
    own = ["--source", str(folder), "--out", str(tmp_path / "store"), "--rejects", str(refused), "--scans", str(scans)]
    cut, good = folder / "cut.nii.gz", gzip.compress((folder / "s1.nii").read_bytes(), mtime=0)
    cut.write_bytes(good[: len(good) // 2].ljust(len(good), b"\0"))  # its header is sound: refused when it is read
    assert main([*own, "--set", "data.max_reject_share=0"]) == 1
    with refused.open() as lines:  # one is too many, and whoever is to mend it is told which
        assert str(cut) in {row["file"] for row in csv.DictReader(lines)}
    cut.unlink()
    assert main([*own, "--set", "data.max_reject_share=1"]) == 0
    store = Store.open(tmp_path / "store")
    assert sorted(store.manifest["split"].to_pylist()) == ["vh", "vm"]
    assert sorted(store.rejects()["reason"].to_pylist()) == ["packed", "same_voxels"]
    with refused.open() as lines:
        rows = {(Path(row["file"]).relative_to(folder).as_posix(), row["reason"]) for row in csv.DictReader(lines)}
    assert rows == {("more.zip", "packed")} | {(f"s/{n:03d}.dcm", "same_voxels") for n in range(10)}
    with scans.open() as lines:
        taken = {row["volume_id"]: Path(row["file"]).name for row in csv.DictReader(lines)}
    assert sorted(taken) == store.manifest["volume_id"].to_pylist()
    assert sorted(taken.values()) == ["s.nii", "s1.nii"]
    # Later on the ids are those of the store.
    assert main([*own, "--dry-run"]) == 0
    with scans.open() as lines:
        assert {row["volume_id"] for row in csv.DictReader(lines)} > taken.keys()
    for name in ("--rejects", "--scans"):
        assert main([*own, name, str(tmp_path / "store" / "x.csv")]) == 2
    # The shard holds what is in no table: it is whole all the same, and nothing is made anew.
    before = shards(store)
    assert main([*own, "--set", "data.max_reject_share=1"]) == 0
    assert shards(Store.open(tmp_path / "store")) == before
