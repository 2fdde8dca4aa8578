"""What discovery finds in a dataset: the scans to be stored, and what is refused, each with its reason."""

import hashlib
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from harvester.config.fingerprint import settings_hash
from harvester.errors import SettingsError
from harvester.records import Box, Mark, Reject, Volume

LOOKS: Final = 16
"""Threads that look at files: a network takes its time for each."""
MOST_MARK_BYTES: Final = 16 << 20
"""A file of marks up to this size is read at each look: an edited mask keeps its size, and may keep its time."""


@dataclass(frozen=True)
class Discovery:
    """What is to be made, in that order, and what is refused.

    cases      dataclasses of plain values, each with volume_id, patient_id and split; those read from files also with
               `contents` (contents_of)
    unflagged  ids of the completely marked volumes of whose lesions nobody says which are clinical
    """

    cases: Sequence[Any]
    rejects: Sequence[Reject] = ()
    unflagged: frozenset[str] = frozenset()


@dataclass(frozen=True)
class LoadedVolume:
    """A volume of a dataset, its marks, and the regions left out of harvest and scoring (rows of records.IGNORE)."""

    volume: Volume
    marks: Sequence[Mark]
    ignored: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Dataset:
    """One kind of data: what there is, and how a volume of it is read or made.

    discover  what there is to store, by a salt that makes ids meaningless outside; raises LabelError, SettingsError
    load      the volume of a discovered case, given as its fields; raises VolumeError, and whatever a reader may raise
    """

    discover: Callable[[str], Discovery]
    load: Callable[[Mapping[str, Any]], LoadedVolume]


def root_of(source: Path | None) -> Path:
    """The folder of data that is read from files. Raises SettingsError where none is given."""
    if source is None:
        raise SettingsError(
            "this data.kind reads files: give --source, or set $HARVESTER_DATA to the folder of the data"
        )
    return source


def contents_of(scans: Iterable[Path], marks: Iterable[Path] = ()) -> str:
    """Names what files hold, as far as a look tells that reads no scan: other contents, another name.

    Scans are known by size and time of the last change, files of marks (up to MOST_MARK_BYTES) by all their bytes. One
    that cannot be looked at is known by nothing: reading it will tell.
    """
    return settings_hash([_state(file, 0) for file in scans], [_state(file, MOST_MARK_BYTES) for file in marks])


def _state(file: Path, most_read: int) -> list[int]:
    try:
        seen = file.stat()
        whole = seen.st_size <= most_read
        return [seen.st_size, zlib.crc32(file.read_bytes()) if whole else seen.st_mtime_ns]
    except OSError:
        return []


def clipped(box_xyxy: Box, height: int, width: int) -> Box:
    """The part of an inclusive box that lies on a slice."""
    x1, y1, x2, y2 = box_xyxy
    return max(x1, 0.0), max(y1, 0.0), min(x2, width - 1.0), min(y2, height - 1.0)


def salted_hash(name: str, salt: str) -> str:
    """What stands for a UID, a path or a patient outside the hospital: 12 hex digits, nothing without the salt."""
    return hashlib.sha256(f"{salt}:{name}".encode()).hexdigest()[:12]
