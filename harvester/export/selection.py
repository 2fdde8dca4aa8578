"""What is exported: the ledger of a finished run with its volumes, one dict per label, by volume."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from harvester.errors import StoreError
from harvester.export.file_grid import FileGrid
from harvester.records import HARVEST, LABELS, HarvestTable, Placed, Role, Source, checked
from harvester.storage.location import Location
from harvester.storage.table_parts import is_table
from harvester.store.store import Store

Row = dict[str, Any]
PROVEN: Final = ("threshold", "precision_bound")
"""Of the round that harvested a label."""
ORIGIN: Final = ("role", "source", "round", "score", *PROVEN, "model_hash", "run_id")
"""What every exported label says of where it comes from; None where it does not apply."""


@dataclass(frozen=True, eq=False)
class LabelledVolume:
    """One volume to be exported.

    volume  its row of the manifest
    labels  rows of the ledger in the stored order and pixels, with `threshold` and `precision_bound` of the round
            that harvested them, best score first
    grid    where its voxels lie in its file, or a frame of their own where the file is not at hand
    """

    volume: Row
    labels: Sequence[Row]
    grid: FileGrid


def labels_of_run(run: Location, merge: bool = False, hard_negatives: bool = False, likely: bool = False) -> list[Row]:
    """Harvested lesions of a run's ledger; with `merge` lesions of every source but what is only likely, with
    `hard_negatives` and `likely` those too.

    Sorted by volume, best score first, labels without a score (marks of the archive) before those with one. Empty
    where there are none. Raises StoreError for a folder that is no finished run.
    """
    ledger = _table(Location.of(run), "ledger", LABELS)  # runs of earlier releases have no more
    harvest = checked(HarvestTable, _table(Location.of(run), "harvest", HARVEST))
    proven = {
        (row["volume_id"], row["lesion_id"]): {name: row[name] for name in PROVEN}
        for row in harvest.select(["volume_id", "lesion_id", *PROVEN]).to_pylist()
    }
    wanted = pc.field("role") == Role.LESION.value
    wanted &= pc.field("source") != Source.LIKELY.value if merge else pc.field("source") == Source.HARVESTED.value
    if likely:
        wanted |= pc.field("source") == Source.LIKELY.value
    if hard_negatives:
        wanted |= pc.field("role") == Role.HARD_NEGATIVE.value
    found = ledger.filter(wanted).to_pylist()
    rows = [row | proven.get((row["volume_id"], row["label_id"]), dict.fromkeys(PROVEN)) for row in found]
    return sorted(
        rows, key=lambda row: (row["volume_id"], row["score"] is not None, -(row["score"] or 0), row["label_id"])
    )


def by_volume(labels: Sequence[Row], store: Store) -> list[tuple[Row, list[Row]]]:
    """(manifest row, its labels) for each volume of labels sorted by volume.

    Raises StoreError where the store lacks a volume.
    """
    volumes = {row["volume_id"]: row for row in store.manifest.to_pylist()}
    groups = {volume_id: list(rows) for volume_id, rows in groupby(labels, itemgetter("volume_id"))}
    strange = sorted(groups.keys() - volumes.keys())
    if strange:
        raise StoreError(
            f"{store.path}: lacks {len(strange)} volumes of the run ({', '.join(strange[:3])}); give the store "
            "that was harvested with --store"
        )
    return [(volumes[name], rows) for name, rows in groups.items()]


def index_rows(file: Path, labels: Sequence[Row]) -> list[Row]:
    """What is in a file: the labels, numbered from 1 in their order."""
    return [label | {"file": file.name, "number": number} for number, label in enumerate(labels, 1)]


def write_csv(file: Path, names: Sequence[str], rows: Iterable[Row]) -> None:
    """A table of these columns; a cell is empty where a row has none, or None."""
    with file.open("w", newline="", encoding="utf-8") as target:
        table = csv.DictWriter(target, names, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def key_box(placed: Sequence[Placed]) -> Placed:
    """The largest box of the middle half of its slices, the first of several: what a reader would measure.

    Links reach beyond a lesion's ends, where a box may be large and holds little or nothing of it.
    """
    beyond = len(placed) // 4
    return max(
        placed[beyond : len(placed) - beyond],
        key=lambda each: (each[1][2] - each[1][0] + 1) * (each[1][3] - each[1][1] + 1),
    )


def _table(run: Location, name: str, schema: pa.Schema) -> pa.Table:
    file = run / f"{name}.parquet"
    if not is_table(file):
        raise StoreError(f"{run}: no {name}.parquet; give the folder of a finished run (harvester harvest --run)")
    return file.read_table(schema)
