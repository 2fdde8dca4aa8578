"""Which volumes miss the most annotations: what the engine believes, from the harvest and from what it left.

A score is turned into a probability on V_M, where every lesion is known, by isotonic regression over tubelets that
no model saw the patient of. A volume then misses its harvested lesions, plus what its other tubelets add up to.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from harvester.mining import candidates
from harvester.records import MISSING

Array = NDArray[Any]


def rank_volumes(
    manifest: pa.Table,
    marks: pa.Table,
    harvest: pa.Table,
    left: pa.Table,
    practice: pa.Table,
    splits: tuple[str, ...],
) -> pa.Table:
    """One row a volume of `splits` (records.MISSING), the most missing first; ties by id.

    marks     records.MARKS, the clinical ones counted
    harvest   harvested tubelets, counted
    left      the volumes' tubelets that touch neither a mark nor a harvested lesion, with `score` in 0..1
    practice  V_M's, the same, with `score` and `correct`; none at all leaves the harvested lesions alone
    """
    likely = left.append_column("probability", pa.array(probabilities(practice, left)))
    volumes = candidates.split_of(manifest.select(["volume_id", "patient_id", "split"]), manifest, *splits)
    clinical = marks.filter(marks["clinical"])
    rows = volumes.append_column("marked", _count(volumes, clinical))
    rows = rows.append_column("harvested", _count(volumes, harvest))
    rows = rows.append_column("expected_more", _per_volume(volumes, likely, "sum", 0.0))
    rows = rows.append_column("best_left", _per_volume(volumes, likely, "max", None))
    total = pc.add(rows["harvested"].cast(pa.float64()), rows["expected_more"])
    rows = rows.append_column("expected_missing", total)
    order: list[tuple[str, Any]] = [("expected_missing", "descending"), ("volume_id", "ascending")]
    return rows.select(MISSING.names).cast(MISSING).sort_by(order)


def probabilities(practice: pa.Table, tubelets: pa.Table) -> Array:
    """(n,) probability that each tubelet is a lesion, from V_M's scores; zeros if V_M has none to learn from."""
    if not len(practice):
        return np.zeros(len(tubelets))
    correct = practice["correct"].to_numpy(zero_copy_only=False)
    values, place, counts = np.unique(practice["score"].to_numpy(), return_inverse=True, return_counts=True)
    share = np.bincount(place, correct) / counts
    fitted = isotonic_regression(share, weights=counts).x
    at = np.searchsorted(values, tubelets["score"].to_numpy(), side="right") - 1
    return np.where(at >= 0, fitted[np.maximum(at, 0)], 0.0)


def _count(volumes: pa.Table, rows: pa.Table) -> pa.Array:
    found = pc.value_counts(rows["volume_id"].combine_chunks())
    counts = dict(zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True))
    return pa.array([counts.get(volume, 0) for volume in volumes["volume_id"].to_pylist()], pa.int64())


def _per_volume(volumes: pa.Table, likely: pa.Table, how: str, otherwise: float | None) -> pa.Array:
    grouped = likely.group_by("volume_id").aggregate([("probability", how)]).to_pydict()
    values = dict(zip(grouped["volume_id"], grouped[f"probability_{how}"], strict=True))
    return pa.array(
        [values.get(volume, otherwise) for volume in volumes["volume_id"].to_pylist()], pa.float64()
    )
