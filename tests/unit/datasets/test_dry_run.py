"""What --dry-run and splits.csv say of an archive."""

from dataclasses import dataclass, field
from typing import Any

from harvester.datasets.discovery import Discovery
from harvester.datasets.dry_run import dry_run_table, split_rows, splits_csv
from harvester.records import Reject


@dataclass(frozen=True)
class Case:
    volume_id: str
    patient_id: str
    split: str
    marks: list[dict[str, Any]] = field(default_factory=list)
    mask: str = ""
    split_origin: str = "drawn"


MARKS = [{"where": f"marks.csv line {line}", "lesion": lesion} for line, lesion in ((2, ""), (3, "a"), (4, "a"))]
FOUND = Discovery(
    [
        Case("v1", "pb", "vm", MARKS, split_origin="given"),
        Case("v2", "pb", "vm", split_origin="given"),
        Case("v3", "pa", "vh", mask="a.mask.nii.gz"),
    ],
    [Reject("1", "not_3d", "one"), Reject("2", "link", "two"), Reject("3", "not_3d", "three")],
)


def test_scans_patients_and_lesions_are_counted_by_split_and_refusals_by_reason() -> None:
    assert dry_run_table(FOUND).splitlines() == [
        "split  scans  patients  marked  marks  unread",
        "vm         2         1       1      2       0",
        "vh         1         1       0      0       1",
        "taken: 3 scans, refused: 3",
        "       1 link, the first: two",
        "       2 not_3d, the first: one",
    ]


def test_an_empty_archive_and_missing_roles_are_told() -> None:
    text = dry_run_table(Discovery([]))
    assert "taken: 0 scans, refused: 0" in text
    assert text.count("note:") == 2
    assert "nothing to harvest" in dry_run_table(Discovery([Case("v", "p", "vm")]))
    assert "complete = 1" in dry_run_table(Discovery([Case("v", "p", "vh")]))
    assert "note:" not in dry_run_table(Discovery([Case("v", "p", "vm"), Case("w", "q", "vh_test")]))


def test_splits_are_a_row_a_patient() -> None:
    rows = split_rows(FOUND)
    assert rows == [
        {"patient_id": "pa", "split": "vh", "origin": "drawn"},
        {"patient_id": "pb", "split": "vm", "origin": "given"},
    ]
    assert splits_csv(rows) == "patient_id,split,origin\npa,vh,drawn\npb,vm,given\n"
