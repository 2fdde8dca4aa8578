"""Somebody's own archive: scans found, tables read, splits by patient, marks turned with their scan."""

import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from harvester.config.data import ArchiveSettings
from harvester.datasets.archive.archive import ArchiveCase, discover, read
from harvester.errors import LabelError, VolumeError
from tests.dicom_files import ct, put, put_series

SHAPE_IJK = (12, 10, 8)
HEADER = "file,z,x1,y1,x2,y2,clinical,kind\n"


def put_nifti(path: Path, sign_xy: int = -1) -> Path:
    """A scan whose brightest voxels are the box i 2..5, j 3..4 of its slice 6; LPS for -1, RAS for 1.

    The rest hangs on its name: no two are alike.
    """
    values = np.random.default_rng(zlib.crc32(path.name.encode())).integers(-99, 99, SHAPE_IJK).astype(np.int16)
    values[2:6, 3:5, 6] = 1000
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([0.8 * sign_xy, 0.8 * sign_xy, 5, 1.0])), path)
    return path


def scanned(root: Path, seed: int = 0, salt: str = "s", **settings: Any) -> list[ArchiveCase]:
    return list(discover(root, ArchiveSettings(**settings), seed, salt).cases)


def of_file(cases: list[ArchiveCase], name: str) -> ArchiveCase:
    return next(case for case in cases if case.files == [name])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put_nifti(tmp_path / "doe_jane.nii.gz")
    put_nifti(tmp_path / "deep" / "er" / "b.nii", sign_xy=1)
    (tmp_path / "marks.csv").write_text(
        HEADER + "doe_jane.nii.gz,6,2,3,5,4,1,node\ndeep/er/b,6,2,3,5,4,0,\n./doe_jane,0,0,0,11,9,,\n"
    )
    return tmp_path


def test_what_is_no_ct_is_refused_in_either_format_until_it_is_asked_for(tmp_path: Path) -> None:
    put_nifti(tmp_path / "ct.nii")
    labels = np.random.default_rng(0).integers(0, 3, SHAPE_IJK)
    nibabel.save(nibabel.Nifti1Image(labels.astype(np.int16), np.diag([0.8, 0.8, 5, 1])), tmp_path / "labels.nii")
    nibabel.save(nibabel.Nifti1Image(labels.astype(np.uint8), np.diag([0.8, 0.8, 5, 1])), tmp_path / "bytes.nii")
    put_series(tmp_path / "offset", uid="1.2.3", RescaleIntercept=0)
    put_series(tmp_path / "series", uid="1.2.4", FrameOfReferenceUID="1.2.12")
    found = discover(tmp_path, ArchiveSettings(), 0, "s")
    assert [(row.reason, "uint8 with intercept 0" in row.message) for row in found.rejects] == [("not_hu", True)]
    cases = {case.files[0].split("/")[0]: case for case in found.cases}
    assert [len(read(cases[name], tmp_path)[0].hu_zyx) for name in ("ct.nii", "series")] == [8, 10]
    for name, reason in (("labels.nii", "label_map"), ("offset", "not_hu")):
        with pytest.raises(VolumeError, match=f"^volume {cases[name].volume_id}: ") as caught:
            read(cases[name], tmp_path)
        assert caught.value.reason == reason
    every = ArchiveSettings(any_values=True)
    taken = [read(case, tmp_path, every)[0] for case in discover(tmp_path, every, 0, "s").cases]
    assert sorted(len(volume.hu_zyx) for volume in taken) == [8, 8, 8, 10, 10]


def test_an_empty_folder_has_no_scans(tmp_path: Path) -> None:
    assert scanned(tmp_path) == []


def test_scans_are_found_at_any_depth_and_masks_left_out(root: Path) -> None:
    put_nifti(root / "doe_jane.mask.nii.gz")
    (root / "readme.txt").write_text("hello")
    cases = scanned(root, marks="csv")
    assert sorted(case.files for case in cases) == [["deep/er/b.nii"], ["doe_jane.nii.gz"]]
    assert {case.split for case in cases} == {"vh"}
    assert scanned(root, format="dicom") == []


def test_ids_hang_on_the_salt_and_tell_nothing(root: Path) -> None:
    cases = scanned(root)
    assert cases == scanned(root)
    others = scanned(root, salt="t")
    ids = {name for case in cases + others for name in (case.volume_id, case.patient_id)}
    assert len(ids) == 8
    assert not any("jane" in name for name in ids)


@pytest.mark.parametrize("name", ["doe_jane.nii.gz", "deep/er/b.nii"])
def test_marks_are_turned_with_their_scan(root: Path, name: str) -> None:
    case = of_file(scanned(root), name)
    volume, marks = read(ArchiveCase(**asdict(case)), root)
    mark = marks[0]
    bright = np.argwhere(volume.hu_zyx > 500)
    (z1, y1, x1), (z2, y2, x2) = bright.min(0), bright.max(0)
    assert (z1, z2) == (mark.z, mark.z)
    assert (x1, y1, x2, y2) == (mark.x1, mark.y1, mark.x2, mark.y2)
    assert (mark.clinical, mark.kind) == ((True, "node") if "jane" in name else (False, ""))
    assert len(marks) == (2 if "jane" in name else 1)
    assert len({each.mark_id for each in marks}) == len(marks)


@pytest.mark.parametrize("box", ["8,2,3,5,4", "-1,2,3,5,4", "6,5,3,2,4", "6,2,3,12,4", "6,2,-1,5,4"])
def test_a_mark_outside_its_scan_refuses_the_scan(root: Path, box: str) -> None:
    (root / "marks.csv").write_text(f"{HEADER}doe_jane,{box},1,\n")
    with pytest.raises(VolumeError, match=r"marks.csv line 2") as caught:
        read(of_file(scanned(root), "doe_jane.nii.gz"), root)
    assert caught.value.reason == "bad_mark"
    assert "jane" not in str(caught.value)


def test_complete_patients_are_vm_and_all_others_vh(root: Path) -> None:
    for name in ("c1", "c2", "d"):
        put_nifti(root / f"{name}.nii.gz")
    (root / "volumes.csv").write_text("file,patient,complete\ndoe_jane,j,1\nc1,c,yes\nc2,c,0\nd,d,true\n")
    splits = {case.files[0]: case.split for case in scanned(root)}
    assert splits == {
        "doe_jane.nii.gz": "vm", "d.nii.gz": "vm", "c1.nii.gz": "vh", "c2.nii.gz": "vh", "deep/er/b.nii": "vh"
    }  # fmt: skip
    cases = scanned(root)
    assert of_file(cases, "c1.nii.gz").patient_id == of_file(cases, "c2.nii.gz").patient_id


def test_a_drawn_share_of_the_complete_is_kept_to_measure_on(tmp_path: Path) -> None:
    names = [f"s{i}" for i in range(40)]
    for name in names:
        put_nifti(tmp_path / f"{name}.nii")
    (tmp_path / "volumes.csv").write_text("file,complete\n" + "".join(f"{name},1\n" for name in names))
    drawn = {case.files[0]: case.split for case in scanned(tmp_path, vh_test_share=0.5)}
    assert 8 < sum(split == "vh_test" for split in drawn.values()) < 32
    assert set(drawn.values()) == {"vm", "vh_test"}
    assert drawn != {case.files[0]: case.split for case in scanned(tmp_path, 1, vh_test_share=0.5)}
    put_nifti(tmp_path / "new.nii")
    assert {case.files[0]: case.split for case in scanned(tmp_path, salt="t", vh_test_share=0.5)} == {
        **drawn, "new.nii": "vh"
    }  # fmt: skip


def test_a_named_split_wins(root: Path) -> None:
    (root / "marks.csv").write_text("file,z,x1,y1,x2,y2,split\ndoe_jane,6,2,3,5,4,vh_test\n")
    assert of_file(scanned(root), "doe_jane.nii.gz").split == "vh_test"


BROKEN = {
    "no such scan": ("marks.csv", HEADER + "doe_john,6,2,3,5,4,1,\n", "marks.csv line 2"),
    "no number": ("marks.csv", HEADER + "doe_jane,six,2,3,5,4,1,\n", "marks.csv line 2"),
    "short row": ("marks.csv", HEADER + "doe_jane,6,2\n", "marks.csv line 2"),
    "no column": ("marks.csv", "file,z,x1\ndoe_jane,6,2\n", "y1, x2, y2"),
    "no truth": ("marks.csv", HEADER + "doe_jane,6,2,3,5,4,maybe,\n", "clinical must be 1 or 0"),
    "no split": ("volumes.csv", "file,split\ndoe_jane,train\n", "want one of vm, vh, vh_test, vd_test"),
    "two splits": ("volumes.csv", "file,split\ndoe_jane,vm\ndoe_jane,vh\n", "line 3: an earlier row"),
    "torn patient": (
        "volumes.csv", "file,patient,split\ndoe_jane,p,vm\ndeep/er/b,p,vh\n", "one split per patient"
    ),
    "half a patient": (
        "volumes.csv", "file,patient,split\ndoe_jane,p,vm\ndeep/er/b,p,\n", "not said to be complete"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_tables_are_named_by_line_and_not_by_what_they_say(root: Path, case: str) -> None:
    name, text, message = BROKEN[case]
    (root / name).write_text(text)
    with pytest.raises(LabelError) as caught:
        scanned(root)
    assert message in str(caught.value)
    assert "doe_" not in str(caught.value)


def test_a_table_that_is_no_text_is_an_error(root: Path) -> None:
    (root / "volumes.csv").write_bytes(b"file\n\xff\xfe\n")
    with pytest.raises(LabelError, match=r"volumes.csv: not in UTF-8"):
        scanned(root)


def test_dicom_series_go_by_uid_and_folder(tmp_path: Path) -> None:
    """Two series in one folder, a third scattered over two; MR and junk beside them."""
    for uid, folders in {"1.1": ["a"], "1.2": ["a"], "1.3": ["b", "c"]}.items():
        for n in range(10):
            changes = {"SeriesInstanceUID": uid, "SOPInstanceUID": f"{uid}.{n}", "FrameOfReferenceUID": uid}
            put(tmp_path / folders[n % len(folders)] / f"{uid}.{n}.dcm", ct(n, **changes, PatientID="doe"))
    put(tmp_path / "b" / "mr.dcm", ct(SeriesInstanceUID="1.4", Modality="MR"))
    (tmp_path / "c" / "junk.dcm").write_bytes(b"junk")
    (tmp_path / "volumes.csv").write_text("file,complete\n1.1,1\nb,1\n")
    cases = scanned(tmp_path)
    assert sorted(({name[:5] for name in case.files} for case in cases), key=sorted) == [
        {"a/1.1"}, {"a/1.2"}, {"b/1.3", "c/1.3"}
    ]  # fmt: skip
    assert len({case.patient_id for case in cases}) == 1
    assert {case.split for case in cases} == {"vh"}  # 1.2 is not complete
    assert scanned(tmp_path, format="nifti") == []
    (tmp_path / "volumes.csv").write_text("file,complete\na,1\n")
    with pytest.raises(LabelError, match="names several scans"):
        scanned(tmp_path)


def test_rows_of_marks_csv_count_slices_upwards(tmp_path: Path) -> None:
    put_series(tmp_path / "a")
    (tmp_path / "marks.csv").write_text(f"{HEADER}a,3,1,2,4,5,1,node\n")
    _, marks = read(scanned(tmp_path)[0], tmp_path)
    assert [(mark.z, mark.x1, mark.y1, mark.x2, mark.y2) for mark in marks] == [(3, 1, 2, 4, 5)]
    (tmp_path / "marks.csv").write_text(f"{HEADER}a,10,1,2,4,5,1,node\n")
    with pytest.raises(VolumeError, match=r"marks.csv line 2"):
        read(scanned(tmp_path)[0], tmp_path)


def test_a_dicom_series_marked_in_two_tables_is_refused(tmp_path: Path) -> None:
    put_series(tmp_path / "a")
    (tmp_path / "marks.csv").write_text("file,z,x1,y1,x2,y2\na,0,0,0,1,1\n")
    (tmp_path / "marks.json").write_text(
        '{"images": [{"id": 1, "file_name": "a", "z": 0}], "annotations": [{"image_id": 1, "bbox": [0, 0, 1, 1]}]}'
    )
    (row,) = discover(tmp_path, ArchiveSettings(), 0, "s").rejects
    assert (row.reason, scanned(tmp_path)) == ("two_sources", [])
    assert len(scanned(tmp_path, marks="coco")[0].marks) == 1
    assert scanned(tmp_path, marks="objects")[0].marks == []
