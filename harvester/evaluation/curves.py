"""FROC and average precision from hits, by the rules of the evaluator published with Lesion Harvester.

A tubelet that hits no mark is one false positive. One that hits marks adds a true positive for each mark
not hit before; each mark that was hit before adds a false positive for AP and none for FROC.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from harvester.errors import LabelError
from harvester.evaluation.matching import Floats, Hits, Integers

FROC_RATES: Final = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""False positives per volume at which sensitivity is usually reported."""


@dataclass(frozen=True, eq=False)
class Froc:
    """Sensitivity against false positives per volume, a point per tubelet as they are visited, (n,) each."""

    fp_per_volume: Floats
    sensitivity: Floats


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """Precision and recall if tubelets with score >= `scores` are accepted, (n,) each, scores descending."""

    scores: Floats
    precision: Floats
    recall: Floats


def true_positives(hits: Hits) -> Integers:
    """(n,) marks hit up to each tubelet of the visit."""
    return np.cumsum(hits.new_hits[hits.order])


def false_positives(hits: Hits, repeats: bool) -> Integers:
    """(n,) false positives up to each tubelet of the visit; `repeats` adds marks hit before, as AP does."""
    missed = (hits.new_hits + hits.repeat_hits == 0).astype(np.int64)
    return np.cumsum((missed + hits.repeat_hits if repeats else missed)[hits.order])


def froc(hits: Hits, num_volumes: int) -> Froc:
    """FROC over `num_volumes` annotated volumes, those without a mark included. No tubelets: no points."""
    if num_volumes < 1:
        raise LabelError(f"FROC over {num_volumes} volumes; want at least one annotated volume")
    fp_per_volume = false_positives(hits, repeats=False) / num_volumes
    return Froc(fp_per_volume, _share(true_positives(hits), len(hits.mark_hit_by)))


def sensitivity_at(hits: Hits, rates: Sequence[float], num_volumes: int) -> Floats:
    """(len(rates),) sensitivities at `rates` false positives per volume, linear between and beyond the points.

    Zeros without tubelets, nan without marks.
    """
    curve = froc(hits, num_volumes)
    if not len(curve.sensitivity):
        return np.full(len(rates), 0.0 if len(hits.mark_hit_by) else np.nan)
    return _interpolate(np.asarray(rates, dtype=np.float64), curve.fp_per_volume, curve.sensitivity)


def sensitivity_by_lens(hits: Hits, rates: Sequence[float], num_volumes: int) -> Floats:
    """(len(rates),) sensitivities at `rates` by the rule of LENS' evaluator.

    That of the last point with at most `rate` false positives per volume: 0 left of the curve, its last value
    right of its end. A point exactly at the rate counts here, and does not in `sensitivity_at`. nan without marks.
    """
    curve = froc(hits, num_volumes)
    points = np.searchsorted(curve.fp_per_volume, np.asarray(rates, dtype=np.float64), side="right")
    before = 0.0 if len(hits.mark_hit_by) else np.nan
    return np.concatenate([[before], curve.sensitivity])[points]


def average_precision(hits: Hits) -> float:
    """Area under VOC's envelope of precision over recall; 0 without tubelets, nan without marks."""
    if not len(hits.mark_hit_by):
        return float("nan")
    curve = _per_tubelet(hits)
    recall = np.concatenate([[0.0], curve.recall, [1.0]])
    precision = np.concatenate([[0.0], curve.precision, [0.0]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall) * envelope[1:]))


def precision_recall(hits: Hits) -> PrecisionRecall:
    """AP's counts at each distinct score; tubelets of one score go together. No tubelets: no points."""
    curve = _per_tubelet(hits)
    last = np.flatnonzero(np.append(curve.scores[1:] != curve.scores[:-1], True)[: len(curve.scores)])
    return PrecisionRecall(curve.scores[last], curve.precision[last], curve.recall[last])


def _per_tubelet(hits: Hits) -> PrecisionRecall:
    tp, fp = true_positives(hits), false_positives(hits, repeats=True)
    return PrecisionRecall(hits.scores[hits.order], tp / (tp + fp), _share(tp, len(hits.mark_hit_by)))


def _share(counts: Integers, total: int) -> Floats:
    return counts / total if total else np.full(len(counts), np.nan)


def _interpolate(at: Floats, x: Floats, y: Floats) -> Floats:
    """y(at) on the segment whose ends satisfy x_low < at <= x_high, the end segments carried on; x ascending.

    An end segment without width has no slope: its last point holds to the right of it, its first to the left.
    """
    high = np.clip(np.searchsorted(x, at), min(1, len(x) - 1), len(x) - 1)
    low = np.maximum(high - 1, 0)
    width = x[high] - x[low]
    slope = np.divide(y[high] - y[low], width, out=np.zeros_like(at), where=width > 0)
    return np.where((width == 0) & (at > x[high]), y[high], y[low] + slope * (at - x[low]))
