"""The harvest as people get it: one row per lesion with its boxes in pixels and mm, and where it comes from."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv

from harvester.certificate.selection import SelectedPoint
from harvester.labels.ledger import label_ids
from harvester.list_columns import Lists
from harvester.records import HARVEST, SIDES, HarvestTable, ManifestTable, SelectedTable, Source, values
from harvester.storage.location import Location
from harvester.storage.table_parts import write_table

ROWS_AT_ONCE: Final = 4096
SPACINGS: Final = [f"spacing_{axis}_mm" for axis in "zyx"]
COPIED: Final = ("volume_id", "patient_id", "round", "score", "lpg_score", "lpc_score", "z")


def harvest_table(
    lesions: SelectedTable, manifest: ManifestTable, origins: Sequence[tuple[SelectedPoint, str]], run_id: str
) -> HarvestTable:
    """The harvest, sorted by volume, round and lesion.

    lesions   harvested tubelets with their `round`
    origins   each round's operating point and the hash of its models
    """
    named = lesions.select(["volume_id", "round"]).append_column("lesion_id", _ids(lesions))
    order = pc.sort_indices(named, [(name, "ascending") for name in named.column_names])
    volumes = pc.index_in(lesions["volume_id"], manifest["volume_id"].combine_chunks())
    tables = [HARVEST.empty_table()]
    for start in range(0, len(order), ROWS_AT_ONCE):  # all at once would take as much again beside the table
        rows = order.slice(start, ROWS_AT_ONCE)
        own = manifest.select(SPACINGS).take(volumes.take(rows))
        tables.append(_described(SelectedTable(lesions.take(rows)), own, origins, run_id))
    return HarvestTable(pa.concat_tables(tables))


def _described(
    lesions: SelectedTable, volumes: pa.Table, origins: Sequence[tuple[SelectedPoint, str]], run_id: str
) -> pa.Table:
    """Harvested tubelets as rows of the harvest. volumes: each one's SPACINGS."""
    z_mm, y_mm, x_mm = (volumes[name].to_numpy() for name in SPACINGS)
    rounds = values(lesions["round"])
    points, models = [origins[k][0].point for k in rounds], [origins[k][1] for k in rounds]
    z, sides = Lists.of(lesions["z"]), {side: Lists.of(lesions[side]) for side in SIDES}
    columns: dict[str, Any] = {
        **{name: lesions[name] for name in COPIED},
        "lesion_id": _ids(lesions),
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
    return pa.table({name: columns[name] for name in HARVEST.names}, schema=HARVEST)


def _ids(lesions: SelectedTable) -> "pa.Array[Any]":
    return label_ids(Source.HARVESTED, lesions["round"], lesions["tubelet_id"])


def lesion_id(found: Mapping[str, Any]) -> str:
    """One row's, as text: see label_ids."""
    return f"{Source.HARVESTED}-{found['round']}-{found['tubelet_id']}"


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
