"""Which split each patient of an archive belongs to: as the tables say, else drawn, seeded, patient by patient."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from harvester.datasets.archive.tables import Known, ScanFiles
from harvester.datasets.discovery import salted_hash
from harvester.errors import LabelError

MOST_ROWS: Final = 4
"""Rows of tables that a message names."""


@dataclass(frozen=True)
class Assigned:
    """A patient's split, and whether it was given by the tables or drawn."""

    split: str
    origin: str


def assign(scans: Iterable[ScanFiles], share: float, seed: int) -> dict[str, Assigned]:
    """The split of each patient: the named one, else vm or vh_test if all their scans are complete, else vh.

    `share` of the complete patients go to vh_test. A further patient moves nobody. Raises LabelError for a patient in
    two splits.
    """
    of_patient: dict[str, list[Known]] = {}
    for each in scans:
        of_patient.setdefault(each.patient, []).append(each.known)
    return {patient: _assigned(patient, listed, share, seed) for patient, listed in of_patient.items()}


def _assigned(patient: str, scans: Sequence[Known], share: float, seed: int) -> Assigned:
    named = _named_split(scans)
    if named:
        return Assigned(named, "given")
    if not all(scan.complete for scan in scans):
        return Assigned("vh", "drawn")
    # A number in [0, 1) that hangs on this patient and the seed alone.
    draw = int(salted_hash(patient, str(seed)), 16) / 16**12
    return Assigned("vh_test" if draw < share else "vm", "drawn")


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
