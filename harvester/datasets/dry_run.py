"""What a look through an archive found, as text: for --dry-run, and splits.csv for the hospital's own records."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from harvester.datasets.archive.nifti import is_nifti
from harvester.datasets.discovery import Discovery
from harvester.datasets.inventory import without_contents
from harvester.imaging.dicom.header import series_uid
from harvester.records import MANIFEST, MARKS, SIDES, SPLITS, ManifestTable, MarkTable, Reject
from harvester.store.commit import drawn_note, is_known
from harvester.text import table

SPLIT_COLUMNS: Final = ("patient_id", "split", "origin")
SCAN_COLUMNS: Final = ("volume_id", "patient_id", "split", "file", "SeriesInstanceUID")
REJECT_COLUMNS: Final = ("file", "reason", "message", "volume_id")


def dry_run_table(discovery: Discovery) -> str:
    """Scans, patients and marks by split, and refusals by reason with what to do; how many slices is not known.

    Marks from label masks and DICOM objects are counted when they are read: the scans that have them are counted.
    """
    of_split = {str(split): [case for case in discovery.cases if case.split == split] for split in SPLITS}
    rows = [["split", "scans", "patients", "marked", "marks", "unread"]]
    rows += [_row(split, cases) for split, cases in of_split.items() if cases]
    lines = [*table(rows), f"taken: {len(discovery.cases)} scans, refused: {len(discovery.rejects)}"]
    lines += _reasons(discovery.rejects)
    if discovery.unflagged:
        lines.append(drawn_note(len(discovery.unflagged)))
    return "\n".join(lines)


def known_tables(discovery: Discovery) -> tuple[ManifestTable, MarkTable | None]:
    """What is known of manifest and marks before a file is read: no spacing, so all boxes are of one size.

    No marks where some are in files, or are drawn when all are there.
    """
    cases = discovery.cases
    volumes = [{name: getattr(case, name) for name in ("volume_id", "patient_id", "split")} for case in cases]
    size = {"spacing_x_mm": 1.0, "spacing_y_mm": 1.0}
    manifest = ManifestTable(pa.Table.from_pylist([row | size for row in volumes], MANIFEST))
    if discovery.unflagged or any(_unread(case) or not hasattr(case, "marks") for case in cases):
        return manifest, None
    box = dict.fromkeys(SIDES, 0.0)
    marks = [
        {"volume_id": case.volume_id, "clinical": clinical, **box}
        for case in cases
        for lesion in _lesions(case.marks)
        if is_known(clinical := any(mark["clinical"] is not False for mark in lesion), case.split)
    ]
    return manifest, MarkTable(pa.Table.from_pylist(marks, MARKS))


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


def scans_csv(root: Path, cases: Iterable[Any]) -> str:
    """Which volume is which scan under `root`, as SCAN_COLUMNS: its file, of a series one of its files. It undoes the
    pseudonyms."""
    rows = []
    for case in cases:
        file = next(iter(getattr(case, "files", ())), "")
        uid = series_uid(root / file) if file and not is_nifti(file) else ""
        rows.append((case.volume_id, case.patient_id, case.split, str(root / file) if file else "", uid))
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


def _row(split: str, cases: list[Any]) -> list[str]:
    patients = len({case.patient_id for case in cases})
    counts = [len(_lesions(getattr(case, "marks", ()))) for case in cases]
    unread = sum(map(_unread, cases))
    marked = sum(1 for count in counts if count)
    return [split, *map(str, (len(cases), patients, marked, sum(counts), unread))]


def _unread(case: Any) -> bool:
    """Whether marks of the case are in files that are read later."""
    return bool(getattr(case, "mask", "") or getattr(case, "objects", ()))


def _lesions(marks: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Rows of tables by lesion."""
    lesions: dict[Any, list[Mapping[str, Any]]] = {}
    for number, mark in enumerate(marks):
        lesions.setdefault(mark.get("lesion") or mark.get("where") or number, []).append(mark)
    return [*lesions.values()]


def _reasons(rejects: Iterable[Reject]) -> list[str]:
    listed = list(rejects)
    first = {row.reason: row.message for row in reversed(listed)}
    counts = Counter(row.reason for row in listed)
    return [f"  {count:>6} {reason}, the first: {first[reason]}" for reason, count in sorted(counts.items())]
