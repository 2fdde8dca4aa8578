"""What detections are scored against: the annotated volumes, their marks or 3D boxes, and whose they are.

Marks and 3D boxes come as a pickle published with Lesion Harvester, or as a table with the columns of LAYOUT or
LAYOUT_3D; optional: patient_id, spacing_x_mm, spacing_y_mm, any column to stratify by.

A volume that was annotated and has no mark still counts for the false positives per volume. Pickles name such
volumes themselves; beside a table a list of volumes does (`read_annotations(..., volumes=...)`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from harvester.errors import LabelError
from harvester.evaluation.inputs.read_table import floats, ids, integers, names, read_table, require
from harvester.evaluation.inputs.tubelet_tables import IN_PLANE
from harvester.evaluation.inputs.validate import first_few, refuse_boxes, refuse_duplicates, warn_of_duplicates
from harvester.evaluation.matching import Integers, codes
from harvester.labels.deeplesion.mark_tables import PICKLES
from harvester.labels.deeplesion.published_marks import read_published
from harvester.labels.deeplesion.published_tubelets import SIDES_3D, read_published_boxes3d
from harvester.labels.deeplesion.volume_ids import plain_id, split_id
from harvester.records import SIDES, Column, values

SPACINGS: Final = ("spacing_x_mm", "spacing_y_mm")
LAYOUT: Final = "one row per mark: volume_id, z, x1, y1, x2, y2"
LAYOUT_3D: Final = "one row per box: volume_id, x1, y1, z1, x2, y2, z2"


@dataclass(frozen=True, eq=False)
class Annotations:
    """v annotated volumes with m marks of p patients, valid once built; at least one mark.

    volume_ids     the v volumes, those without a mark too
    patients       (v,) int64 number of each volume's patient, from 0
    num_patients   p
    patients_from  where the patients come from, in words
    marks          (m,) rows: volume_id (string), the box, and the other columns of the file
    """

    volume_ids: tuple[str, ...]
    patients: Integers
    num_patients: int
    patients_from: str
    marks: pa.Table

    def patients_of(self, volume_id: Column) -> Integers:
        """(n,) number of the patient of each of n annotated volumes."""
        return self.patients[codes(volume_id, pa.array(self.volume_ids, pa.string()))]


def read_annotations(marks: Path, volumes: Path | None = None, boxes3d: bool = False) -> Annotations:
    """Read and check marks (3D boxes with `boxes3d`); `volumes`: the annotated ones, one id per line or a table.

    Raises LabelError, naming the first few rows at fault, for missing columns, box ends that are no
    finite numbers or are out of order, marks in volumes that the list lacks, and a volume with two patients.
    """
    if marks.suffix.lower() in PICKLES:
        table, volume_ids = _published(marks, boxes3d)
    else:
        table = _read_marks(marks, boxes3d)
        volume_ids = tuple(values(table["volume_id"].unique()))
    if not len(table):
        raise LabelError(f"{marks.name}: has no marks; sensitivity needs at least one")
    listed = read_volumes(volumes) if volumes else None
    if listed is not None:
        volume_ids = _all_listed(volume_ids, listed, marks)
        table = _with_spacing(table, listed)
    source, patient_ids = _patients(table, listed, volume_ids, marks)
    _, patients = np.unique(np.array(patient_ids), return_inverse=True)
    return Annotations(volume_ids, patients.astype(np.int64), int(patients.max()) + 1, source, table)


def _published(file: Path, boxes3d: bool) -> tuple[pa.Table, tuple[str, ...]]:
    """The marks or 3D boxes of a published pickle, and every volume it annotates."""
    if boxes3d:
        boxes = read_published_boxes3d(file)
        warn_of_duplicates(boxes.table, file)
        return boxes.table, boxes.volume_ids
    published = read_published(file)
    return published.marks, published.volume_ids


def _read_marks(file: Path, boxes3d: bool) -> pa.Table:
    """The table with checked boxes and volume_id as strings."""
    table = read_table(file)
    sides, layout = (SIDES_3D, LAYOUT_3D) if boxes3d else (("z", *SIDES), LAYOUT)
    require(table, ("volume_id", *sides), file, layout)
    volume = ids(table["volume_id"], "volume_id", file)
    columns = {
        side: integers(table[side], side, file) if side == "z" else floats(table[side], side, file) for side in sides
    }
    rows = table.select(["volume_id", *sides])
    refuse_boxes((*IN_PLANE, ("z1", "z2")) if boxes3d else IN_PLANE, columns, rows, file)
    warn_of_duplicates(rows, file)
    checked = {"volume_id": names(volume), **columns}
    return pa.table({name: checked.get(name, table[name]) for name in table.column_names})


def read_volumes(file: Path) -> pa.Table:
    """A table of volumes with volume_id as strings: .parquet or .csv as it is, any other file one id per line.

    Raises LabelError where a volume is listed twice or a line is no id.
    """
    if file.name.lower().endswith((".parquet", ".csv", ".csv.gz")):
        table = read_table(file)
        require(table, ("volume_id",), file, "volume_id, optional patient_id")
        at = table.column_names.index("volume_id")
        table = table.set_column(at, "volume_id", names(ids(table["volume_id"], "volume_id", file)))
    else:
        table = pa.table({"volume_id": pa.array(_lines(file), pa.string())})
    refuse_duplicates(table.select(["volume_id"]), file)
    return table


def _lines(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise LabelError(f"{file.name}: cannot be read ({reason}); want one volume id per line") from None
    return [plain_id(line.strip()) for line in lines if line.strip()]


def _all_listed(marked: Sequence[str], listed: pa.Table, marks: Path) -> tuple[str, ...]:
    """The listed volumes. Raises LabelError where the marks have others."""
    volume_ids = values(listed["volume_id"])
    missing = sorted(set(marked) - set(volume_ids))
    if missing:
        raise LabelError(
            f"{marks.name}: {len(missing)} volumes are not in the list of volumes: {first_few(missing)}; "
            "list every annotated volume"
        )
    return tuple(volume_ids)


def _with_spacing(marks: pa.Table, listed: pa.Table) -> pa.Table:
    """The marks with the spacing of their volumes where only the list of volumes has it (a store's manifest)."""
    if set(SPACINGS) <= set(marks.column_names) or not set(SPACINGS) <= set(listed.column_names):
        return marks
    place = {volume_id: row for row, volume_id in enumerate(values(listed["volume_id"]))}
    rows = [place[volume_id] for volume_id in values(marks["volume_id"])]
    for name in SPACINGS:
        marks = marks.append_column(name, listed[name].take(rows))
    return marks


def _patients(marks: pa.Table, listed: pa.Table | None, volume_ids: Sequence[str], file: Path) -> tuple[str, list[str]]:
    """Where the patients come from, and the patient of each volume."""
    known: dict[str, str] = {}
    sources = [
        name for name, table in (("list of volumes", listed), ("marks", marks)) if _add_patients(known, table, file)
    ]
    if sources:
        without = [volume_id for volume_id in volume_ids if volume_id not in known]
        if without:
            raise LabelError(
                f"{file.name}: {len(without)} volumes without a mark have no patient: {first_few(without)}; "
                "give the list of volumes a column patient_id"
            )
        return f"patient_id of the {' and the '.join(sources)}", [known[volume_id] for volume_id in volume_ids]
    if all(split_id(volume_id) for volume_id in volume_ids):
        return "volume_id up to its first _", [volume_id.split("_")[0] for volume_id in volume_ids]
    return "volume_id: each volume its own patient", list(volume_ids)


def _add_patients(known: dict[str, str], table: pa.Table | None, file: Path) -> bool:
    """Note each volume's patient; False where the table has no patient_id. One volume, one patient."""
    if table is None or "patient_id" not in table.column_names:
        return False
    patients = values(names(ids(table["patient_id"], "patient_id", file)))
    for volume_id, patient in zip(values(table["volume_id"]), patients, strict=True):
        if known.setdefault(volume_id, patient) != patient:
            raise LabelError(f"{file.name}: volume {volume_id} has two patients, {known[volume_id]} and {patient}")
    return True
