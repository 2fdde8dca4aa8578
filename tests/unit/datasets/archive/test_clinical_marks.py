"""From an archive whose marks cannot say which lesions the clinic had marked to a store that can be harvested."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from harvester.certificate.preconditions import obstacles_of
from harvester.config.data import ArchiveSettings
from harvester.config.loading import resolve
from harvester.datasets.archive.archive import discover, read
from harvester.errors import LabelError
from harvester.records import Split
from harvester.storage.location import Location
from harvester.store.commit import DRAWN, commit_store, volumes_with_drawn_marks
from harvester.store.shard_plan import ShardNote
from harvester.store.store import Store
from tests.builders import write_volume
from tests.dicom_files import ct, put
from tests.dicom_objects import group, report, scoord

VM, VH = ("m0", "m1", "m2"), ("h0", "h1", "h2")
SIDES_PX = (3, 6, 4)
"""Of the three lesions of each complete scan; V_H's clinic marked one of seven pixels."""


def sides_of(name: str) -> Sequence[int]:
    return SIDES_PX if name in VM else (7,)


def box(number: int, side: int) -> tuple[int, int, int, int]:
    x = 2 + 12 * number
    return x, 4, x + side - 1, 4 + side - 1


def put_scan(root: Path, name: str) -> None:
    values = np.random.default_rng(len(list(root.iterdir()))).integers(-99, 99, (40, 20, 8)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, -1, 4, 1])), root / f"{name}.nii.gz")


def with_masks(root: Path) -> None:
    for name in (*VM, *VH):
        put_scan(root, name)
        labels = np.zeros((40, 20, 8), np.uint8)
        for number, side in enumerate(sides_of(name)):
            x1, y1, x2, y2 = box(number, side)
            labels[x1 : x2 + 1, y1 : y2 + 1, 3:6] = 1
        nibabel.save(nibabel.Nifti1Image(labels, np.diag([-1.0, -1, 4, 1])), root / f"{name}.mask.nii.gz")


def with_csv(root: Path) -> None:
    rows = ["file,z,x1,y1,x2,y2"]
    for name in (*VM, *VH):
        put_scan(root, name)
        rows += [f"{name},4,{','.join(map(str, box(*lesion)))}" for lesion in enumerate(sides_of(name))]
    (root / "marks.csv").write_text("\n".join(rows) + "\n")


def with_reports(root: Path) -> None:
    for place, name in enumerate((*VM, *VH)):
        uid = f"1.2.{place + 1}"
        stored = np.random.default_rng(place).integers(900, 1100, (20, 40)).astype(np.int16)
        for n in range(8):
            own = {"SeriesInstanceUID": uid, "SOPInstanceUID": f"{uid}.{n}", "StudyInstanceUID": f"1.3.{place + 1}"}
            put(root / name / f"{n}.dcm", ct(2.5 * n, stored + n, PatientID=name, **own))
        groups = []
        for number, side in enumerate(sides_of(name)):
            x1, y1, x2, y2 = box(number, side)
            points = [x1, y1, x2 + 1, y1, x2 + 1, y2 + 1, x1, y2 + 1, x1, y1]
            groups.append(group(scoord(f"{uid}.4", "POLYLINE", points), tracking=f"1.9.{place}.{number}"))
        put(root / name / "sr.dcm", report(*groups, uid=uid, SOPInstanceUID=f"1.6.{place + 1}"))


def made(root: Path, store: Path, **settings: Any) -> Store:
    """The store of an archive, as harvester prepare makes it, without Ray."""
    (root / "volumes.csv").write_text("file,complete\n" + "".join(f"{name},1\n" for name in VM))
    own = ArchiveSettings(**settings)
    found = discover(root, own, 0, "salt")
    assert not [row for row in found.rejects if row.reason != "not_dicom"]
    note = ShardNote("s", {}, [], [], [])
    for case in found.cases:
        volume, marks = read(case, root, own)
        note.manifest.append(write_volume(store, volume, Split(case.split), case.volume_id))
        note.marks.extend(map(asdict, marks))
    return commit_store(Location.of(store), [note], [], {DRAWN: str(len(found.unflagged))}, found.unflagged)


@pytest.mark.parametrize("put_archive", [with_masks, with_csv, with_reports])
def test_the_mining_set_rehearses_on_what_the_clinic_would_not_have_marked(tmp_path: Path, put_archive: Any) -> None:
    root = tmp_path / "archive"
    root.mkdir()
    put_archive(root)
    store = made(root, tmp_path / "store")
    splits = {row["volume_id"]: row["split"] for row in store.manifest.to_pylist()}
    told = [
        (row["clinical"], round(row["x2"] - row["x1"] + 1))
        for row in store.marks().to_pylist()
        if splits[row["volume_id"]] == "vm"
    ]
    assert sorted(told) == [(False, 3)] * 3 + [(False, 4)] * 3 + [(True, 6)] * 3
    assert volumes_with_drawn_marks(store.path) == 3
    (few,) = obstacles_of(store, resolve())  # and nothing else
    assert not few.refuses and "3 patients, and fewer than 13 prove nothing" in few.text
    as_given = made(root, tmp_path / "given", clinical_marks="given")
    (fault,) = (each for each in obstacles_of(as_given, resolve()) if each.refuses)
    assert fault.refuses and fault.text.startswith("all 9 marks of V_M are clinical")


def test_what_a_table_says_is_taken_and_drawn_only_if_asked_for(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    root.mkdir()
    with_csv(root)
    head, *rows = (root / "marks.csv").read_text().splitlines()
    flags = [f"{row},{int(not row.startswith('m') or number % 3 == 0)}" for number, row in enumerate(rows)]
    (root / "marks.csv").write_text("\n".join([f"{head},clinical", *flags]) + "\n")
    assert not discover(root, ArchiveSettings(), 0, "s").unflagged
    store = made(root, tmp_path / "store")
    assert (
        sorted(row["x2"] - row["x1"] + 1 for row in store.marks().to_pylist() if row["clinical"]) == [3] * 3 + [7] * 3
    )
    drawn = made(root, tmp_path / "drawn", clinical_marks="largest")
    assert (
        sorted(row["x2"] - row["x1"] + 1 for row in drawn.marks().to_pylist() if row["clinical"]) == [6] * 3 + [7] * 3
    )


def test_lesions_of_partly_marked_scans_that_are_not_clinical_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put_scan(tmp_path, "h0")
    (tmp_path / "marks.csv").write_text("file,z,x1,y1,x2,y2,clinical\nh0,4,1,1,5,5,0\nh0,4,9,1,12,5,1\n")
    discover(tmp_path, ArchiveSettings(), 0, "s")
    assert "1 marks with clinical = 0 are left out" in caplog.text


def test_a_healthy_scan_switches_no_flags_off(tmp_path: Path) -> None:
    with_csv(tmp_path)
    table = (tmp_path / "marks.csv").read_text().splitlines()
    flagged = [table[0] + ",clinical", *(f"{row},{at % 2}" for at, row in enumerate(table[1:]))]
    (tmp_path / "marks.csv").write_text("\n".join(flagged) + "\n")
    put_scan(tmp_path, "healthy")
    rows = ["file,complete", *(f"{name}.nii.gz,1" for name in (*VM, "healthy"))]
    (tmp_path / "volumes.csv").write_text("\n".join(rows) + "\n")
    assert discover(tmp_path, ArchiveSettings(), 0, "salt").unflagged == frozenset()
    (tmp_path / "marks.csv").write_text("\n".join(table) + "\n")
    assert len(discover(tmp_path, ArchiveSettings(), 0, "salt").unflagged) > 1


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a,4,8,5,8,5,12,5,12,5", "marks.csv line 2: not as many fields as columns"),
        ("a,4,8,5,8", "marks.csv line 2: not as many fields as columns"),
        ("a,4,nan,5,8,9", "marks.csv line 2: x1, y1, x2, y2 must be finite"),
        ("a,1,1,5,1e400,9", "marks.csv line 2: x1, y1, x2, y2 must be finite"),
    ],
)
def test_a_row_that_would_shift_or_is_no_box_is_refused(tmp_path: Path, row: str, said: str) -> None:
    put_scan(tmp_path, "a")
    (tmp_path / "marks.csv").write_text(f"file,z,x1,y1,x2,y2\n{row}\n")
    with pytest.raises(LabelError, match=said):
        discover(tmp_path, ArchiveSettings(), 0, "salt")
    (tmp_path / "marks.csv").write_text("file,z,x1,y1,x2,y2\na,4,1,5,8,9,,\n")
    assert len(discover(tmp_path, ArchiveSettings(), 0, "salt").cases) == 1
