"""What a look through an archive found, for --dry-run: a table to read, and what the certificate asks about."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from harvester.datasets.discovery import Discovery
from harvester.records import MANIFEST, MARKS, SIDES, SPLITS, ManifestTable, MarkTable, Reject
from harvester.store.commit import drawn_note, is_known
from harvester.text import table


def dry_run_table(discovery: Discovery) -> str:
    """Scans, patients and marks by split, and refusals by reason with what to do; how many slices is not known.

    Marks in files (label masks, DICOM objects) are counted when they are read: the scans that have such are counted.
    """
    of_split = {str(split): [case for case in discovery.cases if case.split == split] for split in SPLITS}
    rows = [["split", "scans", "patients", "with marks", "marks", "marks in files"]]
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
