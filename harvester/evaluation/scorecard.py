"""The figures of one run on one set of marks: matched once, then counted, cut into strata and resampled."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from harvester.evaluation.bootstrap import Draws, Patients, interval, resample
from harvester.evaluation.boxes3d import overlaps_3d
from harvester.evaluation.curves import FROC_RATES, average_precision, sensitivity_at, sensitivity_by_lens
from harvester.evaluation.inputs.annotations import Annotations
from harvester.evaluation.inputs.detections import Detections
from harvester.evaluation.matching import Floats, Hits, Integers, Overlaps, hits, overlaps
from harvester.evaluation.strata import within

Figures = dict[str, Floats]
P3D_IOU: Final = "p3d_iou"
MEAN_RATES: Final = 7
"""The average sensitivity is over the first rates: 1/8 to 8."""
CURVE_RATES: Final = np.geomspace(1 / 16, 32, 73)
CURVE_RECALLS: Final = np.linspace(0.0, 1.0, 101)
"""Where the intervals of the plotted curves are worked out."""


@dataclass(frozen=True)
class Protocol:
    """Whose rules: metric p3d_iou is Lesion Harvester's evaluator; iobb, iou and iogt LENS', for 3D boxes."""

    metric: str
    threshold: float

    @property
    def boxes3d(self) -> bool:
        """Whether 3D boxes are scored, by LENS' rules."""
        return self.metric != P3D_IOU

    @property
    def rates(self) -> tuple[float, ...]:
        """False positives per volume at which the evaluator gives the sensitivity."""
        return FROC_RATES[:MEAN_RATES] if self.boxes3d else FROC_RATES


@dataclass(frozen=True, eq=False)
class Match:
    """One run matched to the marks: what its n detections overlap, their scores and patients, (n,) each."""

    found: Overlaps
    scores: Floats
    patients: Integers


@dataclass(frozen=True, eq=False)
class Scorecard:
    """Counts and figures, and the figures of each bootstrap resample on the first axis (empty without resamples).

    counts      num_marks, num_tubelets, tp, fp_froc, fp_ap; with a harvest also accepted, correct, found
    figures     ap (), sensitivity (rates,), mean (); with a harvest also precision, recall (); nan where undefined
    replicates  the same names, and curve_sensitivity at CURVE_RATES, curve_precision at CURVE_RECALLS
    """

    hits: Hits
    counts: dict[str, int]
    figures: Figures
    replicates: Figures

    def interval(self, name: str) -> Floats | None:
        """(2, ...) ends of a figure's percentile interval, None without resamples."""
        return interval(self.replicates[name]) if name in self.replicates else None


def match(run: Detections, truth: Annotations, protocol: Protocol) -> Match:
    """Match a run to the marks: the costly part, done once for all figures, strata and resamples."""
    table, marks = run.table, truth.marks
    found = overlaps_3d(table, marks, protocol.metric) if protocol.boxes3d else overlaps(table, marks)
    return Match(found, run.scores, truth.patients_of(table["volume_id"]))


def score(
    run: Match,
    truth: Annotations,
    protocol: Protocol,
    draws: Draws,
    accept: float | None = None,
    stratum: NDArray[np.bool_] | None = None,
) -> Scorecard:
    """The figures on all marks, or on the (m,) bool marks of one `stratum` (strata.py says what that leaves out).

    draws   (resamples, patients) of bootstrap.draw_patients, with 0 resamples for no intervals
    accept  score from which detections count as harvested; None for no harvest
    """
    chosen = np.ones(len(truth.marks), dtype=bool) if stratum is None else stratum
    found, rows = within(run.found, chosen, len(run.scores), protocol.threshold)
    seen = hits(found, run.scores[rows], int(chosen.sum()), protocol.threshold)
    of_mark = truth.patients_of(truth.marks["volume_id"])[chosen]
    patients = Patients(run.patients[rows], of_mark, truth.patients, truth.num_patients)
    counts, figures = _figures(seen, protocol, len(truth.volume_ids))
    if accept is not None:
        accepted, harvest = _harvest(seen, accept)
        counts, figures = counts | accepted, figures | harvest
    replicates = _replicates(seen, patients, draws, protocol, accept) if len(draws) else {}
    return Scorecard(seen, counts, figures, replicates)


def difference(run: Scorecard, baseline: Scorecard, name: str) -> Figures:
    """run - baseline: value (...); with resamples also interval (2, ...) and share_at_most_0 (...).

    The resamples of both must come from the same draws: the difference is taken patient by patient.
    """
    value = run.figures[name] - baseline.figures[name]
    if name not in run.replicates:
        return {"value": value}
    moved = run.replicates[name] - baseline.replicates[name]
    known = (~np.isnan(moved)).sum(axis=0)
    share = np.where(known > 0, (moved <= 0).sum(axis=0) / np.maximum(known, 1), np.nan)
    return {"value": value, "interval": interval(moved), "share_at_most_0": share}


def _figures(seen: Hits, protocol: Protocol, num_volumes: int) -> tuple[dict[str, int], Figures]:
    read = sensitivity_by_lens if protocol.boxes3d else sensitivity_at
    sensitivity = read(seen, protocol.rates, num_volumes)
    missed, repeats = int((seen.new_hits + seen.repeat_hits == 0).sum()), int(seen.repeat_hits.sum())
    counts = {
        "num_marks": len(seen.mark_hit_by),
        "num_tubelets": len(seen.scores),
        "tp": int((seen.mark_hit_by >= 0).sum()),
        "fp_froc": missed,
        "fp_ap": missed + repeats,
    }
    figures = {
        "ap": np.asarray(average_precision(seen)),
        "sensitivity": sensitivity,
        "mean": np.asarray(sensitivity[:MEAN_RATES].mean()),
    }
    return counts, figures


def _harvest(seen: Hits, accept: float) -> tuple[dict[str, int], Figures]:
    accepted = seen.scores >= accept
    chosen, correct = int(accepted.sum()), int((accepted & seen.correct).sum())
    found = int(accepted[seen.mark_hit_by[seen.mark_hit_by >= 0]].sum())
    marks = len(seen.mark_hit_by)
    figures = {
        "precision": np.asarray(correct / chosen if chosen else np.nan),
        "recall": np.asarray(found / marks if marks else np.nan),
    }
    return {"accepted": chosen, "correct": correct, "found": found}, figures


def _replicates(seen: Hits, patients: Patients, draws: Draws, protocol: Protocol, accept: float | None) -> Figures:
    rates = np.concatenate([protocol.rates, CURVE_RATES])
    made = resample(seen, patients, draws, rates, protocol.boxes3d, CURVE_RECALLS, accept)
    sensitivity, curve = np.split(made.pop("sensitivity"), [len(protocol.rates)], axis=1)
    mean = sensitivity[:, :MEAN_RATES].mean(axis=1)
    precision = made.pop("envelope")
    return made | {"sensitivity": sensitivity, "mean": mean, "curve_sensitivity": curve, "curve_precision": precision}
