"""What a look through an archive finds: the scans to be stored, and what is refused, each with its reason."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harvester.records import Refused


@dataclass
class Scan:
    """A scan as found: its files, the names by which a table may call it, and who it is of.

    masks  label masks of its lesions
    objects  files beside it that may hold its marks, under the root; machine_marks: those of programs count too
    """

    key: str
    patient: str
    files: list[Path]
    names: set[str]
    masks: list[Path] = field(default_factory=list)
    objects: list[str] = field(default_factory=list)
    machine_marks: bool = False


@dataclass(frozen=True)
class Found:
    """Cases (dataclasses of plain values, each with volume_id, patient_id and split), sorted by id; and refusals."""

    cases: Sequence[Any]
    refused: Sequence[Refused] = ()


def salted_hash(name: str, salt: str) -> str:
    """What stands for a UID, a path or a patient outside the hospital: 12 hex digits, nothing without the salt."""
    return hashlib.sha256(f"{salt}:{name}".encode()).hexdigest()[:12]
