"""DICOM series written by the tests: order, HU, spacing, orientation, and every refusal by its reason."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from harvester.errors import VolumeError
from harvester.imaging.dicom.reader import read_dicom_series

ROWS, COLUMNS, GAP_MM = 4, 6, 2.5
SUPINE = (1, 0, 0, 0, 1, 0)
STORED = np.arange(5 * ROWS * COLUMNS).reshape(5, ROWS, COLUMNS)
"""Stored values of five slices, ascending."""


def write_slice(folder: Path, name: str, stored_yx: Any, z_mm: float, **changes: Any) -> Path:
    """One CT slice; `changes` set or, where None, remove elements."""
    item = pydicom.Dataset()
    item.SOPClassUID, item.SOPInstanceUID = CTImageStorage, f"1.2.{len(name)}.{int(z_mm)}"
    item.Modality, item.SeriesInstanceUID, item.PatientID = "CT", "1.2.3", "secret^name"
    item.ImageOrientationPatient, item.ImagePositionPatient = list(SUPINE), [-10, -20, z_mm]
    item.PixelSpacing, item.InstanceNumber = [0.7, 0.9], int(z_mm * 10)
    item.RescaleSlope, item.RescaleIntercept = 1, -1024
    item.Rows, item.Columns = stored_yx.shape
    item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
    item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation = 16, 16, 15, 0
    item.PixelData = np.ascontiguousarray(stored_yx, np.uint16).tobytes()
    for tag, value in changes.items():
        delattr(item, tag) if value is None else setattr(item, tag, value)
    item.file_meta = FileMetaDataset()
    item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    item.file_meta.MediaStorageSOPClassUID = item.SOPClassUID
    item.file_meta.MediaStorageSOPInstanceUID = item.SOPInstanceUID
    folder.mkdir(exist_ok=True)
    pydicom.dcmwrite(folder / name, item, enforce_file_format=True)
    return folder / name


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """Five slices whose names are not in the order of their places."""
    for name, z in zip("dbeac", range(5), strict=True):
        write_slice(tmp_path / "series", f"{name}.dcm", STORED[z], 100 + GAP_MM * z)
    return tmp_path / "series"


def read(source: Path) -> Any:
    return read_dicom_series(source, "v", "p")


def refused(source: Path) -> VolumeError:
    with pytest.raises(VolumeError) as caught:
        read(source)
    assert "v" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert str(source) not in str(caught.value)
    return caught.value


def test_shuffled_slices_come_out_from_feet_to_head(series: Path) -> None:
    volume = read(series)
    np.testing.assert_array_equal(volume.hu_zyx, STORED - 1024)
    assert volume.spacing_zyx_mm == pytest.approx((GAP_MM, 0.7, 0.9))
    assert (volume.volume_id, volume.patient_id) == ("v", "p")


def test_files_may_be_given_in_any_order(series: Path) -> None:
    files = sorted(series.iterdir(), reverse=True)
    np.testing.assert_array_equal(read_dicom_series(files, "v", "p").hu_zyx, read(series).hu_zyx)


def test_other_files_of_the_folder_are_passed_over(series: Path) -> None:
    (series / "notes.txt").write_text("hello")
    (series / "DICOMDIR").write_bytes(b"")
    assert len(read(series).hu_zyx) == 5


def test_each_slice_has_its_own_slope_and_intercept(tmp_path: Path) -> None:
    for z, (slope, intercept) in enumerate([(1, -1024), (2, -1000), (0.5, 7)]):
        write_slice(tmp_path, f"{z}.dcm", STORED[2], 3.0 * z, RescaleSlope=slope, RescaleIntercept=intercept)
    hu = read(tmp_path).hu_zyx
    for plane, (slope, intercept) in zip(hu, [(1, -1024), (2, -1000), (0.5, 7)], strict=True):
        np.testing.assert_array_equal(plane, np.rint(STORED[2] * slope + intercept))


def test_values_beyond_twelve_bits_are_clipped(tmp_path: Path) -> None:
    stored = np.array([[0, 63536], [5000, 1000]])
    write_slice(tmp_path, "a.dcm", stored, 0.0, RescaleIntercept=-1524, SliceThickness=5)
    np.testing.assert_array_equal(read(tmp_path).hu_zyx[0], [[-1024, 3071], [3071, -524]])


def test_signed_padding_becomes_air(tmp_path: Path) -> None:
    stored = np.array([[-2000, 40]], np.int16).view(np.uint16)
    write_slice(tmp_path, "a.dcm", stored, 0.0, PixelRepresentation=1, RescaleIntercept=0, SliceThickness=5)
    np.testing.assert_array_equal(read(tmp_path).hu_zyx[0], [[-1024, 40]])


def test_a_prone_scan_is_turned(tmp_path: Path) -> None:
    """Rows to the right, columns to the front: the same body lying on its belly."""
    for z in range(3):
        flipped = STORED[z, ::-1, ::-1]
        write_slice(tmp_path, f"{z}.dcm", flipped, GAP_MM * z, ImageOrientationPatient=[-1, 0, 0, 0, -1, 0])
    np.testing.assert_array_equal(read(tmp_path).hu_zyx, STORED[:3] - 1024)


def test_a_normal_to_the_feet_is_turned(tmp_path: Path) -> None:
    """Rows to the right, columns to the back: the normal runs down, the result still runs up."""
    for z in range(3):
        write_slice(tmp_path, f"{z}.dcm", STORED[z, :, ::-1], GAP_MM * z, ImageOrientationPatient=[-1, 0, 0, 0, 1, 0])
    np.testing.assert_array_equal(read(tmp_path).hu_zyx, STORED[:3] - 1024)


def test_sagittal_slices_are_turned(tmp_path: Path) -> None:
    """Slices along x, rows to the back, columns to the feet."""
    body = np.arange(3 * 4 * 2).reshape(3, 4, 2)  # z, y, x
    for x in range(2):
        write_slice(
            tmp_path,
            f"{x}.dcm",
            body[::-1, :, x],
            0.0,
            ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
            ImagePositionPatient=[3.0 * x, 0, 0],
        )
    volume = read(tmp_path)
    np.testing.assert_array_equal(volume.hu_zyx, body - 1024)
    assert volume.spacing_zyx_mm == pytest.approx((0.7, 0.9, 3.0))


def test_positions_beat_slice_thickness(tmp_path: Path) -> None:
    for z in range(3):
        write_slice(tmp_path, f"{z}.dcm", STORED[z], GAP_MM * z, SliceThickness=9)
    assert read(tmp_path).spacing_zyx_mm[0] == pytest.approx(GAP_MM)


def test_one_slice_is_a_volume_if_its_thickness_is_told(tmp_path: Path) -> None:
    write_slice(tmp_path, "a.dcm", STORED[0], 0.0)
    assert refused(tmp_path).reason == "no_geometry"
    write_slice(tmp_path, "a.dcm", STORED[0], 0.0, SliceThickness=5)
    assert read(tmp_path).spacing_zyx_mm[0] == 5


def test_a_missing_slice_is_named_by_its_neighbours(series: Path) -> None:
    (series / "e.dcm").unlink()  # at 105 mm
    error = refused(series)
    assert error.reason == "missing_slices"
    assert "102.5) mm" in str(error)
    assert "107.5) mm" in str(error)
    assert "5.00 mm apart" in str(error)


def test_a_duplicate_slice_is_named(series: Path) -> None:
    write_slice(series, "again.dcm", STORED[2], 105.0)
    error = refused(series)
    assert error.reason == "duplicate_slices"
    assert "slice 1050 at" in str(error)


MIXED: dict[str, tuple[dict[str, Any], str]] = {
    "another series": ({"SeriesInstanceUID": "9.9"}, "mixed_slices"),
    "another orientation": ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "mixed_orientations"),
    "another pixel spacing": ({"PixelSpacing": [1, 1]}, "mixed_slices"),
    "not CT": ({"Modality": "MR"}, "not_ct"),
    "a scout": ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "not_ct"),
    "many frames": ({"NumberOfFrames": 3}, "not_ct"),
    "no pixels": ({"PixelData": None}, "no_pixel_data"),
    "no position": ({"ImagePositionPatient": None}, "no_geometry"),
    "no slope": ({"RescaleSlope": None}, "no_geometry"),
    "too few pixels": ({"PixelData": b"\0" * 10}, "unreadable"),
}


@pytest.mark.parametrize("case", MIXED)
def test_a_slice_that_does_not_fit_is_refused(series: Path, case: str) -> None:
    changes, reason = MIXED[case]
    write_slice(series, "e.dcm", STORED[2], 105.0, **changes)
    assert refused(series).reason == reason


def test_slices_of_other_sizes_are_refused(series: Path) -> None:
    write_slice(series, "e.dcm", STORED[2, :, :3], 105.0)
    assert refused(series).reason == "mixed_slices"


def test_a_tilted_gantry_is_laid_upright(tmp_path: Path) -> None:
    for z in range(3):
        write_slice(tmp_path, f"{z}.dcm", STORED[z], 0.0, ImagePositionPatient=[0, 0.7 * z, 2.0 * z])
    hu = read(tmp_path).hu_zyx
    assert hu.shape == (3, ROWS + 2, COLUMNS)
    for z in range(3):
        np.testing.assert_array_equal(hu[z, z : z + ROWS], STORED[z] - 1024)


@pytest.mark.parametrize("kept", [0, 100, 400, -40])
def test_a_file_cut_short_is_refused(series: Path, kept: int) -> None:
    data = (series / "e.dcm").read_bytes()
    (series / "e.dcm").write_bytes(data[:kept])
    assert refused(series).reason in ("unreadable", "no_pixel_data", "no_geometry", "not_ct")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path).reason == "no_slices"


def find_real(name: str) -> Path:
    beside = Path(__file__).parents[4].parent / "shared" / "data"
    found = Path(os.environ.get("HARVESTER_DATA", beside)) / "ct" / name
    if not found.exists():
        pytest.skip(f"real data {name} are not here; set HARVESTER_DATA")
    return found


@pytest.fixture
def real() -> Callable[[str], Path]:
    return find_real


def test_a_radiologists_boxes_lie_on_the_tumour(real: Callable[[str], Path]) -> None:
    """The boxes hold solid tissue; mirrored along z, y or x they hold other things."""
    boxes = json.loads(real("lung_dx_a0001.boxes.json").read_text())["boxes"]
    levels = sorted({box["z"] for box in boxes})
    files = real("lung_dx_a0001")
    hu = read_dicom_series(files, "v", "p").hu_zyx
    assert hu.shape == (64, 512, 512)

    def solid(image: Any) -> float:
        parts = [image[b["z"], b["box_xyxy"][1] : b["box_xyxy"][3], b["box_xyxy"][0] : b["box_xyxy"][2]] for b in boxes]
        return float(np.mean([np.mean((part > -100) & (part < 150)) for part in parts]))

    assert levels == list(range(41, 52))
    assert solid(hu) > 0.5
    assert max(solid(np.flip(hu, axis)) for axis in range(3)) < 0.2
