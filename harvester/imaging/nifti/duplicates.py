"""NIfTI files that hold the same voxels under several names: one of them in vm and one in vh_test would be a leak."""

import hashlib
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from harvester.imaging.nifti.file import BROKEN, Header, opened

FIRST_BYTES: Final = 1 << 20

File = tuple[Path, Header]


def twins(files: Mapping[str, File]) -> list[list[str]]:
    """Groups of names whose files hold the same values, whatever their headers' texts and packing; none for none.

    Files alike in length are compared by their first MiB, and those alike in that as a whole: an archive without
    twins is not read through. Files that cannot be read are nobody's twins.
    """
    groups = [sorted(files)]
    for mark in (_length, _first, _whole):
        groups = [small for group in groups for small in _alike(group, files, mark)]
    return groups


def _alike(names: Iterable[str], files: Mapping[str, File], mark: Callable[[File], Any]) -> list[list[str]]:
    found: dict[Any, list[str]] = {}
    for name in names:
        try:
            found.setdefault(mark(files[name]), []).append(name)
        except BROKEN:
            continue  # reading it will tell
    return [group for group in found.values() if len(group) > 1]


def _length(file: File) -> tuple[int, str]:
    return file[1].data_bytes, file[1].dtype.str


def _first(file: File) -> int:
    with opened(file[0]) as content:
        content.seek(file[1].offset)
        return zlib.crc32(content.read(FIRST_BYTES))


def _whole(file: File) -> bytes:
    with opened(file[0]) as content:
        content.seek(file[1].offset)
        digest, left = hashlib.sha256(), file[1].data_bytes  # what follows the voxels may unpack for ever
        while left and (part := content.read(min(left, FIRST_BYTES))):
            digest.update(part)
            left -= len(part)
        return digest.digest()
