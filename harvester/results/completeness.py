"""Which volumes miss the most annotations: what the engine believes, from the harvest and from what it left.

A score is turned into a probability on V_M, where every lesion is known, by isotonic regression over tubelets that
no model saw the patient of. A volume then misses its harvested lesions, plus what its other tubelets add up to.
"""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.optimize import isotonic_regression

from harvester.certificate.selection import SelectedPoint
from harvester.geometry import Array
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
    rows_where,
)


def expected_missing(view: RoundView, selected: SelectedPoint) -> MissingTable:
    """V_H's volumes by how many lesions they miss: those in the ledger, and those that a round leaves unproven."""
    fusion, harvested = selected.choice, rows_where(view.ledger, "source", Source.HARVESTED)
    left, calibration = view.reaching(fusion, 0.0), view.accepted(fusion, 0.0)
    return rank_volumes(view.store.manifest, view.store.marks, harvested, left, calibration)


def rank_volumes(
    manifest: ManifestTable, marks: MarkTable, harvest: LedgerTable, left: SelectedTable, calibration: AcceptedTable
) -> MissingTable:
    """One row per volume of V_H, the most missing first; ties by id.

    marks        the clinical ones are counted
    harvest      harvested lesions, counted
    left         the volumes' tubelets that touch neither a mark nor a harvested lesion, with `score` in 0..1
    calibration  V_M's, the same, and whether each is right; none at all leaves the harvested lesions alone
    """
    likely = left.append_column("probability", pa.array(probabilities(calibration, left)))
    grouped = likely.group_by("volume_id").aggregate([("probability", "sum"), ("probability", "max")])
    expected = {row["volume_id"]: row for row in grouped.to_pylist()}
    marked = Counter(marks.filter(marks["clinical"])["volume_id"].to_pylist())
    harvested = Counter(harvest["volume_id"].to_pylist())
    rows = []
    for volume in split_of(manifest, manifest, *PARTLY_MARKED).to_pylist():
        name = volume["volume_id"]
        more = expected.get(name, {"probability_sum": 0.0, "probability_max": None})
        counts = {"marked": marked[name], "harvested": harvested[name]}
        counts |= {"expected_more": more["probability_sum"], "best_left": more["probability_max"]}
        rows.append(volume | counts | {"expected_missing": harvested[name] + more["probability_sum"]})
    order: list[tuple[str, Any]] = [("expected_missing", "descending"), ("volume_id", "ascending")]
    return MissingTable(pa.Table.from_pylist(rows, MISSING).sort_by(order))


def probabilities(calibration: AcceptedTable, tubelets: SelectedTable) -> Array:
    """(n,) probability that each tubelet is a lesion, from V_M's scores; zeros if V_M has none to learn from."""
    if not len(calibration):
        return np.zeros(len(tubelets))
    correct = calibration["correct"].to_numpy(zero_copy_only=False)
    values, place, counts = np.unique(calibration["score"].to_numpy(), return_inverse=True, return_counts=True)
    share = np.bincount(place, correct) / counts
    fitted = isotonic_regression(share, weights=counts).x
    at = np.searchsorted(values, tubelets["score"].to_numpy(), side="right") - 1
    return np.where(at >= 0, fitted[np.maximum(at, 0)], 0.0)
