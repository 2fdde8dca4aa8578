"""One series one scan: passes and phases are parted, rounding parts nothing, and slices keep their numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harvester.config.data import ArchiveSettings
from harvester.datasets.archive.archive import discover, read
from harvester.datasets.discovery import Discovery
from harvester.errors import LabelError, VolumeError
from tests.dicom_files import PLANE, ct, put, put_series

SETTINGS = ArchiveSettings()
HEADER = "file,z,x1,y1,x2,y2\n"


def found(root: Path, **settings: Any) -> Discovery:
    return discover(root, SETTINGS.model_copy(update=settings), 0, "salt")


def slices(
    folder: Path, count: int = 10, gap_mm: float = 2.5, first: int = 0, at_mm: float = 0.0, **changes: Any
) -> None:
    """Slices of one series with values of their own, numbered from `first` on."""
    for n in range(count):
        own = {name: value(n) if callable(value) else value for name, value in changes.items()}
        item = ct(at_mm + gap_mm * n, PLANE + first + n, **{"SOPInstanceUID": f"1.2.3.{first + n}", **own})
        put(folder / f"{first + n:03d}.dcm", item)


def volumes(root: Path) -> dict[int, tuple[int, float]]:
    """By the value of its first voxel: how many slices a scan has, and how far apart."""
    made = [read(case, root)[0] for case in found(root).cases]
    return {int(volume.hu_zyx[0, 1, 1]): (len(volume.hu_zyx), round(volume.spacing_zyx_mm[0], 3)) for volume in made}


BASE = int(PLANE[1, 1]) - 1024


def test_passes_between_each_other_are_two_scans(tmp_path: Path) -> None:
    slices(tmp_path / "s", gap_mm=5, AcquisitionNumber=1)
    slices(tmp_path / "s", gap_mm=5, first=100, at_mm=2.5, AcquisitionNumber=2)
    assert volumes(tmp_path) == {BASE: (10, 5.0), BASE + 100: (10, 5.0)}
    assert found(tmp_path).rejects == []


@pytest.mark.parametrize(
    "told",
    [
        ({"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}),
        (
            {"AcquisitionNumber": 1, "AcquisitionTime": "101500"},
            {"AcquisitionNumber": 1, "AcquisitionTime": "101530.5"},
        ),
        (
            {"AcquisitionNumber": 1, "TemporalPositionIdentifier": 1},
            {"AcquisitionNumber": 1, "TemporalPositionIdentifier": 2},
        ),
        # Every slice with a number or time of its own, as spiral scanners write them.
        ({"AcquisitionNumber": lambda n: n + 1}, {"AcquisitionNumber": lambda n: n + 11}),
        ({"AcquisitionTime": lambda n: f"1015{n:02d}"}, {"AcquisitionTime": lambda n: f"1016{n:02d}"}),
    ],
)
def test_phases_in_one_series_are_scans_of_their_own(tmp_path: Path, told: tuple[dict[str, Any], ...]) -> None:
    for number, changes in enumerate(told):
        slices(tmp_path / "s", first=100 * number, **changes)
    assert volumes(tmp_path) == {BASE: (10, 2.5), BASE + 100: (10, 2.5)}


@pytest.mark.parametrize(
    "changes",
    [{"AcquisitionNumber": lambda n: n}, {"AcquisitionNumber": lambda n: n // 5}, {"AcquisitionTime": "101500"}],
)
def test_steps_of_one_pass_stay_together(tmp_path: Path, changes: dict[str, Any]) -> None:
    slices(tmp_path / "s", **changes)
    assert volumes(tmp_path) == {BASE: (10, 2.5)}


def test_two_slices_at_one_place_that_nothing_tells_apart_are_refused(tmp_path: Path) -> None:
    slices(tmp_path / "s")
    slices(tmp_path / "s", first=100)
    (row,) = found(tmp_path).rejects
    assert row.reason == "duplicate_slices"
    assert "the slice at (-10.0, -20.0, 0.0) mm" in row.message


def test_series_of_two_patients_or_frames_under_one_uid_are_two(tmp_path: Path) -> None:
    slices(tmp_path / "a", PatientID="one")
    slices(tmp_path / "b", first=100, PatientID="two")
    cases = found(tmp_path).cases
    assert len({case.patient_id for case in cases}) == 2
    assert all(len(case.files) == 10 for case in cases)
    (tmp_path / "marks.csv").write_text(f"{HEADER}b,3,1,2,4,5\n")
    assert [len(case.marks) for case in found(tmp_path).cases if case.files[0].startswith("b")] == [1]
    (tmp_path / "marks.csv").write_text(f"{HEADER}1.2.3,3,1,2,4,5\n")
    with pytest.raises(LabelError, match="names several scans"):
        found(tmp_path)


def test_phases_that_all_have_number_1_are_both_taken_and_reconstructions_of_one_are_not(tmp_path: Path) -> None:
    for uid, kernel, time in (("1.1", "B30f", "101500"), ("1.2", "B30f", "101530"), ("1.3", "B60f", "101500")):
        changes = {"AcquisitionNumber": 1, "AcquisitionTime": time, "ConvolutionKernel": kernel}
        put_series(tmp_path / uid, uid=uid, **changes)
    result = found(tmp_path)
    assert sorted(case.files[0][:3] for case in result.cases) == ["1.1", "1.2"]
    assert [row.reason for row in result.rejects] == ["other_reconstruction"]


def test_rounded_directions_part_no_stack(tmp_path: Path) -> None:
    def turned(n: int) -> list[float]:
        return [1, (0.00499, 0.00501)[n % 2], 0, -(0.00499, 0.00501)[n % 2], 1, 0]

    slices(tmp_path / "s", 24, ImageOrientationPatient=turned)
    assert volumes(tmp_path) == {BASE: (24, 2.5)}
    assert found(tmp_path).rejects == []


def test_marks_count_the_files_of_a_series_whatever_is_left_out(tmp_path: Path) -> None:
    slices(tmp_path / "s")
    odd = ct(6.0, PLANE[:3], SOPInstanceUID="1.9")  # between the third slice and the fourth
    put(tmp_path / "s" / "odd.dcm", odd)
    (tmp_path / "marks.csv").write_text(f"{HEADER}s,2,1,2,4,5\ns,4,2,2,4,5\n")
    result = found(tmp_path)
    assert [row.reason for row in result.rejects] == ["odd_slices"]
    _, marks = read(result.cases[0], tmp_path)
    assert [(mark.z, mark.x1) for mark in marks] == [(2, 1), (3, 2)]
    (tmp_path / "marks.csv").write_text(f"{HEADER}s,3,1,2,4,5\n")
    with pytest.raises(VolumeError, match="on a slice that is left out"):
        read(found(tmp_path).cases[0], tmp_path)


@pytest.mark.parametrize("name", ["s/004.dcm", "1.2.3.4", "./s/004.dcm"])
@pytest.mark.parametrize("z", ["", "4", "4.0"])
def test_a_mark_may_name_its_slice(tmp_path: Path, name: str, z: str) -> None:
    slices(tmp_path / "s")
    (tmp_path / "marks.csv").write_text(f"{HEADER}{name},{z},1,2,4,5\n")
    _, marks = read(found(tmp_path).cases[0], tmp_path)
    assert [(mark.z, mark.x1, mark.y1, mark.x2, mark.y2) for mark in marks] == [(4, 1, 2, 4, 5)]


def test_a_slice_and_another_number_contradict_each_other(tmp_path: Path) -> None:
    slices(tmp_path / "s")
    (tmp_path / "marks.csv").write_text(f"{HEADER}s/004.dcm,5,1,2,4,5\n")
    with pytest.raises(LabelError, match="`file` names slice 4, but z is another one"):
        found(tmp_path)
    (tmp_path / "marks.csv").write_text(f"{HEADER}s,,1,2,4,5\n")
    with pytest.raises(LabelError, match="z must be a whole number"):
        found(tmp_path)


def test_a_slice_of_a_phase_names_that_phase(tmp_path: Path) -> None:
    slices(tmp_path / "s", AcquisitionNumber=1)
    slices(tmp_path / "s", first=100, AcquisitionNumber=2)
    (tmp_path / "marks.csv").write_text(f"{HEADER}s/103.dcm,,1,2,4,5\n")
    marked = [case for case in found(tmp_path).cases if case.marks]
    assert [(case.files[0], case.marks[0]["z"]) for case in marked] == [("s/100.dcm", 3)]


@pytest.mark.parametrize("meta", [True, False])
def test_files_without_preamble_are_read(tmp_path: Path, meta: bool) -> None:
    slices(tmp_path / "s")
    volume = read(found(tmp_path).cases[0], tmp_path)[0]
    for file in (tmp_path / "s").iterdir():
        content = file.read_bytes()[132:]
        if not meta:
            content = content[12 + int.from_bytes(content[8:12], "little") :]
        file.with_suffix("").write_bytes(content)
        file.unlink()
    result = found(tmp_path)
    assert result.rejects == []
    np.testing.assert_array_equal(read(result.cases[0], tmp_path)[0].hu_zyx, volume.hu_zyx)


@pytest.mark.parametrize("content", [b"", b"\x08\x00", b"\x08\x00\x05\x00 some text that is none", b"PK\x03\x04" * 10])
def test_what_is_no_data_set_is_not_taken_for_one(tmp_path: Path, content: bytes) -> None:
    slices(tmp_path / "s")
    (tmp_path / "s" / "other").write_bytes(content)
    assert [row.reason for row in found(tmp_path).rejects] == ["not_dicom"]


def test_what_macos_puts_beside_files_is_nothing(tmp_path: Path) -> None:
    slices(tmp_path / "s")
    for name in ("s/._000.dcm", "s/.DS_Store", "__MACOSX/s/000.dcm"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"Mac OS X")
    assert found(tmp_path).rejects == []


def test_files_that_may_hold_scans_or_marks_say_what_to_do(tmp_path: Path) -> None:
    slices(tmp_path / "s")
    for name in ("a.zip", "b.dcm.gz", "c.mhd", "c.raw", "d.nrrd", "labels.json", "e.xml", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    rows = {row.reason: row.message for row in found(tmp_path).rejects}
    assert sorted(rows) == ["not_dicom", "other_format", "packed", "tables_not_read"]
    assert rows["packed"].startswith("2 files: packed files; unpack")
    assert rows["other_format"].startswith("3 files") and "convert them to NIfTI" in rows["other_format"]
    assert rows["tables_not_read"].startswith("2 files") and rows["not_dicom"].startswith("1 files")


def test_positions_that_do_not_move_are_no_geometry(tmp_path: Path) -> None:
    slices(tmp_path / "s", ImagePositionPatient=[0, 0, 0], SliceLocation=lambda n: 2.5 * n)
    (row,) = found(tmp_path).rejects
    assert row.reason == "no_geometry"
    assert "ImagePositionPatient is the same in all slices" in row.message


@pytest.mark.parametrize(("others", "warned"), [(0, True), (3, True), (4, False)])
def test_one_patient_of_a_whole_archive_is_warned_of(
    tmp_path: Path, others: int, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    for n in range(4 + others):
        patient = "ANONYMOUS" if n < 4 else f"p{n}"
        put_series(tmp_path / f"{n}", uid=f"1.{n}", StudyInstanceUID=f"9.{n}", PatientID=patient)
    assert len(found(tmp_path).cases) == 4 + others
    assert (f"4 of {4 + others} scans have one PatientID" in caplog.text) == warned
