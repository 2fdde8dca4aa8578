"""What a look through an archive found, as text: for --dry-run, and splits.csv for the hospital's own records."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from harvester.datasets.discovery import Discovery
from harvester.records import SPLITS, Reject
from harvester.text import table

SPLIT_COLUMNS: Final = ("patient_id", "split", "origin")
VM_HINT: Final = (
    "vm is empty, nothing can be learnt; say in volumes.csv whose lesions are all marked (complete = 1), of "
    "DeepLesion by --mining-marks"
)
VH_HINT: Final = "vh and vh_test are empty: there is nothing to harvest"


def dry_run_table(discovery: Discovery) -> str:
    """Scans, patients and marks by split, and refusals by reason with what to do; how many slices is not known.

    Marks from label masks and DICOM objects are counted when they are read: the scans that have them are counted.
    """
    of_split = {str(split): [case for case in discovery.cases if case.split == split] for split in SPLITS}
    rows = [["split", "scans", "patients", "marked", "marks", "unread"]]
    rows += [_row(split, cases) for split, cases in of_split.items() if cases]
    lines = [*table(rows), f"taken: {len(discovery.cases)} scans, refused: {len(discovery.rejects)}"]
    lines += _reasons(discovery.rejects)
    hints = [(VM_HINT, ("vm",)), (VH_HINT, ("vh", "vh_test"))]
    lines += [f"note: {hint}" for hint, wanted in hints if not any(of_split[split] for split in wanted)]
    return "\n".join(lines)


def split_rows(discovery: Discovery) -> list[dict[str, str]]:
    """SPLIT_COLUMNS of each patient, sorted: pseudonym, split, and whether the split was given or drawn.

    A patient has a row for each split: one, but for DeepLesion, whose V_M and V_H share patients.
    """
    rows = {(case.patient_id, case.split, getattr(case, "split_origin", "given")) for case in discovery.cases}
    return [dict(zip(SPLIT_COLUMNS, row, strict=True)) for row in sorted(rows)]


def splits_csv(rows: Iterable[Mapping[str, str]]) -> str:
    """The rows as the text of splits.csv."""
    text = io.StringIO()
    writer = csv.DictWriter(text, SPLIT_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _row(split: str, cases: list[Any]) -> list[str]:
    patients = len({case.patient_id for case in cases})
    counts = [_lesions(getattr(case, "marks", ())) for case in cases]
    unread = sum(1 for case in cases if getattr(case, "mask", "") or getattr(case, "objects", ()))
    marked = sum(1 for count in counts if count)
    return [split, *map(str, (len(cases), patients, marked, sum(counts), unread))]


def _lesions(marks: Iterable[Mapping[str, Any]]) -> int:
    """Rows of tables that are lesions: those of one lesion count once."""
    return len({mark.get("lesion") or mark.get("where") or number for number, mark in enumerate(marks)})


def _reasons(rejects: Iterable[Reject]) -> list[str]:
    listed = list(rejects)
    first = {row.reason: row.message for row in reversed(listed)}
    counts = Counter(row.reason for row in listed)
    return [f"  {count:>6} {reason}, the first: {first[reason]}" for reason, count in sorted(counts.items())]
