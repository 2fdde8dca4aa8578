"""The bootstrap against a loop that walks through the visit with weighted counts, and what a difference says."""

from typing import Any

import numpy as np
import pytest

from harvester.errors import SettingsError
from harvester.evaluation.bootstrap import Patients, draw_patients, interval, resample
from harvester.evaluation.curves import average_precision, sensitivity_at, sensitivity_by_lens
from harvester.evaluation.matching import Hits, Overlaps, hits

RATES = np.array([0.25, 0.5, 1.0, 3.0, 100.0])
RECALLS = np.array([0.0, 0.3, 0.6, 1.0])


def made(seed: int, detections: int = 60, marks: int = 25, count: int = 6) -> tuple[Hits, Patients]:
    """Detections and marks of `count` patients with two volumes each; a detection hits marks of its patient."""
    rng = np.random.default_rng(seed)
    patients = Patients(
        rng.integers(0, count, detections), rng.integers(0, count, marks), np.arange(2 * count) // 2, count
    )
    own = patients.of_detection[:, None] == patients.of_mark
    tubelet, mark = np.nonzero(own & (rng.random(own.shape) < 0.25))
    return hits(Overlaps(tubelet, mark, np.ones(len(tubelet))), rng.random(detections), marks), patients


def slow(seen: Hits, who: Patients, weight: Any, inclusive: bool, accept: float) -> dict[str, Any]:
    marks = sum(weight[p] for p in who.of_mark)
    volumes = sum(weight[p] for p in who.of_volume)
    tp = fp_froc = fp_ap = accepted = correct = recalled = 0
    points = []
    for row in seen.order:
        w = weight[who.of_detection[row]]
        new, repeat = seen.new_hits[row], seen.repeat_hits[row]
        missed = new + repeat == 0
        tp, fp_froc, fp_ap = tp + w * new, fp_froc + w * missed, fp_ap + w * (missed + repeat)
        points.append((tp, fp_froc / volumes, tp / (tp + fp_ap) if tp + fp_ap else 0.0))
        if seen.scores[row] >= accept:
            accepted, correct, recalled = accepted + w, correct + w * (new > 0), recalled + w * new
    area, before = 0.0, 0
    for at, (found, _, _) in enumerate(points):
        area += (found - before) / marks * max(precision for _, _, precision in points[at:])
        before = found
    return {
        "ap": area,
        "sensitivity": [
            max((found for found, fp, _ in points if fp < r or (inclusive and fp == r)), default=0) / marks
            for r in RATES
        ],
        "envelope": [max((p for found, _, p in points if found / marks >= recall), default=0.0) for recall in RECALLS],
        "precision": correct / accepted if accepted else np.nan,
        "recall": recalled / marks,
    }


@pytest.mark.parametrize("inclusive", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_resamples_are_those_of_a_loop_with_weighted_counts(seed: int, inclusive: bool) -> None:
    seen, who = made(seed)
    draws = draw_patients(who.count, 20, seed)
    figures = resample(seen, who, draws, RATES, inclusive, RECALLS, accept=0.6)
    for b, weight in enumerate(draws.tolist()):
        for name, value in slow(seen, who, weight, inclusive, 0.6).items():
            np.testing.assert_allclose(figures[name][b], value, rtol=0, atol=1e-12, err_msg=name)


def test_every_patient_once_gives_the_figures_themselves() -> None:
    seen, who = made(7)
    once = np.ones((1, who.count), dtype=np.int16)
    for inclusive, read in ((False, sensitivity_at), (True, sensitivity_by_lens)):
        figures = resample(seen, who, once, RATES, inclusive, RECALLS)
        assert figures["ap"][0] == pytest.approx(average_precision(seen), abs=1e-12)
        np.testing.assert_allclose(figures["sensitivity"][0], read(seen, RATES, 12), rtol=0, atol=1e-12)


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, who = made(1)
    draws, request = draw_patients(who.count, 11, 0), (RATES, False, RECALLS, 0.5)
    whole = resample(seen, who, draws, *request)
    monkeypatch.setattr("harvester.evaluation.bootstrap.CHUNK", 30)
    for name, values in resample(seen, who, draws, *request).items():
        np.testing.assert_array_equal(values, whole[name])


@pytest.mark.parametrize("detections", [0, 5])
def test_nothing_found_is_zero_and_nothing_marked_is_nan(detections: int) -> None:
    patients = Patients(np.zeros(detections, np.int64), np.array([0, 0]), np.array([0, 1]), 2)
    seen = hits(Overlaps(*np.zeros((3, 0), np.int64)), np.arange(float(detections)), 2)
    figures = resample(seen, patients, np.array([[1, 1], [0, 2]]), RATES, False, RECALLS, 0.0)
    assert figures["ap"][0] == 0
    assert np.isnan(figures["ap"][1])
    assert figures["sensitivity"][0].tolist() == [0.0] * len(RATES)
    assert np.isnan(figures["envelope"][1]).all()
    assert np.isnan(figures["precision"]).tolist() == ([True, True] if detections == 0 else [False, True])


def test_draws_are_seeded_and_keep_the_number_of_patients() -> None:
    draws = draw_patients(9, 50, 3)
    assert draws.sum(axis=1).tolist() == [9] * 50
    assert (draws == draw_patients(9, 50, 3)).all()
    assert (draws != draw_patients(9, 50, 4)).any()
    assert draw_patients(9, 0, 3).shape == (0, 9)
    with pytest.raises(SettingsError, match="resamples = -1"):
        draw_patients(9, -1, 0)


def test_intervals_are_percentiles_of_what_is_defined() -> None:
    replicates = np.stack([np.append(np.linspace(0, 1, 41), np.nan), np.full(42, np.nan)], axis=1)
    ends = interval(replicates)
    np.testing.assert_allclose(ends[:, 0], [0.025, 0.975])
    assert np.isnan(ends[:, 1]).all()
