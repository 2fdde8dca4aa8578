"""The harvest as people get it: one row per lesion with its boxes in pixels and mm, and where it comes from."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv

from harvester.certificate.selection import SelectedPoint
from harvester.geometry import boxes_to_mm
from harvester.records import HARVEST, SIDES, HarvestTable, SelectedTable, values
from harvester.storage.location import Location


def harvest_table(
    lesions: SelectedTable,
    volumes: Sequence[Mapping[str, Any]],
    origins: Sequence[tuple[SelectedPoint, str]],
    run_id: str,
) -> HarvestTable:
    """The harvest, sorted by volume, round and lesion.

    lesions   harvested tubelets with their `round`
    volumes   manifest rows
    origins   each round's operating point and the hash of its models
    """
    by_id = {row["volume_id"]: row for row in volumes}
    rows = [_row(found, by_id[found["volume_id"]], origins, run_id) for found in lesions.to_pylist()]
    keys: list[tuple[str, Any]] = [(name, "ascending") for name in ("volume_id", "round", "lesion_id")]
    return HarvestTable(pa.Table.from_pylist(rows, HARVEST).sort_by(keys))


def lesion_id(found: Mapping[str, Any]) -> str:
    """A harvested tubelet's id, unique in its volume."""
    return f"harvested-{found['round']}-{found['tubelet_id']}"


def write(table: pa.Table, folder: Location, name: str) -> None:
    """The table as name.parquet, and as name.csv with lists as text, blanks between."""
    (folder / f"{name}.parquet").write_table(table)
    with (folder / f"{name}.csv").publish() as sink:
        pcsv.write_csv(_flat(table), sink)


def _row(
    found: Mapping[str, Any], volume: Mapping[str, Any], origins: Sequence[tuple[SelectedPoint, str]], run_id: str
) -> dict[str, Any]:
    solved, models = origins[found["round"]]
    boxes = np.array([found[side] for side in SIDES]).T
    boxes_mm = boxes_to_mm(boxes, volume["spacing_x_mm"], volume["spacing_y_mm"])
    z_mm = (np.array(found["z"]) + 0.5) * volume["spacing_z_mm"]
    copied = ("volume_id", "patient_id", "round", "score", "lpg_score", "lpc_score")
    return {
        **{name: found[name] for name in copied},
        "lesion_id": lesion_id(found),
        "threshold": solved.point.threshold,
        "precision_bound": solved.point.precision_bound,
        "z": found["z"],
        **{f"{side}_px": boxes[:, i].tolist() for i, side in enumerate(SIDES)},
        "z_mm": z_mm.tolist(),
        **{f"{side}_mm": boxes_mm[:, i].tolist() for i, side in enumerate(SIDES)},
        "model_hash": models,
        "run_id": run_id,
    }


def _flat(table: pa.Table) -> pa.Table:
    lists = {field.name for field in table.schema if pa.types.is_list(field.type)}
    texts = {name: [" ".join(f"{x:g}" for x in row) for row in values(table[name])] for name in lists}
    return pa.table({name: texts.get(name, table[name]) for name in table.column_names})
