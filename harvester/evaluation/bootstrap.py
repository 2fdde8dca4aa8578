"""Confidence intervals by bootstrap over patients: whole patients are drawn, with all their volumes.

What a detection hits depends on its own volume alone, so matching is done once: a resample only weighs the
counts of each patient by how often it was drawn. And only the detections that find something matter: between
two of them the sensitivity stands still and the precision falls, so that false positives are needed as sums
from one to the next. Those sums are a sparse (steps, patients) matrix, times the (patients, resamples) weights.

Source of the percentile interval: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from harvester.errors import SettingsError
from harvester.evaluation.matching import Floats, Hits, Integers

Draws = NDArray[np.int16]
Side = Literal["left", "right"]
CONFIDENCE: Final = 0.95
CHUNK: Final = 1 << 18
"""Numbers in one array of a chunk of resamples: small enough to stay in the processor's cache."""


@dataclass(frozen=True, eq=False)
class Patients:
    """Whose the n detections, m marks and v volumes are: numbers of patients from 0, (n,), (m,), (v,)."""

    of_detection: Integers
    of_mark: Integers
    of_volume: Integers
    count: int


def draw_patients(num_patients: int, resamples: int, seed: int) -> Draws:
    """(resamples, num_patients) int16: how often each patient was drawn; num_patients draws in each resample."""
    if resamples < 0:
        raise SettingsError(f"resamples = {resamples}: want 0 (no intervals) or more")
    rng = np.random.default_rng(seed)
    shares = np.full(num_patients, 1 / num_patients)
    return rng.multinomial(num_patients, shares, size=resamples).astype(np.int16)


def resample(
    hits: Hits,
    patients: Patients,
    draws: Draws,
    rates: Floats,
    inclusive: bool,
    recalls: Floats,
    accept: float | None = None,
) -> dict[str, Floats]:
    """Figures of each of b resamples; nan in a resample without marks.

    ap (b,), sensitivity (b, rates) at `rates` false positives per volume, envelope (b, recalls): VOC's precision at
    `recalls`; with a score to `accept` detections from, precision and recall (b,) of the harvest. `inclusive` counts
    a point exactly at a rate: LENS' rule, not Lesion Harvester's.
    """
    steps = _steps(hits, patients)
    side: Side = "right" if inclusive else "left"
    chunks = [_curves(steps, part, rates, side, recalls) for part in _parts(draws, len(steps.found))]
    figures = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    if accept is not None:
        figures |= _harvest(hits, patients, draws.astype(np.float64), accept)
    return figures


def interval(replicates: Floats) -> Floats:
    """(2, ...) percentile interval over the first axis, resamples without marks left out; nan where none is left."""
    tail = (1 - CONFIDENCE) / 2
    flat = replicates.reshape(len(replicates), -1)
    ends = np.full((2, flat.shape[1]), np.nan)
    for column in range(flat.shape[1]):
        known = flat[~np.isnan(flat[:, column]), column]
        if len(known):
            ends[:, column] = np.quantile(known, (tail, 1 - tail))
    return ends.reshape(2, *replicates.shape[1:])


@dataclass(frozen=True, eq=False)
class _Steps:
    """The k detections that are the first to hit a mark, in order of the visit, and what lies between them.

    found (k,) marks hit; patient (k,); missed, repeated (k, p) sparse: since the step before, this one included,
    detections that hit nothing and marks hit again; marks, volumes (p,) of each patient.
    """

    found: Integers
    patient: Integers
    missed: Any
    repeated: Any
    marks: Integers
    volumes: Integers


def _steps(hits: Hits, patients: Patients) -> _Steps:
    new, repeat = hits.new_hits[hits.order], hits.repeat_hits[hits.order]
    patient, at = patients.of_detection[hits.order], np.flatnonzero(new)
    # The first step that comes no earlier; len(at) after the last.
    step = np.searchsorted(at, np.arange(len(new)))
    shape = (len(at), patients.count)

    def sums(counts: Integers) -> Any:
        rows = np.flatnonzero((counts > 0) & (step < len(at)))
        return sparse.csr_array((counts[rows].astype(np.float64), (step[rows], patient[rows])), shape=shape)

    return _Steps(
        new[at],
        patient[at],
        sums((new + repeat == 0).astype(np.int64)),
        sums(repeat),
        np.bincount(patients.of_mark, minlength=patients.count),
        np.bincount(patients.of_volume, minlength=patients.count),
    )


def _parts(draws: Draws, steps: int) -> Iterator[Floats]:
    size = max(1, CHUNK // max(steps, 1))
    for start in range(0, max(len(draws), 1), size):
        yield draws[start : start + size].astype(np.float64)


def _curves(steps: _Steps, weights: Floats, rates: Floats, side: Side, recalls: Floats) -> dict[str, Floats]:
    """Figures of the resamples of one chunk; weights (b, p)."""
    marks, volumes = weights @ steps.marks, weights @ steps.volumes
    by_patient = np.ascontiguousarray(weights.T)
    gained = steps.found[:, None] * by_patient[steps.patient]
    tp = np.cumsum(gained, axis=0)
    fp_froc = np.cumsum(steps.missed @ by_patient, axis=0)
    fp_ap = fp_froc + np.cumsum(steps.repeated @ by_patient, axis=0)
    total = tp + fp_ap
    precision = np.divide(tp, total, out=np.zeros_like(tp), where=total > 0)
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    area = np.einsum("kb,kb->b", gained, envelope)
    none = np.zeros((1, len(weights)))  # before the first step nothing is found, beyond the last recall nothing precise
    found = _values_at(rates, fp_froc / volumes, np.vstack([none, tp]), side)
    with np.errstate(invalid="ignore"):  # 0 / 0 in a resample without marks: nan is meant
        precise = _values_at(recalls, tp / marks, np.vstack([envelope, none]))
        return {
            "ap": area / marks,
            "sensitivity": found / marks[:, None],
            "envelope": np.where(marks > 0, precise.T, np.nan).T,
        }


def _values_at(at: Floats, curve: Floats, values: Floats, side: Side = "left") -> Floats:
    """(b, len(at)): of each column of `values` (k + 1, b) the one where that of `curve` (k, b), ascending, gets to."""
    places = np.array([np.searchsorted(column, at, side) for column in np.ascontiguousarray(curve.T)])
    return np.take_along_axis(values.T, places.reshape(curve.shape[1], -1), axis=1)


def _harvest(hits: Hits, patients: Patients, weights: Floats, accept: float) -> dict[str, Floats]:
    """Precision and recall of what scores at least `accept`; precision nan where nothing is accepted."""
    accepted = hits.scores >= accept

    def sums(rows: NDArray[np.bool_]) -> Floats:
        return weights @ np.bincount(patients.of_detection[rows], minlength=patients.count)

    found = accepted & hits.correct
    hit = (hits.mark_hit_by >= 0) & accepted[hits.mark_hit_by] if len(accepted) else np.zeros(0, dtype=bool)
    recalled = weights @ np.bincount(patients.of_mark[: len(hit)][hit], minlength=patients.count)
    marks = weights @ np.bincount(patients.of_mark, minlength=patients.count)
    with np.errstate(invalid="ignore"):
        return {"precision": sums(found) / sums(accepted), "recall": recalled / marks}
