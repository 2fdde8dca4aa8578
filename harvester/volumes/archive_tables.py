"""marks.csv and volumes.csv of somebody's archive (archive.py says what is in them)."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypedDict

from harvester.errors import LabelError
from harvester.records import SPLITS

SIDES: Final = ("x1", "y1", "x2", "y2")
TRUTH: Final = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


class MarkRow(TypedDict):
    """A box in the file's own voxels, and the line of marks.csv it came from."""

    line: int
    z: int
    box_xyxy: list[float]
    clinical: bool
    kind: str


@dataclass
class Known:
    """What the tables tell of one scan; "" and False where they do not."""

    patient: str = ""
    split: str = ""
    complete: bool = False
    marks: list[MarkRow] = field(default_factory=list)


def read_tables(root: Path, keys: Mapping[str, str]) -> dict[str, Known]:
    """What is known of each scan, by its key; `keys` has the key of every name that a row may use.

    Raises LabelError, naming file and line and never what stands there, which may tell a patient's name.
    """
    known: dict[str, Known] = {}
    for line, row in _rows(root / "volumes.csv", ("file",)):
        _tell(known, keys, row, f"volumes.csv line {line}")
    for line, row in _rows(root / "marks.csv", ("file", "z", *SIDES)):
        _tell(known, keys, row, f"marks.csv line {line}").marks.append(_mark_row(row, line))
    return known


def _rows(file: Path, needed: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    if not file.is_file():
        return []
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            lacking = [name for name in needed if name not in (reader.fieldnames or ())]
            if lacking:
                raise LabelError(
                    f"{file.name}: lacks the columns {', '.join(lacking)}; see jobs/prepare.py --help"
                )
            return [(reader.line_num, {k: (v or "").strip() for k, v in row.items() if k}) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise LabelError(f"{file.name}: not a CSV file in UTF-8 ({type(error).__name__})") from None


def _tell(known: dict[str, Known], keys: Mapping[str, str], row: Mapping[str, str], where: str) -> Known:
    name = row["file"].removeprefix("./").rstrip("/")
    if name not in keys:
        raise LabelError(
            f"{where}: `file` names no scan of the archive; want a path in it, or a SeriesInstanceUID where a "
            "folder holds several series"
        )
    told = known.setdefault(keys[name], Known())
    split, patient = row.get("split", ""), row.get("patient", "")
    if split and split not in SPLITS:
        raise LabelError(f"{where}: split {split!r}; want one of {', '.join(SPLITS)}")
    if told.split not in ("", split or told.split) or told.patient not in ("", patient or told.patient):
        raise LabelError(f"{where}: an earlier row gives this scan another split or patient; want one")
    told.split, told.patient = split or told.split, patient or told.patient
    told.complete = _truth(row, "complete", told.complete, where)
    return told


def _mark_row(row: Mapping[str, str], line: int) -> MarkRow:
    where = f"marks.csv line {line}"
    try:
        z, box = int(row["z"]), [float(row[side]) for side in SIDES]
    except ValueError:
        raise LabelError(f"{where}: z must be a whole number, {', '.join(SIDES)} numbers") from None
    return MarkRow(
        line=line, z=z, box_xyxy=box, clinical=_truth(row, "clinical", True, where), kind=row.get("kind", "")
    )


def _truth(row: Mapping[str, str], column: str, blank: bool, where: str) -> bool:
    text = row.get(column, "").lower()
    if text and text not in TRUTH:
        raise LabelError(f"{where}: {column} must be 1 or 0")
    return TRUTH[text] if text else blank
