"""NIfTI files that hold the same voxels under several names: one of them in vm and one in vh_test would be a leak."""

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
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
    return zlib.crc32(next(_voxels(file), b""))


def _whole(file: File) -> bytes:
    digest = hashlib.sha256()
    for part in _voxels(file):
        digest.update(part)
    return digest.digest()


def _voxels(file: File) -> Iterator[bytes]:
    """The values, and nothing of what follows them, which may unpack for ever."""
    path, header = file
    with opened(path) as content:
        content.seek(header.offset)
        for start in range(0, header.data_bytes, FIRST_BYTES):
            yield content.read(min(FIRST_BYTES, header.data_bytes - start))
