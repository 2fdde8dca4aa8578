"""Opening DICOM files that may be broken or made to harm.

A length in a file is a claim: nothing is allocated for more bytes than the file has. A deflated file is inflated up
to a limit. pydicom's warnings and log lines quote the file, so they are kept silent; so are its errors' texts.
"""

import io
import logging
import os
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import pydicom
from pydicom import config as pydicom_config
from pydicom.filereader import read_file_meta_info
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from harvester.errors import VolumeError

MOST_FILE_BYTES: Final = 2 << 30
"""Of one file, as it is and inflated: 4,000 slices of 512 x 512 in one segmentation."""
MOST_SLICE_BYTES: Final = 256 << 20
"""The same of a file that is one slice: twice the largest that is decoded."""
MOST_REPORT_BYTES: Final = 256 << 20
"""The same of an object without pixels, whose numbers and items take many times their room once they are parsed."""
MOST_HEADER_BYTES: Final = 16 << 20
"""Of a deflated file, as far as it is inflated to read its header."""
LOUD: Final = ("highdicom", "pydicom")
"""Loggers."""
PREAMBLE: Final = 132
FIRST_VRS: Final = ("UL", "CS", "OB", "UI", "SH", "DA", "TM", "DT", "LO")
MOST_FIRST_ELEMENT: Final = 0x0018
"""(0008,0018), the SOPInstanceUID, is in every image: what a file begins with comes no later."""
MOST_FIRST_BYTES: Final = 1024
"""Of its value: a group's length, character sets, ImageType, UIDs."""
SMALL_BYTES: Final = 1 << 16
"""Reads of up to this are not measured against the file: a header is thousands of them."""
BROKEN: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,  # RecursionError too: sequences nested too deep
    TypeError,
    ValueError,
    pydicom.errors.InvalidDicomError,
    pydicom.errors.BytesLengthException,
    struct.error,
    zlib.error,
)
"""What pydicom and its codecs raise on broken files."""


class DeflatedError(Exception):
    """The file is deflated: pydicom asked for all the rest of it."""


class Bounded:
    """A file that never makes room for more bytes than are left in it."""

    def __init__(self, source: BinaryIO) -> None:
        self.source, self.seek, self.tell = source, source.seek, source.tell
        self.size = source.seek(0, os.SEEK_END)
        source.seek(0)

    def read(self, count: int | None = None) -> bytes:
        """At most `count` bytes. Raises DeflatedError without one: only pydicom's inflating asks so."""
        if count is None or count < 0:
            raise DeflatedError
        if count <= SMALL_BYTES:
            return self.source.read(count)
        return self.source.read(max(0, min(count, self.size - self.tell())))


def is_dicom_file(file: Path) -> bool:
    """Whether the file begins as DICOM does, or as a data set that lacks its preamble; False for one that may not be
    read. Some planning systems and old archives leave the preamble out, and the file meta information with it."""
    try:
        with file.open("rb") as source:
            head = source.read(PREAMBLE)
    except OSError:
        return False
    return (head[-4:] == b"DICM" and len(head) == PREAMBLE) or _begins_a_data_set(head)


def _begins_a_data_set(head: bytes) -> bool:
    """Whether bytes begin with an element of the file meta information or of group 8, in any of DICOM's encodings."""
    for order in ("<", ">"):
        if len(head) < 16:
            return False
        group, element, length = struct.unpack(f"{order}HHI", head[:8])
        if group not in (0x0002, 0x0008) or element > MOST_FIRST_ELEMENT:
            continue
        explicit = head[4:6].decode("ascii", "replace") in FIRST_VRS
        if explicit or length <= MOST_FIRST_BYTES:
            return True
    return False


def stored_class(file: Path) -> str:
    """The SOP class in the file meta information, "" where that is not there: nothing else is read."""
    try:
        return str(read_file_meta_info(str(file)).get("MediaStorageSOPClassUID", ""))
    except BROKEN:
        return ""


def read_header(file: Path, tags: Sequence[str] | None = None) -> pydicom.Dataset:
    """The named elements before the pixels, or all. Raises what is in BROKEN; call within `silence_dicom_loggers`."""
    options: Any = {"stop_before_pixels": True, "specific_tags": None if tags is None else list(tags)}
    with file.open("rb") as source:
        try:
            return _read(Bounded(source), **options)
        except DeflatedError:
            return _read(_inflated(file, source, MOST_HEADER_BYTES, cut=True), **options)


def _read(source: Bounded, **options: Any) -> pydicom.Dataset:
    """A data set, also one without preamble; then its transfer syntax is the one that its elements are written in."""
    item = pydicom.dcmread(source, force=True, **options)
    if "TransferSyntaxUID" not in item.file_meta:
        implicit, little = item.original_encoding
        plain = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        item.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else plain
    return item


def read_whole(file: Path, most_bytes: int) -> pydicom.Dataset:
    """The whole file, of at most so many bytes, inflated too; call within `silence_dicom_loggers`.

    Raises VolumeError: unreadable, too_large.
    """
    with readable(), file.open("rb") as source:
        bounded = Bounded(source)
        if bounded.size > most_bytes:
            raise VolumeError("too_large", f"a file of over {most_bytes} bytes")
        try:
            return _read(bounded)
        except DeflatedError:
            return _read(_inflated(file, source, most_bytes))


@contextmanager
def readable(fault: str = "a file is not readable DICOM") -> Iterator[None]:
    """Within it what is in BROKEN becomes a VolumeError, unreadable; `fault` says what has which fault."""
    try:
        yield
    except BROKEN as error:
        raise VolumeError("unreadable", f"{fault} ({type(error).__name__}); export it again") from None


@contextmanager
def silence_dicom_loggers() -> Iterator[None]:
    """Within it pydicom and highdicom warn and log nothing, for that quotes names and dates; no value read is checked.

    It may be entered again within itself.
    """
    loggers = [logging.getLogger(name) for name in LOUD]
    levels, mode = [log.level for log in loggers], pydicom_config.settings.reading_validation_mode
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for log in loggers:
            log.setLevel(logging.CRITICAL + 1)
        pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
        try:
            yield
        finally:
            for log, level in zip(loggers, levels, strict=True):
                log.setLevel(level)
            pydicom_config.settings.reading_validation_mode = mode


def _inflated(file: Path, source: BinaryIO, most_bytes: int, cut: bool = False) -> Bounded:
    """The file as if it had never been deflated. Raises ValueError past `most_bytes`, unless it may be `cut`."""
    start = PREAMBLE + 12 + int(read_file_meta_info(str(file)).FileMetaInformationGroupLength)
    bounded = Bounded(source)
    head, body = bounded.read(min(start, MOST_HEADER_BYTES)), bounded.read(MOST_FILE_BYTES)
    plain = ExplicitVRLittleEndian.ljust(len(DeflatedExplicitVRLittleEndian), "\0")
    if DeflatedExplicitVRLittleEndian.encode() not in head:
        raise ValueError("no transfer syntax where it should be")
    data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(body, most_bytes + 1)
    if len(data) > most_bytes and not cut:
        raise ValueError("a decompression bomb")
    return Bounded(io.BytesIO(head.replace(DeflatedExplicitVRLittleEndian.encode(), plain.encode()) + data))
