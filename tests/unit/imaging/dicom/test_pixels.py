"""Pixels of DICOM slices: codecs, padding, bits, and files that are made to harm."""

import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from harvester.errors import VolumeError
from harvester.imaging.dicom import pixels, reader
from harvester.imaging.dicom.reader import read_dicom_series
from tests.dicom_files import PLANE, ct, put, put_series

RAMP = np.linspace(0, 3000, 64 * 48).reshape(64, 48).astype(np.uint16)


def hu_of(folder: Path) -> Any:
    return read_dicom_series(folder, "v", "p").hu_zyx[0]


def refusal_of(folder: Path) -> VolumeError:
    with pytest.raises(VolumeError) as caught:
        hu_of(folder)
    return caught.value


def compress(item: pydicom.Dataset, folder: Path, syntax: str) -> None:
    """Write a slice in a compressed transfer syntax."""
    plain = put(folder / "plain.dcm", item)
    item = pydicom.dcmread(plain)
    if syntax == JPEGLosslessSV1:
        plain_to_jpeg_lossless(plain, folder / "a.dcm")
    else:
        if syntax == DeflatedExplicitVRLittleEndian:
            item.file_meta.TransferSyntaxUID = syntax
        else:
            item.compress(syntax, generate_instance_uid=False)
        put(folder / "a.dcm", item)
    plain.unlink()


def plain_to_jpeg_lossless(source: Path, target: Path) -> None:
    import gdcm

    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(source))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(target))
    assert writer.Write()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    "syntax",
    [JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, RLELossless, DeflatedExplicitVRLittleEndian],
    ids=["jpeg lossless", "jpeg-ls", "jpeg 2000", "rle", "deflated"],
)
def test_a_compressed_slice_has_the_same_values(tmp_path: Path, syntax: str, signed: bool) -> None:
    stored = RAMP.astype(np.int16) - 1000 if signed else RAMP
    compress(
        ct(stored_yx=stored.view(np.uint16), SliceThickness=5, PixelRepresentation=int(signed), RescaleIntercept=-24),
        tmp_path,
        syntax,
    )
    assert pydicom.dcmread(tmp_path / "a.dcm").file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(hu_of(tmp_path), np.maximum(stored.astype(int) - 24, -1024))


def test_big_endian_slices_are_read(tmp_path: Path) -> None:
    item = ct(SliceThickness=5, PixelData=PLANE.astype(">u2").tobytes())
    put(tmp_path / "a.dcm", item, ExplicitVRBigEndian)
    np.testing.assert_array_equal(hu_of(tmp_path), PLANE.astype(int) - 1024)


@pytest.mark.parametrize(
    "shown",
    [
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"WindowCenter": -5000, "WindowWidth": 1},
        {"WindowCenter": [1, 2, 3], "WindowWidth": 0, "VOILUTFunction": "SIGMOID"},
    ],
)
def test_what_is_about_showing_moves_no_value(tmp_path: Path, shown: dict[str, Any]) -> None:
    put(tmp_path / "a.dcm", ct(SliceThickness=5, **shown))
    np.testing.assert_array_equal(hu_of(tmp_path), PLANE.astype(int) - 1024)


def padded(value: int) -> Any:
    """A slice of water (HU 0) but for padding in its first column."""
    stored = np.full((4, 4), 1024, np.uint16)
    stored[:, 0] = value
    return stored


@pytest.mark.parametrize(
    ("changes", "value"),
    [
        ({"PixelPaddingValue": 4000}, 4000),
        ({"PixelPaddingValue": 63536}, 63536),
        ({"PixelPaddingValue": 3990, "PixelPaddingRangeLimit": 4010}, 4000),
    ],
)
def test_padding_becomes_air(tmp_path: Path, changes: dict[str, int], value: int) -> None:
    put(tmp_path / "a.dcm", ct(stored_yx=padded(value), SliceThickness=5, BitsStored=12, HighBit=11, **changes))
    hu = hu_of(tmp_path)
    assert (hu[:, 0] == -1024).all()
    assert (hu[:, 1:] == 0).all()


def test_a_padding_value_of_water_is_not_believed(tmp_path: Path) -> None:
    """Converters write PixelPaddingValue 0 where 0 is water: no corner holds it."""
    stored = np.full((4, 4), -1000, np.int16)
    stored[1:3, 1:3] = 0
    item = ct(stored_yx=stored.view(np.uint16), SliceThickness=5, PixelRepresentation=1, RescaleIntercept=0)
    item.add_new("PixelPaddingValue", "SS", 0)
    put(tmp_path / "a.dcm", item)
    np.testing.assert_array_equal(hu_of(tmp_path), stored)


@pytest.mark.parametrize("signed", [False, True])
def test_overlays_in_unused_bits_are_dropped(tmp_path: Path, signed: bool) -> None:
    values = np.array([[-5, 100], [7, 2000]] if signed else [[5, 100], [7, 4000]], np.int16)
    stored = (values.view(np.uint16) & 0x0FFF) | np.uint16(0x5000)
    put(
        tmp_path / "a.dcm",
        ct(stored_yx=stored, SliceThickness=5, BitsStored=12, HighBit=11, PixelRepresentation=int(signed)),
    )
    np.testing.assert_array_equal(hu_of(tmp_path), np.maximum(values.astype(int) - 1024, -1024))


@pytest.mark.parametrize("changes", [{"BitsStored": 0}, {"BitsStored": 17}, {"HighBit": 3}, {"Rows": 0}])
def test_headers_that_cannot_be_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    put(tmp_path / "a.dcm", ct(SliceThickness=5, **changes))
    assert refusal_of(tmp_path).reason in ("unreadable", "not_ct")


def test_numbers_that_are_text_are_refused_and_not_told(tmp_path: Path) -> None:
    file = put(tmp_path / "a.dcm", ct(SliceThickness=5, RescaleSlope="1.234567"))
    file.write_bytes(file.read_bytes().replace(b"1.234567", b"Doe^Jane"))
    error = refusal_of(tmp_path)
    assert error.reason == "unreadable"
    assert "Jane" not in str(error)


def peak_mib(work: Callable[[], object]) -> float:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def test_sixty_thousand_squared_pixels_are_refused_before_room_is_made(tmp_path: Path) -> None:
    put(tmp_path / "a.dcm", ct(SliceThickness=5, Rows=60000, Columns=60000))
    assert peak_mib(lambda: refusal_of(tmp_path)) < 8
    assert refusal_of(tmp_path).reason == "too_large"


def test_a_length_of_four_gigabytes_makes_no_room(tmp_path: Path) -> None:
    file = put(tmp_path / "a.dcm", ct(SliceThickness=5))
    data = file.read_bytes()
    at = data.index(b"\xe0\x7f\x10\x00OW") + 8
    file.write_bytes(data[:at] + struct.pack("<I", 0xFFFFFFF0) + data[at + 4 :])
    assert peak_mib(lambda: hu_of(tmp_path)) < 8  # the pixels that are there suffice


def test_a_deflated_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harvester.imaging.dicom.reader.MOST_SLICE_BYTES", 4 << 20)
    compress(ct(SliceThickness=5), tmp_path, DeflatedExplicitVRLittleEndian)
    file = tmp_path / "a.dcm"
    data = file.read_bytes()
    start = 132 + 12 + pydicom.dcmread(file).file_meta.FileMetaInformationGroupLength
    squeeze = zlib.compressobj(wbits=-15)
    body = squeeze.compress(bytes(64 << 20)) + squeeze.flush()
    file.write_bytes(data[:start] + body)
    assert peak_mib(lambda: refusal_of(tmp_path)) < 16
    assert refusal_of(tmp_path).reason == "unreadable"


def test_a_codestream_that_claims_more_than_its_file_is_refused(tmp_path: Path) -> None:
    compress(ct(stored_yx=RAMP, SliceThickness=5), tmp_path, JPEG2000Lossless)
    data = (tmp_path / "a.dcm").read_bytes()
    at = data.index(b"\xff\x4f\xff\x51") + 8
    (tmp_path / "a.dcm").write_bytes(data[:at] + struct.pack(">II", 60000, 60000) + data[at + 8 :])
    assert "another size" in str(refusal_of(tmp_path))
    compress(ct(stored_yx=RAMP, SliceThickness=5), tmp_path, JPEGLSLossless)
    data = (tmp_path / "a.dcm").read_bytes()
    at = data.index(b"\xff\xf7") + 5
    (tmp_path / "a.dcm").write_bytes(data[:at] + struct.pack(">HH", 60000, 60000) + data[at + 4 :])
    assert "another size" in str(refusal_of(tmp_path))


def test_runs_that_would_blow_up_are_refused(tmp_path: Path) -> None:
    compress(ct(stored_yx=RAMP, SliceThickness=5), tmp_path, RLELossless)
    item = pydicom.dcmread(tmp_path / "a.dcm")
    item.PixelData = encapsulate([struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\x00" * (1 << 20)])
    item["PixelData"].is_undefined_length = True
    put(tmp_path / "a.dcm", item)
    assert peak_mib(lambda: refusal_of(tmp_path)) < 16
    assert refusal_of(tmp_path).reason == "unreadable"


def test_the_limit_of_a_slice_is_one_of_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "MOST_PLANE_BYTES", 2 * PLANE.size)
    put(tmp_path / "a.dcm", ct(SliceThickness=5))
    assert hu_of(tmp_path).shape == PLANE.shape
    wide = {"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31, "PixelData": PLANE.astype("<u4").tobytes()}
    put(tmp_path / "a.dcm", ct(SliceThickness=5, **wide))
    assert "6 x 8 pixels of 4 bytes, 1 times" in str(refusal_of(tmp_path))


def test_many_slices_of_few_bytes_are_refused_when_they_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that no search has counted: each slice may unpack to many times its file."""
    monkeypatch.setattr(reader, "MOST_VOXELS", 3 * PLANE.size)
    put_series(tmp_path, 3)
    read_dicom_series(tmp_path, "v", "p")
    put_series(tmp_path, 4)
    assert refusal_of(tmp_path).reason == "too_large"
