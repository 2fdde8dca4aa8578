"""Enhanced CT, many slices in one file, comes out as the same slices in files of their own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage

from harvester.config.data import ArchiveSettings
from harvester.datasets.archive.archive import discover, read
from harvester.imaging.dicom.reader import read_series_grid
from tests.dicom_files import PLANE, ct, put, put_series
from tests.dicom_objects import content, group, image, report

COUNT, GAP_MM = 10, 2.5


def item_of(**elements: Any) -> Dataset:
    made = Dataset()
    for tag, value in elements.items():
        setattr(made, tag, value)
    return made


def frame(n: int, z_mm: float, acquisition: int = 1) -> Dataset:
    return item_of(
        PlanePositionSequence=[item_of(ImagePositionPatient=[-10, -20, z_mm])],
        PixelValueTransformationSequence=[item_of(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")],
        FrameContentSequence=[item_of(FrameAcquisitionNumber=acquisition, FrameAcquisitionDateTime="20200101101500.5")],
    )


def enhanced(frames: list[Dataset], planes: list[Any], **changes: Any) -> Dataset:
    """One file; pixels and orientation are the same for all frames."""
    item = ct(0.0, SOPClassUID=EnhancedCTImageStorage, SOPInstanceUID="1.2.3.77", NumberOfFrames=len(frames))
    for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        delattr(item, tag)
    item.SharedFunctionalGroupsSequence = [
        item_of(
            PixelMeasuresSequence=[item_of(PixelSpacing=[0.7, 0.9], SliceThickness=2.5)],
            PlaneOrientationSequence=[item_of(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        )
    ]
    item.PerFrameFunctionalGroupsSequence = frames
    item.PixelData = np.stack(planes).astype("<u2").tobytes()
    for tag, value in changes.items():
        setattr(item, tag, value)
    return item


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Ten slices, the highest first."""
    order = list(reversed(range(COUNT)))
    return put(tmp_path / "many" / "a.dcm", enhanced([frame(n, GAP_MM * n) for n in order], [PLANE + n for n in order]))


def test_it_is_the_volume_of_the_same_slices(file: Path, tmp_path: Path) -> None:
    put_series(tmp_path / "single", COUNT)
    found = [discover(folder, ArchiveSettings(), 0, "salt") for folder in (file.parent, tmp_path / "single")]
    assert [each.rejects for each in found] == [[], []]
    many, single = (
        read(each.cases[0], folder)[0] for each, folder in zip(found, (file.parent, tmp_path / "single"), strict=True)
    )
    assert found[0].cases[0].files == ["a.dcm"]
    np.testing.assert_array_equal(many.hu_zyx, single.hu_zyx)
    assert many.spacing_zyx_mm == single.spacing_zyx_mm
    headers, grid = read_series_grid([file], "v")
    assert (len(headers), grid.shape) == (COUNT, (8, 6, COUNT))


def test_marks_count_its_slices_upwards_and_reports_name_frames(file: Path) -> None:
    for name in ("a.dcm", "1.2.3"):
        (file.parent / "marks.csv").write_text(f"file,z,x1,y1,x2,y2\n{name},3,1,2,4,5\n")
        _, marks = read(discover(file.parent, ArchiveSettings(), 0, "salt").cases[0], file.parent)
        assert [(mark.z, mark.x1) for mark in marks] == [(3, 1)]
    (file.parent / "marks.csv").unlink()
    region = content(
        "SCOORD", "111030", [image("1.2.3.77")], GraphicType="POLYLINE", GraphicData=[1.0, 2, 5, 2, 5, 6, 1, 6]
    )
    region.ContentSequence[0].ReferencedSOPSequence[0].ReferencedFrameNumber = 7  # of the highest first: slice 3
    put(file.parent / "sr.dcm", report(group(region)))
    found = discover(file.parent, ArchiveSettings(), 0, "salt")
    assert found.rejects == []
    _, marks = read(found.cases[0], file.parent)
    assert [(mark.z, mark.x1, mark.y1, mark.x2, mark.y2) for mark in marks] == [(3, 1, 2, 4, 5)]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda item: item.PerFrameFunctionalGroupsSequence.pop(), "multi_frame"),
        (lambda item: item.__delattr__("PerFrameFunctionalGroupsSequence"), "multi_frame"),
        (lambda item: setattr(item, "ImageType", ["DERIVED", "PRIMARY", "MIP"]), "derived"),
        (lambda item: setattr(item, "NumberOfFrames", 0), "multi_frame"),
        (lambda item: setattr(item, "SamplesPerPixel", 3), "not_grey"),
    ],
)
def test_what_is_no_stack_of_slices_is_one_row(file: Path, spoil: Any, reason: str) -> None:
    item = enhanced([frame(n, GAP_MM * n) for n in range(COUNT)], [PLANE + n for n in range(COUNT)])
    spoil(item)
    put(file, item)
    assert [row.reason for row in discover(file.parent, ArchiveSettings(), 0, "salt").rejects] == [reason]


def test_two_stacks_in_one_file_are_refused_not_mixed(file: Path) -> None:
    twice = [frame(n, GAP_MM * n, acquisition) for acquisition in (1, 2) for n in range(COUNT)]
    put(file, enhanced(twice, [PLANE + n for n in range(2 * COUNT)]))
    assert [row.reason for row in discover(file.parent, ArchiveSettings(), 0, "salt").rejects] == ["duplicate_slices"]
    turned = [frame(n, GAP_MM * n) for n in range(COUNT)]
    turned[3].PlaneOrientationSequence = [item_of(ImageOrientationPatient=[1, 0, 0, 0, 0, -1])]
    put(file, enhanced(turned, [PLANE + n for n in range(COUNT)]))
    reasons = [row.reason for row in discover(file.parent, ArchiveSettings(), 0, "salt").rejects]
    assert reasons == ["multi_frame", "odd_slices"]
