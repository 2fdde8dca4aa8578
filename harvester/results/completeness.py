"""Which volumes miss the most annotations: what the engine believes, from the harvest and from what it left.

A score is turned into a probability on V_M, where every lesion is known, by isotonic regression over tubelets that
no model saw the patient of. A volume then misses its harvested lesions, plus what its other tubelets add up to.
"""

from collections import Counter
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from harvester.certificate.selection import SelectedPoint
from harvester.labels.ledger import where
from harvester.mining.candidates import split_of
from harvester.mining.round_view import RoundView
from harvester.records import (
    MISSING,
    PARTLY_MARKED,
    AcceptedTable,
    LedgerTable,
    ManifestTable,
    MarkTable,
    MissingTable,
    SelectedTable,
    Source,
    Split,
)

Array = NDArray[Any]


def rank_missing(view: RoundView, selected: SelectedPoint) -> MissingTable:
    """V_H's volumes by how many lesions they miss: those in the ledger, and those that a round leaves unproven."""
    fusion, harvested = selected.choice, where(view.ledger, "source", Source.HARVESTED)
    left, calibration = view.harvested(fusion, 0.0), view.accepted(fusion, 0.0)
    return rank_volumes(view.store.manifest, view.store.marks, harvested, left, calibration, PARTLY_MARKED)


def rank_volumes(
    manifest: ManifestTable,
    marks: MarkTable,
    harvest: LedgerTable,
    left: SelectedTable,
    calibration: AcceptedTable,
    splits: tuple[Split, ...],
) -> MissingTable:
    """One row per volume of `splits`, the most missing first; ties by id.

    marks        the clinical ones are counted
    harvest      harvested lesions, counted
    left         the volumes' tubelets that touch neither a mark nor a harvested lesion, with `score` in 0..1
    calibration  V_M's, the same, and whether each is right; none at all leaves the harvested lesions alone
    """
    likely = left.append_column("probability", pa.array(probabilities(calibration, left)))
    volumes = split_of(manifest, manifest, *splits).select(["volume_id", "patient_id", "split"])
    clinical = marks.filter(marks["clinical"])
    rows = volumes.append_column("marked", _count(volumes, clinical))
    rows = rows.append_column("harvested", _count(volumes, harvest))
    rows = rows.append_column("expected_more", _per_volume(volumes, likely, "sum", 0.0))
    rows = rows.append_column("best_left", _per_volume(volumes, likely, "max", None))
    total = pc.add(rows["harvested"].cast(pa.float64()), rows["expected_more"])
    rows = rows.append_column("expected_missing", total)
    order: list[tuple[str, Any]] = [("expected_missing", "descending"), ("volume_id", "ascending")]
    return MissingTable(rows.select(MISSING.names).cast(MISSING).sort_by(order))


def probabilities(calibration: AcceptedTable, tubelets: SelectedTable) -> Array:
    """(n,) probability that each tubelet is a lesion, from V_M's scores; zeros if V_M has none to learn from."""
    if not len(calibration):
        return np.zeros(len(tubelets))
    correct = calibration["correct"].to_numpy(zero_copy_only=False)
    values, place, counts = np.unique(
        calibration["score"].to_numpy(), return_inverse=True, return_counts=True
    )
    share = np.bincount(place, correct) / counts
    fitted = isotonic_regression(share, weights=counts).x
    at = np.searchsorted(values, tubelets["score"].to_numpy(), side="right") - 1
    return np.where(at >= 0, fitted[np.maximum(at, 0)], 0.0)


def _count(volumes: pa.Table, rows: pa.Table) -> pa.Int64Array:
    counts = Counter(rows["volume_id"].to_pylist())
    return pa.array([counts[volume] for volume in volumes["volume_id"].to_pylist()], pa.int64())


def _per_volume(
    volumes: pa.Table, likely: pa.Table, how: Literal["sum", "max"], otherwise: float | None
) -> pa.DoubleArray:
    grouped = likely.group_by("volume_id").aggregate([("probability", how)]).to_pydict()
    values = dict(zip(grouped["volume_id"], grouped[f"probability_{how}"], strict=True))
    return pa.array(
        [values.get(volume, otherwise) for volume in volumes["volume_id"].to_pylist()], pa.float64()
    )
