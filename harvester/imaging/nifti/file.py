"""NIfTI files whose header is not trusted: size, type, spacing and axes are checked before a voxel is read.

Errors name what was raised, not its text: that names the path, and paths may tell a patient's name.

Nothing is allocated for more bytes than the file can hold, and of those a slice at a time. nibabel knows the headers'
fields; its `load` is not used, because it reads extensions of whatever length the file claims and mends a spacing of 0
to 1.
"""

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Final

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError

from harvester.errors import VolumeError, about_volume
from harvester.geometry import Array
from harvester.imaging.nifti.affine import checked_affine, same_place
from harvester.imaging.orientation import Orientation

GZIP: Final = b"\x1f\x8b"
READ_ON_BYTES: Final = 1 << 20
BROKEN: Final = (HeaderDataError, OSError, EOFError, zlib.error, ValueError, OverflowError, LookupError)
MAX_VOXELS: Final = 1000 * 1024 * 1024
"""A thousand slices of 1024 x 1024: 2 GiB as int16. More is a broken header, or not for one worker's memory."""
VOXEL_BYTES: Final = 2
"""Of CT's values. A file of wider ones may have as many voxels fewer."""
MOST_DEFLATED: Final = 1032
"""Bytes that one byte of a gzip file can become at most."""
MOST_HEADER_BYTES: Final = 16 << 20
"""Header and extensions; those of a real file take some KiB."""
HEADERS: Final[dict[int, tuple[Any, bytes]]] = {348: (Nifti1Header, b"n+1"), 540: (Nifti2Header, b"n+2")}
"""Header class and magic word by the header's size, which is a file's first number."""


@dataclass(frozen=True, eq=False)
class Header:
    """What is needed of a NIfTI header, checked.

    shape       voxels along the file's axes (i, j, k)
    dtype       of the values as stored, in the file's byte order
    offset      byte at which they begin, in the unpacked file
    slope       value = slope * stored + inter
    affine_ras  (4, 4) voxel index to RAS+ mm
    raw         nibabel's header as it stands in the file: sform, qform and their codes
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    offset: int
    slope: float
    inter: float
    affine_ras: Array
    raw: Any

    @property
    def data_bytes(self) -> int:
        """Bytes of the values as stored."""
        return self.shape[0] * self.shape[1] * self.shape[2] * self.dtype.itemsize

    def orientation(self) -> Orientation:
        """How the file's axes become the stored ones."""
        return Orientation.of(self.affine_ras, self.shape)

    def forms_differ(self) -> bool:
        """Whether sform and qform put a corner of the voxels further apart than a voxel's shortest side.

        nibabel, and so we, go by the sform; ITK's programs (Slicer, ITK-SNAP) by one or the other, as their codes say.
        """
        if not int(self.raw["sform_code"]) or not int(self.raw["qform_code"]):
            return False
        try:
            return not same_place(self.raw.get_sform(), self.raw.get_qform(), self.shape, 1.0)
        except (HeaderDataError, ValueError):
            return True  # the qform is no rotation: nobody can go by it

    def spacing_zyx_mm(self) -> tuple[float, float, float]:
        """Spacing in the stored order."""
        sides = np.linalg.norm(self.affine_ras[:3, :3], axis=0)
        return self.orientation().spacing_zyx_mm(tuple(sides.tolist()))


def read_header(path: Path, volume_id: str, max_voxels: int = MAX_VOXELS, form: str = "auto") -> Header:
    """The checked header of a 3D NIfTI; no voxel is read. form: which affine counts (data.archive.nifti_form).

    VolumeError's reasons: unreadable, not_3d, not_grey, too_large, and those of affine.checked_affine.
    """
    with about_volume(volume_id):
        try:
            raw = _raw_header(path)
            # The most bytes that the file can hold, unpacked.
            room = path.stat().st_size * (MOST_DEFLATED if _packed(path) else 1)
            count = int(raw["dim"][0])
            if not 1 <= count <= 7:
                raise ValueError("number of dimensions")
            shape = tuple(int(side) for side in raw["dim"][1 : 1 + count])
            dtype, offset = raw.get_data_dtype(), int(raw["vox_offset"])
            slope, inter = raw.get_slope_inter()
        except BROKEN as error:
            raise VolumeError("unreadable", f"not a NIfTI file ({type(error).__name__})") from None
        sides = _checked_shape(shape, dtype.itemsize, max_voxels)
        if dtype.kind not in "iuf":
            raise VolumeError("not_grey", f"want one number per voxel, got type {dtype}; is this a picture?")
        affine = checked_affine(raw, form)
        header = Header(sides, dtype, offset, 1.0 if slope is None else slope, inter or 0.0, affine, raw)
        if not raw["sizeof_hdr"] <= offset <= MOST_HEADER_BYTES or header.data_bytes > room - offset:
            raise VolumeError(
                "unreadable", f"the file is too short for shape {sides} from byte {offset} on; copy it anew"
            )
        return header


def stored_slices(path: Path, header: Header, volume_id: str) -> Iterator[Array]:
    """The values as stored, unscaled: an (i, j) array for each k in turn. Raises VolumeError: unreadable."""
    try:
        with opened(path) as file:
            file.seek(header.offset)
            for _ in range(header.shape[2]):
                content = np.empty(header.data_bytes // header.shape[2], np.uint8)
                _fill(file, content.data)
                yield content.view(header.dtype).reshape(header.shape[:2], order="F")
            # gzip compares its checksum where the file ends: a few bytes behind the voxels as a rule.
            file.read(READ_ON_BYTES)
    except BROKEN as error:
        fault = f"volume {volume_id}: NIfTI data broken ({type(error).__name__}); copy the file anew"
        raise VolumeError("unreadable", fault) from None


def opened(path: Path) -> BufferedIOBase:
    """The file's bytes, unpacked where they are packed."""
    return gzip.open(path) if _packed(path) else path.open("rb")


def _raw_header(path: Path) -> Any:
    with opened(path) as file:
        block = file.read(max(HEADERS))
    claimed = {int.from_bytes(block[:4], "little"), int.from_bytes(block[:4], "big")}
    size = next((size for size in HEADERS if size in claimed and size <= len(block)), 0)
    if not size:
        raise ValueError("no NIfTI header")
    kind, magic = HEADERS[size]
    raw = kind(block[:size], check=False)
    if bytes(raw["magic"])[:3] != magic:
        raise ValueError("no NIfTI in one file")
    return raw


def _checked_shape(shape: tuple[int, ...], voxel_bytes: int, max_voxels: int) -> tuple[int, int, int]:
    if len(shape) < 3 or any(side != 1 for side in shape[3:]) or min(shape) < 1:
        raise VolumeError("not_3d", f"want a 3D NIfTI with voxels, got shape {shape}; write one file per volume")
    voxels = shape[0] * shape[1] * shape[2]
    if voxels > max_voxels or voxels * voxel_bytes > max_voxels * VOXEL_BYTES:
        raise VolumeError(
            "too_large",
            f"shape {shape} is {voxels:,} voxels of {voxel_bytes} bytes, more than data.archive.max_voxels = "
            f"{max_voxels:,} of {VOXEL_BYTES}; raise it if the scan is right",
        )
    return shape[0], shape[1], shape[2]


def _packed(path: Path) -> bool:
    """By its first bytes: names are wrong at times."""
    with path.open("rb") as file:
        return file.read(len(GZIP)) == GZIP


def _fill(file: BufferedIOBase, content: memoryview) -> None:
    while content:
        count = file.readinto(content)
        if not count:
            raise EOFError
        content = content[count:]
