"""One evaluation: a run, perhaps beside a baseline, on all marks and by strata, with the same patient draws."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from harvester.errors import SettingsError
from harvester.evaluation.bootstrap import draw_patients
from harvester.evaluation.boxes3d import METRICS
from harvester.evaluation.inputs.annotations import Annotations
from harvester.evaluation.inputs.detections import Detections
from harvester.evaluation.scorecard import P3D_IOU, Protocol, Scorecard, match, score
from harvester.evaluation.strata import Strata, strata

P3D_THRESHOLD: Final = 0.5
BOXES3D_THRESHOLD: Final = 0.3
"""Overlaps at which the published evaluators call a mark found."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """One run's scorecard on some marks and that of its baseline, if there is one."""

    run: Scorecard
    baseline: Scorecard | None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All that was scored. by_strata: for each way to cut the marks, one comparison per stratum."""

    protocol: Protocol
    truth: Annotations
    overall: Comparison
    by_strata: tuple[tuple[Strata, tuple[Comparison, ...]], ...]
    resamples: int
    seed: int
    accept: float | None


def protocol(boxes3d: bool, metric: str | None, threshold: float | None) -> Protocol:
    """The rules for tubelets or 3D boxes, with the published evaluators' defaults. Raises SettingsError."""
    if metric is not None and not boxes3d:
        raise SettingsError(f"--metric {metric} is for --boxes3d; tubelets are matched by P3D IoU")
    if metric is not None and metric not in METRICS:
        raise SettingsError(f"--metric {metric}: want one of {', '.join(METRICS)}")
    if threshold is None:
        threshold = BOXES3D_THRESHOLD if boxes3d else P3D_THRESHOLD
    if not 0 < threshold <= 1:
        raise SettingsError(f"--threshold {threshold:g}: want an overlap in (0, 1]")
    return Protocol((metric or "iobb") if boxes3d else P3D_IOU, threshold)


def evaluate(
    run: Detections,
    truth: Annotations,
    rules: Protocol,
    baseline: Detections | None = None,
    by: Sequence[str] = (),
    accept: float | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Score a run and its baseline; both see the same draws of patients, so that their difference is paired."""
    cuts = [strata(truth.marks, name) for name in by]
    draws = draw_patients(truth.num_patients, resamples, seed)
    matched = [match(detections, truth, rules) for detections in (run, baseline) if detections is not None]

    def compared(stratum: NDArray[np.bool_] | None = None) -> Comparison:
        cards = [score(one, truth, rules, draws, accept, stratum) for one in matched]
        return Comparison(cards[0], cards[1] if len(cards) > 1 else None)

    by_strata = tuple((cut, tuple(compared(cut.of_mark == place) for place in range(len(cut.labels)))) for cut in cuts)
    return Evaluation(rules, truth, compared(), by_strata, resamples, seed, accept)
