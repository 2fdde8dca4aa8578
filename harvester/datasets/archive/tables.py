"""marks.csv and volumes.csv of somebody's archive (archive.py says what is in them)."""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import Final, TypedDict

from harvester.errors import LabelError
from harvester.labels.columns import refuse_columns
from harvester.labels.sheets import read_sheet
from harvester.records import SIDES, SPLITS

logger = logging.getLogger(__name__)

MOST_KIND: Final = 40
"""Letters of a kind of lesion: a word or two. More may be somebody's report, and kinds go into the store's tables."""
NO_KIND: Final = re.compile(r"\d{4}|@")
"""A date or a number is no part of one."""
BEHIND_KIND: Final = re.compile(r"[^\w /+.-]")
PER_SCAN: Final = ("file", "patient", "split", "complete")
PER_MARK: Final = ("file", "z", *SIDES, "clinical", "kind", "lesion", *PER_SCAN[1:])
"""The columns that volumes.csv and marks.csv may have."""
TRUTH: Final = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


class MarkRow(TypedDict):
    """A box in the file's own voxels, ends inclusive.

    where     which row of which table it is, for messages
    clinical  None where the table has no such column
    lesion    rows of a scan with the same word here are one lesion on several slices; with "" each is its own
    """

    where: str
    z: int
    box_xyxy: list[float]
    clinical: bool | None
    kind: str
    lesion: str


@dataclass
class Known:
    """What the tables say of one scan; "" and False where they do not.

    rows      which rows of the tables name it
    complete  None where no row says
    tables    names of the tables that its marks are from
    """

    patient: str = ""
    split: str = ""
    rows: list[str] = field(default_factory=list)
    complete: bool | None = None
    marks: list[MarkRow] = field(default_factory=list)
    tables: set[str] = field(default_factory=set)


@dataclass
class ScanFiles:
    """A scan as found: its files, the names by which a table may call it, and who it is of.

    masks    label masks of its lesions
    objects  files beside it that may hold its marks, under the root
    doubtful how many parts of such objects give no mark, and may be lesions
    skipped  which of its slices, as tables count them, are left out
    known    what the tables say of it
    """

    key: str
    patient: str
    files: list[Path]
    names: set[str]
    masks: list[Path] = field(default_factory=list)
    objects: list[str] = field(default_factory=list)
    doubtful: int = 0
    skipped: list[int] = field(default_factory=list)
    known: Known = field(default_factory=Known)


@dataclass(frozen=True)
class ScanNames:
    """What tables may call scans.

    keys       key of the scan by each name of it, "" for a name that several have
    slice_of   key and slice by a name of one of a scan's slices (a DICOM file, or its SOPInstanceUID), None for another
    """

    keys: Mapping[str, str]
    slice_of: Callable[[str], tuple[str, int] | None] = lambda name: None

    def find(self, name: str, where: str) -> tuple[str, int | None]:
        """The key of the scan that a table calls `name`, which opens no file, and the slice where it calls one.

        Raises LabelError for none or several.
        """
        plain = name.replace("\\", "/").removeprefix("./").rstrip("/")
        key = self.keys.get(plain)
        if not key and (found := self.slice_of(plain)):
            return found
        if key == "":
            raise LabelError(
                f"{where}: `file` names several scans of the archive; want the path with its ending, a "
                "SeriesInstanceUID where a folder holds several series, or one of its files where a series holds "
                "several scans"
            )
        if key is None:
            raise LabelError(
                f"{where}: `file` names no scan of the archive; want a path in it, or the SeriesInstanceUID or "
                "SOPInstanceUID of a series"
            )
        return key, None


def read_tables(root: Path, names: ScanNames, marks: str = "auto") -> dict[str, Known]:
    """What is known of each scan, by its key.

    marks.csv is read if `marks` (data.archive.marks) is auto or csv. Raises LabelError, naming file and line and
    never what stands there, which may be a patient's name.
    """
    known: dict[str, Known] = {}
    for line, row in _rows(root, "volumes.csv", ("file",), PER_SCAN):
        _note(known, names, row, f"volumes.csv line {line}")
    listed = _rows(root, "marks.csv", ("file", "z", *SIDES), PER_MARK) if marks in ("auto", "csv") else []
    for line, row in listed:
        scan, named_slice = _note(known, names, row, f"marks.csv line {line}")
        scan.marks.append(_mark_row(row, line, named_slice))
        scan.tables.add("marks.csv")
    return known


@lru_cache(1000)  # a kind that is left out warns once
def kind_of(text: str) -> str:
    """A lesion's kind as it may be stored: a word or two, up to a sign like a bracket; "" for what may be a report."""
    if len(text) <= MOST_KIND and not NO_KIND.search(text):
        return BEHIND_KIND.split(text)[0].strip()
    logger.warning("a kind of lesion has over %d letters, or numbers: its marks are stored without one", MOST_KIND)
    return ""


def table_file(root: Path, name: str) -> Path | None:
    """The table of this name in the archive's root, MARKS.CSV as marks.csv. Raises LabelError for several."""
    found = [file for file in root.glob("*") if file.name.lower() == name and file.is_file()]
    if len(found) > 1:
        raise LabelError(f"{len(found)} files of the archive are called {name}, but for capitals; keep one")
    return found[0] if found else None


def _rows(root: Path, name: str, needed: tuple[str, ...], allowed: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    file = table_file(root, name)
    if file is None:
        return []
    names, rows = read_sheet(file, allowed)
    lacking = [name for name in needed if name not in names]
    if lacking:
        raise LabelError(f"{file.name}: lacks the columns {', '.join(lacking)}; see harvester prepare --help")
    refuse_columns(file.name, names, allowed)
    for line, row in rows:
        if len(row) != len([name for name in names if name]):
            raise LabelError(
                f"{file.name} line {line}: not as many fields as columns; write numbers with a point, not a comma"
            )
    return rows


def _note(known: dict[str, Known], names: ScanNames, row: Mapping[str, str], where: str) -> tuple[Known, int | None]:
    key, named_slice = names.find(row["file"], where)
    scan = known.setdefault(key, Known())
    scan.rows.append(where)
    split, patient = row.get("split", ""), row.get("patient", "")
    if split and split not in SPLITS:
        raise LabelError(f"{where}: no such split; want one of {', '.join(SPLITS)}")
    if scan.split not in ("", split or scan.split) or scan.patient not in ("", patient or scan.patient):
        raise LabelError(f"{where}: an earlier row gives this scan another split or patient; want one")
    scan.split, scan.patient = split or scan.split, patient or scan.patient
    complete = _truth(row, "complete", where)
    if scan.complete is not None and complete not in (None, scan.complete):
        raise LabelError(f"{where}: an earlier row says otherwise of `complete`; want one")
    scan.complete = scan.complete if complete is None else complete
    return scan, named_slice


def _mark_row(row: Mapping[str, str], line: int, named_slice: int | None) -> MarkRow:
    where = f"marks.csv line {line}"
    try:
        z = _whole(row["z"]) if row["z"] or named_slice is None else named_slice
        box = [float(row[side]) for side in SIDES]
    except ValueError:
        raise LabelError(f"{where}: z must be a whole number, {', '.join(SIDES)} numbers") from None
    if named_slice not in (None, z):
        raise LabelError(f"{where}: `file` names slice {named_slice}, but z is another one; leave z empty")
    if not all(map(isfinite, box)):
        raise LabelError(f"{where}: {', '.join(SIDES)} must be finite numbers")
    clinical = _truth(row, "clinical", where) is not False if "clinical" in row else None
    kind = kind_of(row.get("kind", ""))
    return MarkRow(where=where, z=z, box_xyxy=box, clinical=clinical, kind=kind, lesion=row.get("lesion", ""))


def _whole(text: str) -> int:
    """A whole number, which spreadsheets also write as 4.0."""
    value = float(text)
    if not value.is_integer():
        raise ValueError(text)
    return int(value)


def _truth(row: Mapping[str, str], column: str, where: str) -> bool | None:
    """What a column of 1 and 0 says; None where it is empty or absent."""
    text = row.get(column, "").lower()
    text = text.removesuffix(".0") if text in ("1.0", "0.0") else text
    if text and text not in TRUTH:
        raise LabelError(f"{where}: {column} must be 1 or 0")
    return TRUTH.get(text)
