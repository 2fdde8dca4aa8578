"""The harvest as people get it: one row per lesion with its boxes in pixels and mm, and where it comes from."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv

from harvester.certificate.selection import SelectedPoint
from harvester.list_columns import Lists
from harvester.records import HARVEST, SIDES, HarvestTable, ManifestTable, SelectedTable, in_order, values
from harvester.storage.location import Location
from harvester.storage.table_parts import write_table

ROWS_AT_ONCE: Final = 4096
COPIED: Final = ("volume_id", "patient_id", "round", "score", "lpg_score", "lpc_score", "z")


def harvest_table(
    lesions: SelectedTable, manifest: ManifestTable, origins: Sequence[tuple[SelectedPoint, str]], run_id: str
) -> HarvestTable:
    """The harvest, sorted by volume, round and lesion.

    lesions   harvested tubelets with their `round`
    origins   each round's operating point and the hash of its models
    """
    at = pc.index_in(lesions["volume_id"], manifest["volume_id"].combine_chunks())
    z_mm, y_mm, x_mm = (manifest[f"spacing_{axis}_mm"].take(at).to_numpy() for axis in "zyx")
    rounds = values(lesions["round"])
    points, models = [origins[k][0].point for k in rounds], [origins[k][1] for k in rounds]
    z, sides = Lists.of(lesions["z"]), {side: Lists.of(lesions[side]) for side in SIDES}
    columns: dict[str, Any] = {
        **{name: lesions[name] for name in COPIED},
        "lesion_id": pa.array(map(_named, rounds, values(lesions["tubelet_id"])), pa.string()),
        "threshold": pa.array([point.threshold for point in points], pa.float64()),
        "precision_bound": pa.array([point.precision_bound for point in points], pa.float64()),
        "z_mm": z.map((z.values + 0.5) * z.each(z_mm)),
        "model_hash": pa.array(models, pa.string()),
        "run_id": pa.repeat(run_id, len(lesions)),
    }
    for side, boxes in sides.items():
        spacing = boxes.each(x_mm if side.startswith("x") else y_mm)
        columns[f"{side}_px"] = lesions[side]
        columns[f"{side}_mm"] = boxes.map((boxes.values + side.endswith("2")) * spacing)  # outer edges
    table = pa.table({name: columns[name] for name in HARVEST.names}, schema=HARVEST)
    return HarvestTable(in_order(table, "volume_id", "round", "lesion_id"))


def lesion_id(found: Mapping[str, Any]) -> str:
    """A harvested tubelet's id, unique in its volume."""
    return _named(found["round"], found["tubelet_id"])


def _named(round_index: int, tubelet_id: int) -> str:
    return f"harvested-{round_index}-{tubelet_id}"


def write(table: pa.Table, folder: Location, name: str) -> None:
    """The table as name.parquet (a folder where it is long), and as name.csv with lists as text, blanks between."""
    write_table(table, folder / f"{name}.parquet")
    with (folder / f"{name}.csv").publish() as sink:
        for start in range(0, max(len(table), 1), ROWS_AT_ONCE):  # texts take many times what lists do
            head = pcsv.WriteOptions(include_header=start == 0)
            pcsv.write_csv(_flat(table.slice(start, ROWS_AT_ONCE)), sink, head)


def _flat(table: pa.Table) -> pa.Table:
    lists = {field.name for field in table.schema if pa.types.is_list(field.type)}
    texts = {name: [" ".join(f"{x:g}" for x in row) for row in values(table[name])] for name in lists}
    return pa.table({name: texts.get(name, table[name]) for name in table.column_names})
