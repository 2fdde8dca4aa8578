"""Scored tubelets + labels + operating point -> harvested lesions and hard negatives.

The archive's partly marked volumes (V_H) are harvested; the completely marked ones (V_M) go through the very same
rule with their annotations hidden. What that rehearsal accepts is what the certificate is computed on: tubelets
of patients that no model saw, that touch no clinical mark and nothing accepted in an earlier round or reviewed since.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from harvester.config.settings import MiningSettings
from harvester.evaluation.matching import overlaps
from harvester.labels.ledger import BOX
from harvester.records import MARKS

Array = NDArray[Any]


@dataclass(frozen=True)
class Found:
    """What a round mined: tubelets with their `score`; `rehearsed` ones of V_M also with `correct`."""

    lesions: pa.Table
    rehearsed: pa.Table
    sure_negatives: pa.Table
    possible_negatives: pa.Table


def split_of(table: pa.Table, manifest: pa.Table, *splits: str) -> pa.Table:
    """The rows whose volume belongs to one of the splits."""
    volumes = manifest.filter(pc.is_in(manifest["split"], pa.array(splits)))["volume_id"]
    return table.filter(pc.is_in(table["volume_id"], volumes.combine_chunks()))


def overlap_with(tubelets: pa.Table, labels: pa.Table) -> Array:
    """Highest IoU of each tubelet with any box of the ledger's rows on a shared slice, (n,); 0 without labels."""
    highest = np.zeros(len(tubelets))
    found = overlaps(tubelets, slice_marks(labels))
    np.maximum.at(highest, found.tubelet, found.iou)
    return highest


def slice_marks(labels: pa.Table) -> pa.Table:
    """Ledger rows as marks (records.MARKS), one a slice."""
    counts = pc.list_value_length(labels["z"]).to_numpy()
    row = np.repeat(np.arange(len(labels)), counts)
    columns: dict[str, Any] = {name: pc.list_flatten(labels[name]) for name in ("z", *BOX)}
    columns["volume_id"] = labels["volume_id"].take(row)
    columns["mark_id"] = labels["label_id"].take(row)
    columns["clinical"] = pa.array(np.zeros(len(row), bool))
    columns["kind"] = labels["source"].take(row)
    return pa.table({field.name: columns[field.name].cast(field.type) for field in MARKS}, MARKS)


def candidates(scored: pa.Table, labels: pa.Table, settings: MiningSettings) -> pa.Table:
    """The tubelets that touch no label: what a round may still find. `labels`: ledger rows of lesions, spread."""
    return scored.filter(pa.array(overlap_with(scored, labels) < settings.clear_iou))


def outside_ignored(tubelets: pa.Table, ignored: pa.Table) -> pa.Table:
    """Without the tubelets whose best slice has its centre in a region that is left out (records.IGNORE)."""
    if not len(ignored) or not len(tubelets):
        return tubelets
    regions: dict[str, list[dict[str, Any]]] = {}
    for region in ignored.to_pylist():
        regions.setdefault(region["volume_id"], []).append(region)
    kept = [not _inside(row, regions.get(row["volume_id"], [])) for row in tubelets.to_pylist()]
    return tubelets.filter(pa.array(kept))


def _inside(row: dict[str, Any], regions: list[dict[str, Any]]) -> bool:
    best = int(np.argmax(row["slice_score"]))
    z, x, y = row["z"][best], (row["x1"][best] + row["x2"][best]) / 2, (row["y1"][best] + row["y2"][best]) / 2
    return any(
        r["z1"] <= z <= r["z2"] and r["x1"] <= x <= r["x2"] and r["y1"] <= y <= r["y2"] for r in regions
    )
