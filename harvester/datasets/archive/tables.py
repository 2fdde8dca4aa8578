"""marks.csv and volumes.csv of somebody's archive (archive.py says what is in them)."""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Final, TypedDict

from harvester.errors import LabelError
from harvester.labels.columns import refuse_columns
from harvester.records import SIDES, SPLITS

KIND: Final = re.compile(r"[\w /+.-]{0,40}")
"""A kind of lesion is a word or two. More may be somebody's report, and kinds go into the store's tables."""
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
    objects  files beside it that may hold its marks, under the root; machine_marks: those of programs count too
    known    what the tables say of it
    """

    key: str
    patient: str
    files: list[Path]
    names: set[str]
    masks: list[Path] = field(default_factory=list)
    objects: list[str] = field(default_factory=list)
    machine_marks: bool = False
    known: Known = field(default_factory=Known)


def read_tables(root: Path, keys: Mapping[str, str], marks: str = "auto") -> dict[str, Known]:
    """What is known of each scan, by its key; `keys` has the key of every name that a row may use, "" for several.

    marks.csv is read if `marks` (data.archive.marks) is auto or csv. Raises LabelError, naming file and line and
    never what stands there, which may be a patient's name.
    """
    known: dict[str, Known] = {}
    for line, row in _rows(root, "volumes.csv", ("file",), PER_SCAN):
        _note(known, keys, row, f"volumes.csv line {line}")
    listed = _rows(root, "marks.csv", ("file", "z", *SIDES), PER_MARK) if marks in ("auto", "csv") else []
    for line, row in listed:
        scan = _note(known, keys, row, f"marks.csv line {line}")
        scan.marks.append(_mark_row(row, line))
        scan.tables.add("marks.csv")
    return known


def key_of(name: str, keys: Mapping[str, str], where: str) -> str:
    """The key of the scan that a table calls `name`, which opens no file. Raises LabelError for none or several."""
    key = keys.get(name.replace("\\", "/").removeprefix("./").rstrip("/"))
    if key == "":
        raise LabelError(f"{where}: `file` names several scans of the archive; want the path with its ending")
    if key is None:
        raise LabelError(
            f"{where}: `file` names no scan of the archive; want a path in it, or a SeriesInstanceUID where a "
            "folder holds several series"
        )
    return key


def kind_of(text: str, where: str) -> str:
    """A lesion's kind as it may be stored. Raises LabelError for what is more than a word or two."""
    if not KIND.fullmatch(text):
        raise LabelError(f"{where}: a kind has at most 40 letters, digits, spaces and _ / + . -; shorten it")
    return text


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
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            names = reader.fieldnames or ()
            lacking = [name for name in needed if name not in names]
            if lacking:
                raise LabelError(f"{file.name}: lacks the columns {', '.join(lacking)}; see harvester prepare --help")
            refuse_columns(file.name, names, allowed)
            return [(reader.line_num, _fields(row, f"{file.name} line {reader.line_num}")) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise LabelError(f"{file.name}: not a CSV file in UTF-8 ({type(error).__name__})") from None
    except OSError as error:
        raise LabelError(f"{file.name}: cannot be read ({type(error).__name__}); check its rights") from None


def _fields(row: Mapping[str, Any], where: str) -> dict[str, str]:
    """A row's fields. Raises LabelError where they are more, or fewer, than the columns: boxes would be shifted."""
    if any(extra.strip() for extra in row.get(None, ())) or None in row.values():  # type: ignore[call-overload]  # csv's
        raise LabelError(f"{where}: not as many fields as columns; write numbers with a point, not a comma")
    return {name: value.strip() for name, value in row.items() if name}


def _note(known: dict[str, Known], keys: Mapping[str, str], row: Mapping[str, str], where: str) -> Known:
    scan = known.setdefault(key_of(row["file"], keys, where), Known())
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
    return scan


def _mark_row(row: Mapping[str, str], line: int) -> MarkRow:
    where = f"marks.csv line {line}"
    try:
        z, box = int(row["z"]), [float(row[side]) for side in SIDES]
    except ValueError:
        raise LabelError(f"{where}: z must be a whole number, {', '.join(SIDES)} numbers") from None
    if not all(map(isfinite, box)):
        raise LabelError(f"{where}: {', '.join(SIDES)} must be finite numbers")
    clinical = _truth(row, "clinical", where) is not False if "clinical" in row else None
    kind = kind_of(row.get("kind", ""), where)
    return MarkRow(where=where, z=z, box_xyxy=box, clinical=clinical, kind=kind, lesion=row.get("lesion", ""))


def _truth(row: Mapping[str, str], column: str, where: str) -> bool | None:
    """What a column of 1 and 0 says; None where it is empty or absent."""
    text = row.get(column, "").lower()
    if text and text not in TRUTH:
        raise LabelError(f"{where}: {column} must be 1 or 0")
    return TRUTH.get(text)
