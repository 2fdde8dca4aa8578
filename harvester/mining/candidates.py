"""Which tubelets a round may still find, by what they overlap: labels, regions that are left out."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.config.settings import MiningSettings
from harvester.evaluation.matching import overlaps
from harvester.geometry import Array
from harvester.mining.limits import Cut
from harvester.records import (
    MARKS,
    SIDES,
    AcceptedTable,
    AnyTable,
    IgnoreTable,
    LedgerTable,
    ManifestTable,
    MarkTable,
    SelectedTable,
    Split,
    rows_where,
)


@dataclass(frozen=True, eq=False)
class Found:
    """What a round mined, in place of what earlier ones did.

    likely                what of V_H is no part of the harvest, and is learned from as lesions (RoundView.likely)
    calibration_hits      what the same rule accepts on V_M, and whether each is right
    probabilities         (n,) of the lesions, by V_M; likely_probabilities of what is likely
    """

    cut: Cut
    likely: SelectedTable
    calibration_hits: AcceptedTable
    sure_negatives: SelectedTable
    possible_negatives: SelectedTable
    probabilities: Array
    likely_probabilities: Array

    @property
    def lesions(self) -> SelectedTable:
        """What is harvested, best first."""
        return self.cut.lesions


def split_of(table: AnyTable, manifest: ManifestTable, *splits: Split) -> AnyTable:
    """The rows whose volume belongs to one of the splits."""
    volumes = rows_where(manifest, "split", *splits)["volume_id"].combine_chunks()
    return table.filter(pc.is_in(table["volume_id"], volumes))


def overlap_with(tubelets: pa.Table, labels: LedgerTable) -> Array:
    """Highest IoU of each tubelet with any box of the ledger's rows on a shared slice, (n,); 0 without labels."""
    highest = np.zeros(len(tubelets))
    found = overlaps(tubelets, slice_marks(labels))
    np.maximum.at(highest, found.tubelet, found.iou)
    return highest


def slice_marks(labels: LedgerTable) -> MarkTable:
    """Ledger rows as marks, one per slice."""
    counts = pc.list_value_length(labels["z"]).to_numpy()
    row = np.repeat(np.arange(len(labels)), counts)
    columns: dict[str, Any] = {name: pc.list_flatten(labels[name]) for name in ("z", *SIDES)}
    columns["volume_id"] = labels["volume_id"].take(row)
    columns["mark_id"] = labels["label_id"].take(row)
    columns["clinical"] = pa.array(np.zeros(len(row), bool))
    columns["kind"] = labels["source"].take(row)
    return MarkTable(pa.table({field.name: columns[field.name].cast(field.type) for field in MARKS}, MARKS))


def candidates(scored: AnyTable, labels: LedgerTable, settings: MiningSettings) -> AnyTable:
    """The tubelets that are none of the labels: what a round may still find. Marks in `labels` are extruded."""
    return scored.filter(pa.array(overlap_with(scored, labels) < settings.known_iou))


def clear_of(scored: AnyTable, labels: LedgerTable, settings: MiningSettings) -> AnyTable:
    """The tubelets that touch no label: what may be a hard negative. Marks in `labels` are extruded."""
    return scored.filter(pa.array(overlap_with(scored, labels) < settings.clear_iou))


def outside_ignored(tubelets: AnyTable, ignored: IgnoreTable) -> AnyTable:
    """Without the tubelets whose best slice has its centre in a region that is left out."""
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
    return any(r["z1"] <= z <= r["z2"] and r["x1"] <= x <= r["x2"] and r["y1"] <= y <= r["y2"] for r in regions)
