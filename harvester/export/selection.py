"""What is exported: the ledger of a finished run with its volumes, one dict a label, by volume."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from harvester.errors import StoreError
from harvester.export.file_grid import Grid
from harvester.records import HARVEST, LEDGER
from harvester.storage.location import Location, Where
from harvester.store.store import Store

Row = dict[str, Any]
ORIGIN: Final = (
    "role",
    "source",
    "round",
    "score",
    "threshold",
    "precision_bound",
    "model_hash",
    "run_id",
)
"""What every exported label tells of where it comes from; None where it does not apply."""


@dataclass(frozen=True, eq=False)
class Case:
    """One volume to be exported.

    volume  its row of the manifest
    labels  rows of the ledger in the stored order and pixels, with `threshold` and `precision_bound` of the round
            that harvested them, best score first
    grid    where its voxels lie in its file, or a frame of their own where the file is not at hand
    """

    volume: Row
    labels: Sequence[Row]
    grid: Grid


def labels_of_run(run: Where, merge: bool, hard_negatives: bool) -> list[Row]:
    """Harvested lesions of a run's ledger; with `merge` lesions of every source, with `hard_negatives` those too.

    Sorted by volume, best score first, labels without a score (marks of the archive) before those with one. Empty
    where nothing was harvested. Raises StoreError for a folder that is no finished run.
    """
    ledger, harvest = _table(Location.of(run), "ledger", LEDGER), _table(Location.of(run), "harvest", HARVEST)
    lesion = pc.equal(ledger["role"], "lesion")
    wanted = lesion if merge else pc.and_(lesion, pc.equal(ledger["source"], "harvested"))
    if hard_negatives:
        wanted = pc.or_(wanted, pc.equal(ledger["role"], "hard_negative"))
    proven = {
        (row["volume_id"], row["lesion_id"]): row
        for row in harvest.select(["volume_id", "lesion_id", "threshold", "precision_bound"]).to_pylist()
    }
    rows = [_proven(row, proven.get((row["volume_id"], row["label_id"]))) for row in _rows(ledger, wanted)]
    return sorted(rows, key=lambda row: (row["volume_id"], -_rank(row), row["label_id"]))


def by_volume(labels: Sequence[Row], store: Store) -> list[tuple[Row, list[Row]]]:
    """(manifest row, its labels) a volume that has any. Raises StoreError where the store lacks a volume."""
    volumes = {row["volume_id"]: row for row in store.manifest.to_pylist()}
    groups: dict[str, list[Row]] = {}
    for label in labels:
        groups.setdefault(label["volume_id"], []).append(label)
    strange = sorted(groups.keys() - volumes.keys())
    if strange:
        raise StoreError(
            f"{store.path}: lacks {len(strange)} volumes of the run ({', '.join(strange[:3])}); give the store "
            "that was harvested with --store"
        )
    return [(volumes[name], rows) for name, rows in groups.items()]


def key_slice(label: Row) -> int:
    """Place in the label's lists of its largest box, the first of several: the slice that a reader would measure."""
    areas = [
        (x2 - x1 + 1) * (y2 - y1 + 1)
        for x1, y1, x2, y2 in zip(*(label[side] for side in ("x1", "y1", "x2", "y2")), strict=True)
    ]
    return areas.index(max(areas))


def boxes(label: Row) -> list[tuple[int, tuple[float, float, float, float]]]:
    """(z, box) a slice, in the stored order."""
    sides = zip(*(label[side] for side in ("x1", "y1", "x2", "y2")), strict=True)
    return list(zip(label["z"], sides, strict=True))


def _table(run: Location, name: str, schema: pa.Schema) -> pa.Table:
    file = run / f"{name}.parquet"
    if not file.is_file():
        raise StoreError(
            f"{run}: no {name}.parquet; give the folder of a finished run (harvester harvest --run)"
        )
    return file.read_table(schema)


def _rows(ledger: pa.Table, wanted: pa.ChunkedArray) -> list[Row]:
    rows: list[Row] = ledger.filter(wanted).to_pylist()
    return rows


def _proven(label: Row, found: Row | None) -> Row:
    return label | {name: found[name] if found else None for name in ("threshold", "precision_bound")}


def _rank(label: Row) -> float:
    return float("inf") if label["score"] is None else float(label["score"])
