"""Lists of an archive's patients, scans and refused files as CSV: splits.csv, --scans and --rejects of `prepare`."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from harvester.datasets.archive.nifti import is_nifti
from harvester.datasets.discovery import Discovery
from harvester.datasets.inventory import without_contents
from harvester.imaging.dicom.header import series_uid
from harvester.records import Reject

SPLIT_COLUMNS: Final = ("patient_id", "split", "origin")
SCAN_COLUMNS: Final = ("volume_id", "patient_id", "split", "file", "SeriesInstanceUID")
REJECT_COLUMNS: Final = ("file", "reason", "message", "volume_id")


def split_rows(discovery: Discovery) -> list[dict[str, str]]:
    """SPLIT_COLUMNS of each patient, sorted: pseudonym, split, and whether the split was given or drawn.

    A patient has a row for each split: one, but for DeepLesion, whose V_M and V_H share patients.
    """
    rows = {(case.patient_id, case.split, getattr(case, "split_origin", "given")) for case in discovery.cases}
    return [dict(zip(SPLIT_COLUMNS, row, strict=True)) for row in sorted(rows)]


def rejects_csv(root: Path, discovery: Discovery, rejects: Iterable[Reject], source_hashes: Mapping[str, str]) -> str:
    """Every file under `root` that was refused, as REJECT_COLUMNS, for who holds the archive: paths are in it.

    source_hashes  volume_id: what a volume that was read, or should have been, is made from (Inventory)
    """
    cases = {without_contents(source_hashes.get(case.volume_id, "")): case for case in discovery.cases}
    rows = []
    for each in rejects:
        case = cases.get(without_contents(each.source_hash))
        files = each.files or tuple(getattr(case, "files", ()))
        volume = case.volume_id if case else ""
        rows += [(str(root / file), each.reason, each.message, volume) for file in files or ("",)]
    return _csv(REJECT_COLUMNS, (dict(zip(REJECT_COLUMNS, row, strict=True)) for row in sorted(rows)))


def taken(discovery: Discovery, rejects: Iterable[Reject], source_hashes: Mapping[str, str]) -> list[Any]:
    """The cases of which no file was refused when it was read; source_hashes as in `rejects_csv`."""
    refused = {without_contents(each.source_hash) for each in rejects}
    hashes = {volume: without_contents(own) for volume, own in source_hashes.items()}
    return [case for case in discovery.cases if hashes.get(case.volume_id, case.volume_id) not in refused]


def scans_csv(root: Path, cases: Iterable[Any]) -> str:
    """Which volume is which scan under `root`, as SCAN_COLUMNS: its file, of a series one of its files, of DeepLesion
    slice 0. It undoes the pseudonyms."""
    rows = []
    for case in cases:
        own = next(iter(getattr(case, "files", ())), "")
        uid = series_uid(root / own) if own and not is_nifti(own) else ""
        file = own or getattr(case, "first_file", "")
        rows.append((case.volume_id, case.patient_id, case.split, str((root / file).resolve()) if file else "", uid))
    return _csv(SCAN_COLUMNS, (dict(zip(SCAN_COLUMNS, row, strict=True)) for row in sorted(rows)))


def splits_csv(rows: Iterable[Mapping[str, str]]) -> str:
    """The rows as the text of splits.csv."""
    return _csv(SPLIT_COLUMNS, rows)


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
