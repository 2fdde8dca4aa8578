"""Trees of DICOM files as they come out of a PACS: which series are taken, and the row of each that is not."""

import os
import shutil
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    EnhancedCTImageStorage,
    MediaStorageDirectoryStorage,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    XRayRadiationDoseSRStorage,
)

from harvester.config.data import ArchiveSettings, DicomSettings
from harvester.datasets.archive.archive import discover, read
from harvester.datasets.discovery import Discovery
from harvester.errors import VolumeError
from harvester.imaging.dicom.reader import read_dicom_series
from tests.dicom_files import PLANE, ct, put, put_series


def found(root: Path, **settings: Any) -> Discovery:
    own = {name: settings.pop(name) for name in [*settings] if name in ArchiveSettings.model_fields}
    return discover(root, ArchiveSettings(dicom=DicomSettings(**settings), **own), 0, "salt")


def reasons(root: Path, **settings: Any) -> list[str]:
    """The reasons of all that is refused; nothing is taken."""
    result = found(root, **settings)
    assert not result.cases
    return sorted(row.reason for row in result.rejects)


def rows(root: Path, **settings: Any) -> list[str]:
    return sorted(row.reason for row in found(root, **settings).rejects)


@pytest.fixture
def series(tmp_path: Path) -> Path:
    return put_series(tmp_path / "series")


def test_a_series_is_taken_wherever_its_files_lie(series: Path, tmp_path: Path) -> None:
    for n, file in enumerate(sorted(series.iterdir())):
        target = tmp_path / str(n % 3) / "deep" / f"IM{n}"
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)
    result = found(tmp_path)
    assert len(result.cases) == 1
    assert not result.rejects
    volume, marks = read(result.cases[0], tmp_path)
    np.testing.assert_array_equal(volume.hu_zyx, [PLANE.astype(int) + n - 1024 for n in range(10)])
    assert marks == []


BAD_SERIES: dict[str, tuple[str, dict[str, Any]]] = {
    "a scout": ("localizer", {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
    "a screen": ("derived", {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}),
    "a projection": ("derived", {"ImageType": ["DERIVED", "PRIMARY", "MIP THIN"]}),
    "a capture": ("secondary_capture", {"SOPClassUID": SecondaryCaptureImageStorage}),
    "frames": ("multi_frame", {"SOPClassUID": EnhancedCTImageStorage, "NumberOfFrames": 3}),
    "frames of an old class": ("multi_frame", {"NumberOfFrames": 3}),
    "colour": ("not_grey", {"SamplesPerPixel": 3}),
    "8 bits": ("not_grey", {"BitsAllocated": 8}),
    "iodine": ("not_hu", {"RescaleType": "MGML"}),
    "no position": ("no_geometry", {"ImagePositionPatient": None}),
    "no orientation": ("no_geometry", {"ImageOrientationPatient": None}),
    "no spacing": ("no_geometry", {"PixelSpacing": None}),
    "no intercept": ("no_rescale", {"RescaleIntercept": None}),
    "no pixels": ("no_pixel_data", {"Rows": None}),
    "spacing 0": ("bad_spacing", {"PixelSpacing": [0, 0]}),
    "negative spacing": ("bad_spacing", {"PixelSpacing": [0.7, -0.7]}),
    "an orientation of nothing": ("no_geometry", {"ImageOrientationPatient": [0] * 6}),
    "coronal": ("not_axial", {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}),
    "one place": ("no_geometry", {"ImagePositionPatient": [0, 0, 0]}),
    "60,000 x 60,000": ("too_large", {"Rows": 60000, "Columns": 60000}),
    "MR": ("not_ct", {"SOPClassUID": MRImageStorage, "Modality": "MR"}),
    "a dose report": ("no_image", {"SOPClassUID": XRayRadiationDoseSRStorage, "Rows": None, "Modality": "SR"}),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_SERIES)
def test_a_series_that_is_not_wanted_is_one_row(tmp_path: Path, case: str) -> None:
    reason, changes = BAD_SERIES[case]
    if case == "coronal":
        for n in range(10):
            put(tmp_path / f"{n}.dcm", ct(0, **changes, SOPInstanceUID=f"1.{n}", ImagePositionPatient=[0, n, 0]))
    else:
        put_series(tmp_path / "s", **changes)
    assert reasons(tmp_path) == [reason]
    row = found(tmp_path).rejects[0]
    assert "10 files" in row.message
    assert len(row.source_hash) == 12


def test_too_few_slices_and_odd_spacings_are_refused_by_settings(series: Path) -> None:
    assert reasons(series, min_slices=11) == ["few_slices"]
    assert reasons(series, slice_spacing_mm=(3, 10)) == ["bad_spacing"]
    assert reasons(series, max_voxels=10 * 6 * 8 - 1) == ["too_large"]
    assert len(found(series, slice_spacing_mm=(2.5, 2.5), max_voxels=10 * 6 * 8).cases) == 1


def test_ten_gigabytes_of_pixels_are_refused_by_the_headers_alone(tmp_path: Path) -> None:
    put_series(tmp_path / "s", Rows=2**15, Columns=2**14)  # 10 slices of 1 GiB
    assert reasons(tmp_path) == ["too_large"]


def test_slices_far_apart_make_no_room(series: Path) -> None:
    put(series / "far.dcm", ct(1e7, SOPInstanceUID="1.9"))
    assert reasons(series) == ["missing_slices"]


def test_a_scout_inside_a_series_is_left_out(series: Path) -> None:
    put(series / "s.dcm", ct(500, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SOPInstanceUID="1.9"))
    put(series / "t.dcm", ct(600, PLANE[:3], SOPInstanceUID="1.10"))
    result = found(series)
    assert len(result.cases[0].files) == 10
    assert sorted(row.reason for row in result.rejects) == ["localizer", "odd_slices"]


def test_what_is_no_dicom_is_counted_in_one_row(series: Path) -> None:
    for n in range(5):
        (series / f"n{n}.txt").write_text("hello")
    put(series / "DICOMDIR", ct(SOPClassUID=MediaStorageDirectoryStorage, SeriesInstanceUID=None, Rows=None))
    result = found(series)
    assert sorted(row.reason for row in result.rejects) == ["dicomdir", "not_dicom"]
    assert next(row for row in result.rejects if row.reason == "not_dicom").message.startswith("5 files")


@pytest.mark.parametrize("kept", [0, 100, 140, 200])
def test_a_file_cut_short_has_its_own_row(series: Path, kept: int) -> None:
    file = series / "004.dcm"
    file.write_bytes(file.read_bytes()[:kept])
    assert rows(series, min_slices=10) == ["few_slices", "unreadable"]
    result = found(series, min_slices=9)  # the gap is filled, the file still named
    assert [row.reason for row in result.rejects] == ["unreadable"]
    assert len(read(result.cases[0], series)[0].hu_zyx) == 10


def test_pixels_cut_short_refuse_the_series_when_read(series: Path) -> None:
    file = series / "004.dcm"
    file.write_bytes(file.read_bytes()[:-40])
    result = found(series)
    with pytest.raises(VolumeError) as caught:
        read(result.cases[0], series)
    assert caught.value.reason == "unreadable"


def nested(depth: int, defined: bool) -> bytes:
    """An item of a sequence in an item of a sequence ..., `depth` deep: Explicit VR Little Endian."""
    tag = b"\x08\x00\x15\x11SQ\x00\x00"  # ReferencedSeriesSequence
    if not defined:
        opened = tag + b"\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
        return opened * depth + (b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0") * depth
    body = b""
    for _ in range(depth):
        item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(body)) + body
        body = tag + struct.pack("<I", len(item)) + item
    return body


@pytest.mark.parametrize("defined", [True, False])
def test_sequences_nested_deep_refuse_the_file_alone(series: Path, defined: bool) -> None:
    item = ct(99, SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4", SeriesInstanceUID="9", Rows=None)
    file = put(series / "deep.dcm", item)
    data = file.read_bytes()
    at = data.index(b"\x10\x00\x20\x00")  # before PatientID
    file.write_bytes(data[:at] + nested(1500, defined) + data[at:])
    result = found(series)
    assert len(result.cases) == 1
    assert [row.reason for row in result.rejects] == ["unreadable"]


def test_copies_count_once_and_other_pixels_under_one_uid_are_refused(series: Path) -> None:
    item = pydicom.dcmread(series / "004.dcm")
    item.InstanceCreationDate = "20200101"  # exported again
    put(series / "copy.dcm", item)
    volume, _ = read(found(series).cases[0], series)
    assert len(volume.hu_zyx) == 10
    item.PixelData = bytes(len(item.PixelData))
    put(series / "copy.dcm", item)
    assert reasons(series) == ["duplicate_uids"]


def test_a_link_is_not_followed(series: Path, tmp_path: Path) -> None:
    outside = put_series(tmp_path / "outside", uid="1.5")
    (series / "loop").symlink_to(series)
    (series / "out").symlink_to(outside)
    (series / "one.dcm").symlink_to(outside / "000.dcm")
    result = found(series)
    assert [case.files for case in result.cases] == [[f"{n:03d}.dcm" for n in range(10)]]
    assert [row.reason for row in result.rejects] == ["link"] * 3


def test_a_pipe_is_not_opened(series: Path) -> None:
    os.mkfifo(series / "pipe.dcm")
    assert len(found(series).cases) == 1


def test_files_and_folders_that_may_not_be_read_are_rows(series: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the refusal is made."""
    (series / "locked").mkdir()
    put(series / "secret.dcm", ct(99, SOPInstanceUID="1.9"))
    opened, listed = Path.open, os.scandir

    def no_open(self: Path, *options: Any, **more: Any) -> Any:
        if self.name == "secret.dcm":
            raise PermissionError(13, "no", str(self))
        return opened(self, *options, **more)

    def no_list(path: Any) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "no", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "open", no_open)
    monkeypatch.setattr(os, "scandir", no_list)
    result = found(series)
    assert len(result.cases) == 1
    assert [row.reason for row in result.rejects] == ["no_permission", "no_permission"]
    assert all("secret" not in row.message for row in result.rejects)


def uids(root: Path, **settings: Any) -> set[str]:
    """SeriesInstanceUIDs of what is taken."""
    cases = found(root, **settings).cases
    return {str(pydicom.dcmread(root / case.files[0]).SeriesInstanceUID) for case in cases}


def test_of_reconstructions_the_soft_and_thin_one_is_taken(tmp_path: Path) -> None:
    put_series(tmp_path / "a", uid="1.1", gap_mm=1.25, ConvolutionKernel="B70f")
    put_series(tmp_path / "b", uid="1.2", gap_mm=5, ConvolutionKernel="STANDARD")
    put_series(tmp_path / "c", uid="1.3", gap_mm=2.5, ConvolutionKernel="B30f")
    put_series(tmp_path / "d", uid="1.4", gap_mm=1, ImageType=["DERIVED", "SECONDARY", "AXIAL"])
    result = found(tmp_path)
    assert [case.files[0] for case in result.cases] == ["c/000.dcm"]
    assert [row.reason for row in result.rejects] == ["other_reconstruction"] * 3
    assert len(found(tmp_path, reconstructions="all").cases) == 4


def test_a_series_that_a_table_names_is_taken_before_others(tmp_path: Path) -> None:
    put_series(tmp_path / "a", uid="1.1", ConvolutionKernel="B70f")
    put_series(tmp_path / "b", uid="1.2", ConvolutionKernel="B30f")
    assert uids(tmp_path) == {"1.2"}
    (tmp_path / "volumes.csv").write_text("file,complete\na,1\n")
    assert uids(tmp_path) == {"1.1"}


@pytest.mark.parametrize(
    "apart",
    [
        {"StudyInstanceUID": "1.9"},
        {"FrameOfReferenceUID": "1.9"},
        {"AcquisitionNumber": 2},
        {"ImagePositionPatient": None},
    ],
    ids=["study", "frame", "phase", "place"],
)
def test_other_studies_phases_and_places_are_no_reconstructions(tmp_path: Path, apart: dict[str, Any]) -> None:
    put_series(tmp_path / "a", uid="1.1", AcquisitionNumber=1)
    if "ImagePositionPatient" in apart:
        for n in range(10):
            put(tmp_path / "b" / f"{n}.dcm", ct(500 + n, SeriesInstanceUID="1.2", AcquisitionNumber=1))
    else:
        put_series(tmp_path / "b", uid="1.2", **{"AcquisitionNumber": 1, **apart})
    assert uids(tmp_path) == {"1.1", "1.2"}


def test_a_table_may_name_a_series_that_is_refused(series: Path, tmp_path: Path) -> None:
    put_series(tmp_path / "mip", uid="1.7", ImageType=["DERIVED", "PRIMARY", "MIP"])
    (tmp_path / "volumes.csv").write_text("file,complete\nmip,1\nseries,1\n")
    result = found(tmp_path)
    assert [case.split for case in result.cases] == ["vm"]
    assert [row.reason for row in result.rejects] == ["derived"]


def find_real(name: str) -> Path:
    beside = Path(__file__).parents[4].parent / "shared" / "data"
    path = Path(os.environ.get("HARVESTER_DATA", beside)) / "ct" / name
    if not path.exists():
        pytest.skip(f"real data {name} are not here; set HARVESTER_DATA")
    return path


DECOYS: tuple[Callable[[Path, int], None], ...] = (
    lambda path, n: put_decoy(path, n, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    lambda path, n: put_decoy(path, n, SOPClassUID=SecondaryCaptureImageStorage, Modality="OT"),
    lambda path, n: put_decoy(path, n, SOPClassUID=XRayRadiationDoseSRStorage, Modality="SR", Rows=None),
    lambda path, n: put_decoy(path, n, SOPClassUID=MRImageStorage, Modality="MR"),
    lambda path, n: put_decoy(path, n, SOPClassUID="1.2.840.10008.5.1.4.1.1.11.1", Modality="PR", Rows=None),
    lambda path, n: put_decoy(path, n, ImageType=["DERIVED", "SECONDARY", "MIP"]),
    lambda path, n: put_decoy(path, n, SOPClassUID=EnhancedCTImageStorage, NumberOfFrames=2),
    lambda path, n: put_decoy(path, n, ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"]),
    lambda path, n: put_decoy(path, n),  # a single axial slice
    lambda path, n: path.with_suffix(".txt").write_text("notes") and None,
    lambda path, n: path.with_suffix(".dcm").write_bytes(b"") and None,
    lambda path, n: path.with_suffix(".dcm").write_bytes(b"\0" * 128 + b"DICMjunk" * n) and None,
)
EXPECTED = {
    "localizer", "not_ct", "no_image", "derived", "multi_frame", "few_slices", "not_dicom", "unreadable", "dicomdir",
}  # fmt: skip


def put_decoy(path: Path, n: int, **changes: Any) -> None:
    put(path, ct(n, **{"SeriesInstanceUID": f"1.8.{n}", "SOPInstanceUID": f"1.8.{n}.1", **changes}))


def test_the_real_series_is_found_among_two_hundred_decoys(tmp_path: Path) -> None:
    real = find_real("lung_dx_a0001")
    order = np.random.default_rng(1).permutation(264)
    files = sorted(real.iterdir())
    for place, n in enumerate(order):
        path = tmp_path / f"P{place % 7}" / f"ST{place % 3}" / f"IM{place:05d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if n < 64:
            shutil.copyfile(files[n], path)
        else:
            DECOYS[n % len(DECOYS)](path, int(n))
    put(tmp_path / "DICOMDIR", ct(SOPClassUID=MediaStorageDirectoryStorage, SeriesInstanceUID=None, Rows=None))
    result = found(tmp_path)
    assert [len(case.files) for case in result.cases] == [64]
    volume, _ = read(result.cases[0], tmp_path)
    np.testing.assert_array_equal(volume.hu_zyx, read_dicom_series(real, "v", "p").hu_zyx)
    listed = Counter(row.reason for row in result.rejects)
    assert set(listed) == EXPECTED
    together = next(row for row in result.rejects if row.reason == "not_dicom")
    assert sum(listed.values()) - 1 + int(together.message.split()[0]) == 201
