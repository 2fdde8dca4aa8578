"""Marks of fully annotated volumes, as a published pickle or as a table that somebody made.

A table (.parquet or .csv) has one row per mark: volume_id, z, x1, y1, x2, y2; optional: clinical (true or 1 for what
the archive itself shows), kind. A row whose z is empty says that its volume is annotated and has no lesion. z counts
from the sub-volume's first slice; boxes are in pixels from 0, both ends inclusive.
"""

from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from harvester.errors import LabelError
from harvester.foreign_parquet import read_foreign
from harvester.labels.columns import refuse_columns
from harvester.labels.deeplesion.published_marks import PublishedMarks, read_published
from harvester.labels.deeplesion.published_tubelets import numbers
from harvester.labels.deeplesion.volume_ids import plain_id
from harvester.labels.sheets import read_arrow
from harvester.records import MARKS, SIDES, MarkTable

PICKLES: Final = (".pkl", ".pickle")
WANTED: Final = ("volume_id", "z", *SIDES)
OPTIONAL: Final = ("clinical", "kind")


def read_marks(file: Path) -> PublishedMarks:
    """The marks in a pickle or table; ids in the one form that is kept (plain_id), rows in the file's order.

    Raises LabelError where the file cannot be read, lacks a column, or a row is no box on a slice from 0.
    """
    if file.suffix.lower() in PICKLES:
        return read_published(file)
    table = _table(file)
    lacking = [name for name in WANTED if name not in table.column_names]
    if lacking:
        raise LabelError(f"{file.name}: lacks the columns {', '.join(lacking)}; want {', '.join(WANTED)}")
    refuse_columns(file.name, table.column_names, (*WANTED, *OPTIONAL), others=True)
    rows = [_row(number, row, file.name) for number, row in enumerate(table.to_pylist(), 1)]
    marks = MarkTable(pa.Table.from_pylist([row for row in rows if row["z"] is not None], MARKS))
    volume_ids = tuple(dict.fromkeys(str(row["volume_id"]) for row in rows))
    return PublishedMarks(volume_ids, marks, knows_clinical="clinical" in table.column_names)


def _table(file: Path) -> pa.Table:
    try:
        if file.suffix.lower() == ".parquet":
            return read_foreign(file)
        if file.name.lower().endswith((".csv", ".csv.gz")):
            return read_arrow(file, (*WANTED, *OPTIONAL), ("volume_id", "kind"))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise LabelError(f"{file.name}: cannot be read ({reason}); want a table of marks") from None
    except pa.ArrowException as error:
        raise LabelError(f"{file.name}: is no table ({type(error).__name__}); want one row per mark") from None
    raise LabelError(f"{file.name}: want a .pkl, .parquet or .csv file of marks")


def _row(number: int, row: dict[str, Any], name: str) -> dict[str, Any]:
    """A row of records.MARKS; only its volume_id counts where z is None."""
    volume_id = row["volume_id"]
    if not isinstance(volume_id, str) or not volume_id:
        raise LabelError(f"{name}: row {number} has no volume_id")
    plain = plain_id(volume_id)
    if row["z"] is None and all(row[side] is None for side in SIDES):
        return {"volume_id": plain, "z": None}
    box, z = [row[side] for side in SIDES], row["z"]
    if not numbers([z], 1) or z < 0 or z != int(z) or not numbers(box, 4):
        raise LabelError(f"{name}: row {number}: want a slice from 0 and four finite ends")
    if not (box[0] <= box[2] and box[1] <= box[3]):
        raise LabelError(f"{name}: row {number}: box ends out of order; want x1 <= x2 and y1 <= y2")
    if row.get("clinical") not in (None, True, False, 0, 1):
        raise LabelError(f"{name}: row {number}: clinical is neither 1 nor 0")
    sides = dict(zip(SIDES, map(float, box), strict=True))
    known = {"clinical": bool(row.get("clinical")), "kind": row.get("kind") or ""}
    return {"volume_id": plain, "mark_id": f"{plain}-{number}", "z": int(z), **sides, **known}
