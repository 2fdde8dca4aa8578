"""Detections to be scored: tubelets in two layouts and 3D boxes, checked row by row before anything is counted.

Tables have the columns of LAYOUTS or LAYOUT_3D (records.TUBELETS has the lists, records.HARVEST calls them x1_px ...);
published pickles (MinedLesions, HardNegatives) hold tubelets with a score per slice. A tubelet's score is its highest
slice score, or a column that the caller names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.errors import LabelError
from harvester.evaluation.inputs.read_table import Ids, floats, ids, names, read_table, require
from harvester.evaluation.inputs.tubelet_tables import IN_PLANE, LAYOUTS, from_lists, from_slices
from harvester.evaluation.inputs.validate import first_few, refuse_boxes, refuse_duplicates, refuse_rows
from harvester.evaluation.matching import Floats
from harvester.labels.deeplesion.mark_tables import PICKLES
from harvester.labels.deeplesion.published_tubelets import SIDES_3D, read_published_tubelets
from harvester.records import SIDES, values

LAYOUT_3D: Final = "one row per box: volume_id, x1, y1, z1, x2, y2, z2, score"


@dataclass(frozen=True, eq=False)
class Detections:
    """n tubelets or 3D boxes, valid once built: known volumes, finite boxes, no duplicates.

    table   volume_id and the columns that `overlaps` (lists) or `overlaps_3d` reads, (n,) rows
    scores  (n,) float64
    """

    table: pa.Table
    scores: Floats


def read_detections(
    file: Path, volume_ids: Sequence[str], boxes3d: bool = False, score: str | None = None, annotated_only: bool = False
) -> Detections:
    """Read and check detections in the annotated volumes `volume_ids`; rows in the file's order of tubelets.

    `score` names the column to rank by; it must exist. `annotated_only` leaves out the rows of other volumes.
    Raises LabelError, naming the first few rows at fault, for volumes that are not annotated, duplicate rows, box
    ends that are no finite numbers or are out of order, scores that are no numbers, and missing columns.
    """
    published = file.suffix.lower() in PICKLES
    table = _published(file, boxes3d) if published else _plain_names(read_table(file))
    require(table, ("volume_id",), file, LAYOUT_3D if boxes3d else LAYOUTS)
    volume = ids(table["volume_id"], "volume_id", file)
    if annotated_only:
        known = pc.is_in(volume.dictionary, value_set=pa.array(volume_ids, pa.string())).take(volume.indices)
        table, volume = table.filter(known), volume.filter(known)
    _refuse_unknown(volume, volume_ids, file)
    if boxes3d:
        return _boxes(table, volume, score or "score", file)
    require(table, ("z", *SIDES), file, LAYOUTS)
    listed = pa.types.is_list(table["z"].type) or pa.types.is_large_list(table["z"].type)
    return Detections(*(from_lists if listed else from_slices)(table, volume, score, file))


def _published(file: Path, boxes3d: bool) -> pa.Table:
    """The tubelets of a published pickle (MinedLesions, HardNegatives): a published harvest can be scored too."""
    if boxes3d:
        raise LabelError(
            f"{file.name}: the published 3D boxes have no scores; want a table, {LAYOUT_3D} (without --boxes3d: "
            "a pickle of tubelets)"
        )
    return read_published_tubelets(file).table


def _plain_names(table: pa.Table) -> pa.Table:
    """records.HARVEST calls its sides x1_px, ...; here they are x1, ..."""
    if "x1" in table.column_names:
        return table
    renamed = {f"{side}_px": side for side in SIDES}
    return table.rename_columns([renamed.get(name, name) for name in table.column_names])


def _refuse_unknown(volume: Ids, volume_ids: Sequence[str], file: Path) -> None:
    used, known = values(volume.dictionary.take(volume.indices.unique())), set(volume_ids)
    unknown = [volume_id for volume_id in used if volume_id not in known]
    if unknown:
        raise LabelError(
            f"{file.name}: {len(unknown)} of {len(used)} volumes are not annotated: {first_few(unknown)}; "
            "leave them out (--annotated-only), or list those without a mark (--volumes)"
        )


def _boxes(table: pa.Table, volume: Ids, score: str, file: Path) -> Detections:
    require(table, (*SIDES_3D, score), file, LAYOUT_3D)
    sides = {side: floats(table[side], side, file) for side in SIDES_3D}
    scores = floats(table[score], score, file)
    rows = table.select(["volume_id", *SIDES_3D, score])
    refuse_boxes((*IN_PLANE, ("z1", "z2")), sides, rows, file)
    refuse_rows(np.isnan(scores), rows, "no score", file)
    refuse_duplicates(rows, file)
    return Detections(pa.table({"volume_id": names(volume), **sides}), scores.astype(np.float64))
