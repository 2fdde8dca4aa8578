"""The pixels of one DICOM slice in Hounsfield units.

Slope and intercept are the slice's own. Windows and MONOCHROME1 are about showing, not about values: they count for
nothing. A codestream is believed only where its own header claims the size that the file claims.
"""

import struct
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.encaps import generate_frames
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import UID, JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes, RLELossless

from harvester.errors import VolumeError
from harvester.geometry import Array
from harvester.imaging.dicom.file import readable
from harvester.imaging.hounsfield import AIR_HU, to_hu

COMPRESSED: Final = (*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes[:2], RLELossless)
"""Transfer syntaxes that scans come in, besides plain pixels (JPEG 2000's other two are for several components)."""
MOST_PLANE_BYTES: Final = 2 * 8192 * 8192
MOST_SEGMENTATION_BYTES: Final = 1 << 31
"""Unpacked, when a bit takes a byte."""
JPEG_FRAMES: Final = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
"""Markers after which a JPEG or JPEG-LS codestream gives its size."""
SIZELESS: Final = frozenset({0x01, *range(0xD0, 0xD9)})
"""JPEG markers without a length."""


def hu_plane(item: pydicom.Dataset, name: str) -> NDArray[np.int16]:
    """(rows, columns) HU, clipped as in to_hu, padding as air. `name` is what a message calls the slice.

    Raises VolumeError: not_ct, too_large, unreadable, not_hu.
    """
    check_size(item, MOST_PLANE_BYTES, name)
    with readable(f"{name} has broken pixel data"):
        (stored,) = decoded_frames(item)
        return hu_of(item, stored)


def hu_of(item: pydicom.Dataset, stored: Array) -> NDArray[np.int16]:
    """The stored values of a slice in HU. Raises what is in BROKEN."""
    padding = _padding(item, stored)
    values = _kept_bits(item, stored).astype(np.float32) * np.float32(item.RescaleSlope)
    hu = to_hu(values + np.float32(item.RescaleIntercept))
    hu[padding] = AIR_HU
    return hu


def check_size(item: pydicom.Dataset, most_bytes: int, name: str) -> None:
    """Refuse what is no grey image, claims too many bytes, or holds a codestream of another size than it claims."""
    with readable(f"{name} has broken pixel data"):
        rows, columns = int(item.Rows), int(item.Columns)
        frames = int(item.get("NumberOfFrames") or 1)
        grey = int(item.get("SamplesPerPixel", 1)) == 1
        if not grey or rows < 1 or columns < 1 or frames < 1:
            raise VolumeError("not_ct", f"{name} is not a grey image")
        each = max(1, -(-int(item.BitsAllocated) // 8))
        if rows * columns * frames * each > most_bytes:
            raise VolumeError(
                "too_large",
                f"{name} claims {rows} x {columns} pixels of {each} bytes, {frames} times; is its header broken?",
            )
        if any(size != (rows, columns, 1) for size in _codestream_sizes(item, frames)):
            raise VolumeError("unreadable", f"{name} holds compressed pixels of another size than it claims")


def decoded_frames(item: pydicom.Dataset) -> Iterator[Array]:
    """The stored values of each frame, (rows, columns), unused bits as they are, by the maintained codec of its syntax.

    Raises what is in BROKEN.
    """
    plugin = plugin_of(item.file_meta.TransferSyntaxUID)
    return iter_pixels(item, decoding_plugin=plugin, raw=True, correct_unused_bits=False)


def plugin_of(syntax: UID) -> str:
    """pydicom's name for the codec of a transfer syntax; "" for plain pixels."""
    if syntax in JPEGLSTransferSyntaxes:
        return "pyjpegls"
    if syntax in JPEG2000TransferSyntaxes:
        return "pylibjpeg"
    if syntax.is_encapsulated:
        return "pydicom" if syntax == RLELossless else "gdcm"
    return ""


def _padding(item: pydicom.Dataset, stored: Array) -> NDArray[np.bool_]:
    """Where a slice holds padding. It lies round the scanned circle: without it in a corner, the value is none.

    (Converters write PixelPaddingValue 0 where 0 is water.)
    """
    value = item.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, bool)
    ends = [_as_stored(int(end), stored.dtype) for end in (value, item.get("PixelPaddingRangeLimit", value))]
    inside = (stored >= min(ends)) & (stored <= max(ends))
    return inside if inside[[0, 0, -1, -1], [0, -1, 0, -1]].any() else np.zeros(stored.shape, bool)


def _as_stored(value: int, kind: np.dtype[Any]) -> int:
    """The padding value in the pixels' own sign: writers mix up US and SS."""
    bits = 8 * kind.itemsize
    value %= 1 << bits
    return value - (1 << bits) if kind.kind == "i" and value >> (bits - 1) else value


def _kept_bits(item: pydicom.Dataset, stored: Array) -> Array:
    """Without what old writers kept in the bits that hold no value (overlays)."""
    allocated, kept = int(item.BitsAllocated), int(item.BitsStored)
    above = allocated - 1 - int(item.get("HighBit", kept - 1))
    if not (0 < kept <= allocated and 0 <= above <= allocated - kept):
        raise ValueError("bits that do not fit")
    # Shifted up the high bits fall off, shifted down the sign spreads.
    return (stored << above) >> (allocated - kept) if kept < allocated else stored


def _codestream_sizes(item: pydicom.Dataset, frames: int) -> Iterator[tuple[int, int, int]]:
    """Rows, columns and channels that each compressed frame claims itself; none for uncompressed pixels."""
    syntax = item.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return
    for frame in generate_frames(item.PixelData, number_of_frames=frames):
        if syntax == RLELossless:
            _check_runs(item, frame)
        else:
            yield _j2k_size(frame) if syntax in JPEG2000TransferSyntaxes else _jpeg_size(frame)


def _check_runs(item: pydicom.Dataset, frame: bytes) -> None:
    """Runs say no size. At worst they are a little longer than the pixels; each byte may become 64."""
    if len(frame) > 1024 + 2 * int(item.Rows) * int(item.Columns) * int(item.BitsAllocated) // 8:
        raise ValueError("more runs than pixels")


def _j2k_size(frame: bytes) -> tuple[int, int, int]:
    if not frame.startswith(b"\xff\x4f\xff\x51"):
        raise ValueError("no JPEG 2000 codestream")
    right, down, left, top = struct.unpack_from(">4I", frame, 8)
    return down - top, right - left, struct.unpack_from(">H", frame, 40)[0]


def _jpeg_size(frame: bytes) -> tuple[int, int, int]:
    at = 2 if frame.startswith(b"\xff\xd8") else len(frame)
    while at + 10 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker in JPEG_FRAMES:
            rows, columns, channels = struct.unpack_from(">HHB", frame, at + 5)
            return rows, columns, channels
        if marker == 0xFF or marker in SIZELESS:
            at += 1 if marker == 0xFF else 2
        else:
            at += 2 + struct.unpack_from(">H", frame, at + 2)[0]
    raise ValueError("a codestream without a size")
