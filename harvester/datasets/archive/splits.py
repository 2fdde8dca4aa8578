"""Which split each patient of an archive belongs to: as the tables say, else drawn, seeded, patient by patient."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from harvester.datasets.archive.tables import Known
from harvester.errors import LabelError

MOST_ROWS: Final = 4
"""Rows of tables that a message names."""


@dataclass(frozen=True)
class Assigned:
    """A patient's split, and whether it was given by the tables or drawn."""

    split: str
    origin: str


def assign(patients: Mapping[str, str], known: Mapping[str, Known], share: float, seed: int) -> dict[str, Assigned]:
    """The split of each patient: the named one, else vm or vh_test if all their scans are complete, else vh.

    `patients` has the patient of each scan's key; `share` of the complete patients go to vh_test. A further patient
    moves nobody. Raises LabelError for a patient in two splits.
    """
    of_patient: dict[str, list[Known]] = {}
    for key, patient in patients.items():
        of_patient.setdefault(patient, []).append(known.get(key, Known()))
    return {patient: _assigned(patient, scans, share, seed) for patient, scans in of_patient.items()}


def _assigned(patient: str, scans: Sequence[Known], share: float, seed: int) -> Assigned:
    named = _named_split(scans)
    if named:
        return Assigned(named, "given")
    return Assigned(_drawn_split(all(bool(scan.complete) for scan in scans), patient, share, seed), "drawn")


def _named_split(scans: Sequence[Known]) -> str:
    """The split that the tables name for the scans of a patient, "" for none. Raises LabelError for two."""
    named = sorted({scan.split for scan in scans if scan.split})
    rows = ", ".join([where for scan in scans for where in scan.rows][:MOST_ROWS])
    if len(named) > 1:
        raise LabelError(f"a patient's scans are in {' and '.join(named)} ({rows}); want one split per patient")
    if named not in ([], ["vh"]) and not all(scan.split or scan.complete for scan in scans):
        raise LabelError(
            f"a patient in split {named[0]} ({rows}) has scans that are not said to be complete; give each of the "
            "patient's scans the split or complete = 1"
        )
    return named[0] if named else ""


def _drawn_split(complete: bool, patient: str, share: float, seed: int) -> str:
    if not complete:
        return "vh"
    return "vh_test" if _draw(patient, seed) < share else "vm"


def _draw(patient: str, seed: int) -> float:
    """A number in [0, 1) that hangs on this patient and the seed alone."""
    return int(hashlib.sha256(f"{seed}:{patient}".encode()).hexdigest()[:12], 16) / 16**12
