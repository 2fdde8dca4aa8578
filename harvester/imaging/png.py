"""DeepLesion's slices: 16-bit grey PNG files, one per slice, whose values are HU + 32768.

Values are kept as they are (a scanner's padding too): int16 holds every one of them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harvester.errors import VolumeError, about_volume
from harvester.records import Volume

HU_OFFSET: Final = 32768
MAX_VOXELS: Final = 1 << 30
MAX_SLICE: Final = 1 << 26
"""A volume or slice that claims more pixels (2 GiB, 128 MiB in memory) is refused before one is read."""
SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
GREY: Final = 0
"""PNG's colour type of grey without transparency."""


def read_png_slices(
    root: Path,
    names: Sequence[str],
    volume_id: str,
    patient_id: str,
    spacing_zyx_mm: tuple[float, float, float],
    size_px: tuple[int, int] | None = None,
) -> Volume:
    """The slices `names` (paths under `root`, in the stored order) as one Volume.

    `size_px`, where given, are the sides that every slice must have, in either order; else all must be as the first.
    Raises VolumeError: no_slices, missing_slice, outside_root, unreadable, not_16_bit, wrong_size, too_large.
    """
    with about_volume(volume_id):
        if not names:
            raise VolumeError("no_slices", "names no slices; want at least one")
        files = [_inside(root, name, f"slice {place}") for place, name in enumerate(names)]
        shape = _shape(files[0], len(files), size_px)
        hu = np.empty((len(files), *shape), np.int16)
        for place, file in enumerate(files):
            with _opened(file, f"slice {place}") as stream:
                hu[place] = _pixels(stream, shape, f"slice {place}")
    return Volume(volume_id, patient_id, hu, spacing_zyx_mm)


def _inside(root: Path, name: str, where: str) -> Path:
    """The file, if it lies under the root after all links are followed. 001.PNG is taken for 001.png."""
    try:
        given = root / name
        file = (given if given.exists() else given.with_suffix(given.suffix.upper())).resolve()
        inside, there = file.is_relative_to(root.resolve()), file.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # no permission, a loop of links, a name with a zero byte
        raise VolumeError("unreadable", f"{where} cannot be reached ({type(error).__name__})") from None
    if not inside:
        raise VolumeError("outside_root", f"{where} is a name or link that leads out of the archive; copy the file in")
    if not there:
        raise VolumeError("missing_slice", f"{where} is not there; fetch the series again")
    return file


def _shape(file: Path, depth: int, size_px: tuple[int, int] | None) -> tuple[int, int]:
    """Rows and columns of all slices."""
    with _opened(file, "slice 0") as stream:
        rows, columns = _header(stream, "slice 0")
    if size_px and sorted(size_px) != sorted((rows, columns)):
        raise _wrong_size("slice 0", (rows, columns), size_px[::-1])
    if rows * columns > MAX_SLICE or depth * rows * columns > MAX_VOXELS:
        raise VolumeError(
            "too_large",
            f"{depth} slices of {rows} x {columns} pixels; want at most {MAX_SLICE} per slice and "
            f"{MAX_VOXELS} in all; cut it",
        )
    return rows, columns


def _opened(file: Path, where: str) -> BinaryIO:
    try:
        return file.open("rb")
    except OSError as error:
        raise VolumeError("unreadable", f"{where} cannot be opened ({type(error).__name__})") from None


def _header(stream: BinaryIO, where: str) -> tuple[int, int]:
    """Rows and columns that a PNG claims; its first 26 bytes say all that is asked for before it is decoded."""
    start = stream.read(26)
    stream.seek(0)
    if len(start) < 26 or not start.startswith(SIGNATURE) or start[12:16] != b"IHDR":
        raise VolumeError("unreadable", f"{where} is no PNG file or is cut short; fetch it again")
    bits, colour = start[24], start[25]
    if (bits, colour) != (16, GREY):
        raise VolumeError(
            "not_16_bit", f"{where} is a PNG of {bits} bits, colour type {colour}; want 16-bit grey (HU + {HU_OFFSET})"
        )
    columns, rows = (int.from_bytes(start[at : at + 4], "big") for at in (16, 20))
    return rows, columns


def _pixels(stream: BinaryIO, shape: tuple[int, int], where: str) -> NDArray[Any]:
    """HU of one slice; its claimed size is compared before anything is allocated."""
    claimed = _header(stream, where)
    if claimed != shape:
        raise _wrong_size(where, claimed, shape)
    try:
        with Image.open(stream, formats=("PNG",)) as image:
            values = np.asarray(image)
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise VolumeError(
            "unreadable", f"{where} is broken or cut short ({type(error).__name__}); fetch it again"
        ) from None
    # Flipping the highest of 16 bits takes HU_OFFSET away.
    return (values.astype(np.uint16) ^ np.uint16(HU_OFFSET)).view(np.int16)


def _wrong_size(where: str, found: tuple[int, int], wanted: tuple[int, ...]) -> VolumeError:
    return VolumeError(
        "wrong_size",
        f"{where} has {found[0]} x {found[1]} pixels; want {wanted[0]} x {wanted[1]}, as the archive's table or "
        "the first slice says",
    )
