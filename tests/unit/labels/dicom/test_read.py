"""Marks of DICOM objects beside a series: SR, SEG and RTSTRUCT, through the whole way of an archive."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from harvester.config.data import ArchiveSettings, DicomSettings
from harvester.datasets.archive.archive import discover, read
from harvester.errors import VolumeError
from harvester.imaging.dicom import mark_objects
from harvester.labels.dicom import seg
from harvester.records import Mark
from tests.dicom_files import ct, put
from tests.dicom_objects import group, measured, observer, put_segmentation, report, scoord, scoord3d, structures

SIDE = 40
COLUMN_MM, ROW_MM, GAP_MM = 0.9, 0.7, 2.5
ORIGIN = np.array([-10.0, -20.0, 0.0])


def put_ct(folder: Path, names: Sequence[str], uid: str = "1.2.3", **changes: Any) -> None:
    """A series of slices of 40 x 40, named so from the lowest on, slice n as SOPInstanceUID uid.n."""
    for n, name in enumerate(names):
        plane = np.full((SIDE, SIDE), 1000 + n)
        plane[0] = 24  # air
        put(folder / name, ct(GAP_MM * n, plane, SeriesInstanceUID=uid, SOPInstanceUID=f"{uid}.{n}", **changes))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A series of 12 slices of 40 x 40 in the folder ct, slice n as SOPInstanceUID 1.2.3.n, named downwards."""
    put_ct(tmp_path / "ct", [f"{20 - n:02d}.dcm" for n in range(12)])
    return tmp_path


def marks_of(root: Path, passed: str = "", **settings: Any) -> list[Mark]:
    """passed: how the row begins that tells what gives no mark."""
    own = ArchiveSettings(dicom=DicomSettings(**settings))
    found = discover(root, own, 0, "salt")
    (case,) = found.cases
    assert [row.reason for row in found.rejects] == ["marks_passed_over"] * bool(passed)
    assert all(row.message.startswith(f"{passed}: parts") for row in found.rejects)
    return read(case, root, own)[1]


def boxes_of(root: Path, passed: str = "", **settings: Any) -> list[tuple[float, ...]]:
    return [(m.z, m.x1, m.y1, m.x2, m.y2) for m in marks_of(root, passed, **settings)]


def refused(root: Path) -> str:
    with pytest.raises(VolumeError) as caught:
        marks_of(root)
    assert caught.value.reason == "bad_mark"
    assert "Jane" not in str(caught.value)
    return str(caught.value)


def rectangle(x1: int, y1: int, x2: int, y2: int) -> list[float]:
    """The outline of an inclusive pixel box in image-relative coordinates."""
    return [x1, y1, x2 + 1, y1, x2 + 1, y2 + 1, x1, y2 + 1, x1, y1]


def in_mm(n: int, outline: list[float]) -> list[float]:
    """Image-relative coordinates on slice n as points in mm: the first pixel's centre is the origin."""
    points = np.array(outline).reshape(-1, 2) - 0.5
    mm = ORIGIN + np.stack([points[:, 0] * COLUMN_MM, points[:, 1] * ROW_MM, np.full(len(points), GAP_MM * n)], 1)
    return [float(value) for value in mm.ravel()]


def test_a_planar_region_is_the_box_round_it(root: Path) -> None:
    put(root / "sr.dcm", report(group(scoord("1.2.3.4", "POLYLINE", rectangle(5, 6, 14, 12)), site="39607008")))
    (mark,) = marks_of(root)
    assert (mark.z, mark.x1, mark.y1, mark.x2, mark.y2) == (4, 5, 6, 14, 12)
    assert (mark.clinical, mark.kind) == (True, "lung")


def test_a_region_in_mm_is_the_same_box(root: Path) -> None:
    put(root / "sr.dcm", report(group(scoord3d("POLYGON", in_mm(4, rectangle(5, 6, 14, 12))))))
    np.testing.assert_allclose(boxes_of(root), [(4, 5, 6, 14, 12)], atol=1e-4)


def test_of_several_slices_the_largest_region_is_the_key(root: Path) -> None:
    regions = [scoord(f"1.2.3.{n}", "POLYLINE", rectangle(10, 10, 10 + n, 15)) for n in (3, 7, 5)]
    put(root / "sr.dcm", report(group(*regions)))
    assert boxes_of(root) == [(7, 10, 10, 17, 15)]


def test_recist_lines_are_padded_as_deeplesions_boxes(root: Path) -> None:
    long, short = [10, 12, 20, 12], [15, 9, 15, 16]
    put(
        root / "sr.dcm",
        report(group(measured(scoord("1.2.3.4", "POLYLINE", long)), measured(scoord("1.2.3.4", "POLYLINE", short)))),
    )
    assert boxes_of(root) == [(4, 5, 4, 24, 20)]


def test_one_line_is_the_diameter_of_a_circle(root: Path) -> None:
    put(root / "sr.dcm", report(measured(scoord("1.2.3.4", "POLYLINE", [10, 12, 20, 12]))))
    assert boxes_of(root) == [(4, 10, 7, 19, 16)]


@pytest.mark.parametrize(
    ("graphic", "points"), [("CIRCLE", [15, 12, 20, 12]), ("ELLIPSE", [10, 12, 20, 12, 15, 7, 15, 17])]
)
def test_circles_and_ellipses_have_their_boxes(root: Path, graphic: str, points: list[float]) -> None:
    put(root / "sr.dcm", report(group(scoord("1.2.3.4", graphic, points))))
    assert boxes_of(root) == [(4, 10, 7, 19, 16)]


def test_points_and_other_series_give_no_mark(root: Path) -> None:
    put(
        root / "sr.dcm",
        report(
            group(scoord("1.2.3.4", "POINT", [3, 3])),
            group(scoord("7.7.7", "POLYLINE", rectangle(5, 6, 14, 12))),
            group(scoord3d("POLYGON", in_mm(4, rectangle(5, 6, 14, 12)), frame="7.7")),
        ),
    )
    assert boxes_of(root, "1 in another frame of reference, 1 on other series, 1 without a region") == []


def test_a_machines_report_is_no_clinics_mark_unless_wanted(root: Path) -> None:
    region = group(scoord("1.2.3.4", "POLYLINE", rectangle(5, 6, 14, 12)))
    put(root / "sr.dcm", report(observer("121007"), region, VerificationFlag="UNVERIFIED"))
    assert boxes_of(root, "1 made by a program") == []
    assert len(boxes_of(root, machine_marks=True)) == 1
    put(root / "sr.dcm", report(observer("121007"), region, VerificationFlag="VERIFIED"))
    assert len(boxes_of(root)) == 1
    put(root / "sr.dcm", report(observer("121006"), observer("121007"), region))
    assert len(boxes_of(root)) == 1


def blob(z: slice, y: slice, x: slice) -> Any:
    """A boolean block over the series, files' order: named downwards, so the first file is the highest slice."""
    mask = np.zeros((12, SIDE, SIDE), bool)
    mask[z, y, x] = True
    return mask[::-1]


def test_a_segment_is_a_box_on_its_largest_slice(root: Path) -> None:
    mask = blob(np.s_[3:6], np.s_[10:14], np.s_[20:25]) | blob(np.s_[4:5], np.s_[9:16], np.s_[20:27])
    other = blob(np.s_[8:9], np.s_[30:33], np.s_[2:9])
    put_segmentation(root / "seg.dcm", root / "ct", [mask, other])
    marks = marks_of(root)
    boxes = [(mark.z, mark.x1, mark.y1, mark.x2, mark.y2) for mark in marks]
    assert boxes == [(4, 20, 9, 26, 15), (8, 2, 30, 8, 32)]
    assert {mark.kind for mark in marks} == {"lung"}
    assert len({mark.mark_id for mark in marks}) == 2


def test_parts_of_a_segment_are_lesions_of_their_own(root: Path) -> None:
    mask = blob(np.s_[3:6], np.s_[10:14], np.s_[20:25]) | blob(np.s_[3:6], np.s_[30:34], np.s_[20:25])
    put_segmentation(root / "seg.dcm", root / "ct", [mask])
    assert boxes_of(root) == [(3, 20, 10, 24, 13), (3, 20, 30, 24, 33)]


@pytest.mark.parametrize("kind", ["FRACTIONAL", "LABELMAP"])
def test_other_types_of_segmentation_are_read(root: Path, kind: str) -> None:
    mask = blob(np.s_[4:5], np.s_[9:16], np.s_[20:27])
    put_segmentation(root / "seg.dcm", root / "ct", [mask], kind=kind)
    assert boxes_of(root) == [(4, 20, 9, 26, 15)]


@pytest.mark.parametrize(("limit", "value"), [("MOST_PARTS", 1), ("MOST_MASK_BYTES", 2 * SIDE * SIDE - 1)])
def test_a_segmentation_that_becomes_more_than_memory_is_given_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    mask = blob(np.s_[4:6], np.s_[9:16], np.s_[20:27]) | blob(np.s_[4:5], np.s_[1:3], np.s_[2:4])
    put_segmentation(root / "seg.dcm", root / "ct", [mask])
    assert len(boxes_of(root)) == 2
    monkeypatch.setattr(seg, limit, value)
    refused(root)


def test_organs_and_automatic_segments_are_no_marks(root: Path) -> None:
    mask = blob(np.s_[4:5], np.s_[9:16], np.s_[20:27])
    put_segmentation(root / "seg.dcm", root / "ct", [mask], organ=True)
    assert boxes_of(root) == []
    put_segmentation(root / "seg.dcm", root / "ct", [mask], by="AUTOMATIC")
    assert boxes_of(root, "1 made by a program") == []
    assert len(boxes_of(root, machine_marks=True)) == 1


def test_gross_tumour_volumes_are_marks_and_organs_are_not(root: Path) -> None:
    put(
        root / "rt.dcm",
        structures(
            {
                "Jane's big one": ("GTV", [in_mm(n, rectangle(10, 10, 12 + n, 20)) for n in (4, 5, 6)]),
                "gtv_2": ("", [in_mm(n, rectangle(30, 10, 35, 15)) for n in (8, 10)]),
                "Heart": ("ORGAN", [in_mm(3, rectangle(0, 0, 30, 30))]),
                "Lung": ("", [in_mm(3, rectangle(0, 0, 30, 30))]),
            }
        ),
    )
    np.testing.assert_allclose(
        boxes_of(root), [(6, 10, 10, 18, 20), (8, 30, 10, 35, 15), (10, 30, 10, 35, 15)], atol=2e-3
    )


def test_a_lesion_in_two_objects_counts_once(root: Path) -> None:
    mask = blob(np.s_[3:6], np.s_[10:14], np.s_[20:25])
    put_segmentation(root / "seg.dcm", root / "ct", [mask])
    same = scoord("1.2.3.5", "POLYLINE", rectangle(20, 10, 24, 14))
    far = scoord("1.2.3.9", "POLYLINE", rectangle(1, 1, 4, 4))
    tracked = scoord("1.2.3.1", "POLYLINE", rectangle(30, 30, 34, 34))
    put(root / "sr.dcm", report(group(same), group(far), group(tracked, tracking="1.99.1")))
    assert boxes_of(root) == [(3, 20, 10, 24, 13), (9, 1, 1, 4, 4)]


def test_kinds_of_objects_are_a_setting(root: Path) -> None:
    put(root / "sr.dcm", report(group(scoord("1.2.3.4", "POLYLINE", rectangle(5, 6, 14, 12)))))
    found = discover(root, ArchiveSettings(dicom=DicomSettings(marks=("seg",))), 0, "salt")
    assert [row.reason for row in found.rejects] == ["no_image"]
    assert read(found.cases[0], root)[1] == []


def test_marks_of_tables_and_objects_together_are_refused(root: Path) -> None:
    put(root / "sr.dcm", report(group(scoord("1.2.3.4", "POLYLINE", rectangle(5, 6, 14, 12)))))
    (root / "marks.csv").write_text("file,z,x1,y1,x2,y2\nct,4,5,6,14,12\n")
    with pytest.raises(VolumeError, match="both in") as caught:
        marks_of(root)
    assert caught.value.reason == "two_sources"


def test_an_object_of_no_series_is_a_row(root: Path) -> None:
    put(root / "sr.dcm", report(group(), uid="7.7"))
    found = discover(root, ArchiveSettings(), 0, "salt")
    assert [row.reason for row in found.rejects] == ["no_series"]


@pytest.mark.parametrize(
    ("graphic", "points"),
    [
        ("POLYLINE", rectangle(100, 6, 120, 12)),
        ("POLYLINE", [float("nan")] * 6),
        ("POLYLINE", [1.0, 2.0, 3.0]),
        ("CIRCLE", [1.0, 2.0]),
    ],
    ids=["outside", "no numbers", "odd", "half a circle"],
)
def test_a_broken_mark_refuses_the_scan(root: Path, graphic: str, points: list[float]) -> None:
    put(root / "sr.dcm", report(group(scoord("1.2.3.4", graphic, points))))
    refused(root)


def test_marks_above_and_below_the_slices_are_refused(root: Path) -> None:
    put(root / "sr.dcm", report(group(scoord3d("POLYGON", in_mm(20, rectangle(5, 6, 14, 12))))))
    assert "outside the slices" in refused(root)


def test_objects_cut_short_refuse_the_scan(root: Path) -> None:
    mask = blob(np.s_[3:6], np.s_[10:14], np.s_[20:25])
    file = put_segmentation(root / "seg.dcm", root / "ct", [mask])
    file.write_bytes(file.read_bytes()[:-400])
    refused(root)
    item = structures({"GTV": ("GTV", [in_mm(4, rectangle(5, 6, 14, 12))])})
    item.ROIContourSequence[0].ContourSequence[0].ContourData = ["1", "2"]
    put(file, item)
    refused(root)


def test_marks_in_a_tilted_series_move_with_their_slices(tmp_path: Path) -> None:
    for n in range(12):
        plane = np.full((SIDE, SIDE), 1000)
        plane[10:15, 20:27] = 2000 if n == 6 else 1000
        place = [-10, -20 + 2 * ROW_MM * n, GAP_MM * 4 * n]
        slices = ct(0, plane, SOPInstanceUID=f"1.2.3.{n}", ImagePositionPatient=place)
        put(tmp_path / "ct" / f"{n}.dcm", slices)
    put(tmp_path / "sr.dcm", report(group(scoord("1.2.3.6", "POLYLINE", rectangle(20, 10, 26, 14)))))
    found = discover(tmp_path, ArchiveSettings(), 0, "salt")
    volume, (mark,) = read(found.cases[0], tmp_path)
    bright = np.argwhere(volume.hu_zyx == 2000 - 1024)
    np.testing.assert_array_equal(bright.min(0), [mark.z, mark.y1, mark.x1])
    np.testing.assert_array_equal(bright.max(0), [mark.z, mark.y2, mark.x2])


def test_a_marked_series_is_taken_before_other_reconstructions(root: Path) -> None:
    plane = np.full((SIDE, SIDE), 1000)
    plane[0] = 24
    for n in range(24):
        changes = {"SeriesInstanceUID": "1.4", "SOPInstanceUID": f"1.4.{n}", "ConvolutionKernel": "B30f"}
        put(root / "thin" / f"{n}.dcm", ct(GAP_MM / 2 * n, plane, **changes))
    assert len(read(discover(root, ArchiveSettings(), 0, "s").cases[0], root)[0].hu_zyx) == 24
    put(root / "sr.dcm", report(group(scoord("1.2.3.4", "POLYLINE", rectangle(5, 6, 14, 12)))))
    found = discover(root, ArchiveSettings(), 0, "s")
    assert [row.reason for row in found.rejects] == ["other_reconstruction"]
    assert len(read(found.cases[0], root)[1]) == 1
    assert pydicom.dcmread(root / found.cases[0].files[0]).SeriesInstanceUID == "1.2.3"


def test_an_object_without_pixels_may_not_be_as_large_as_one_with(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsed, its items and numbers take many times its room."""
    file = put(root / "rt.dcm", structures({"GTV": ("GTV", [in_mm(4, rectangle(5, 6, 14, 12))])}))
    monkeypatch.setattr(mark_objects, "MOST_REPORT_BYTES", file.stat().st_size)
    assert len(boxes_of(root)) == 1
    monkeypatch.setattr(mark_objects, "MOST_REPORT_BYTES", file.stat().st_size - 1)
    assert "a file of over" in refused(root)
    file.unlink()
    put_segmentation(root / "seg.dcm", root / "ct", [blob(np.s_[4:5], np.s_[9:16], np.s_[20:27])])
    assert len(boxes_of(root)) == 1
