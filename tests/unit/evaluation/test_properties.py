"""What holds of any tubelets and marks: matching as a loop does it, bounds of curves, whole patients in resamples."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from harvester.evaluation.bootstrap import Patients, draw_patients, resample
from harvester.evaluation.curves import average_precision, froc, precision_recall, sensitivity_at
from harvester.evaluation.matching import Overlaps, hits, overlaps
from harvester.geometry import paired_iou
from tests.builders import Box, mark, marks, overlapping, scored, tubelet

RATES = (0.125, 0.5, 1.0, 4.0)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x, y, width, height = (draw(st.integers(0, 12)) for _ in range(4))
    return float(x), float(y), float(x + width), float(y + height)


placed = st.tuples(st.sampled_from("ab"), st.integers(0, 3), boxes())
"""A volume, a slice and a box on it: few of each, so that many meet."""


@st.composite
def visits(draw: st.DrawFn) -> tuple[Overlaps, Any, int]:
    """Pairs that overlap, scores with ties, and how many marks there are."""
    tubelets, lesions = draw(st.integers(1, 8)), draw(st.integers(1, 6))
    each = st.tuples(st.integers(0, tubelets - 1), st.integers(0, lesions - 1))
    pairs = sorted(draw(st.sets(each, max_size=16)))
    ious = draw(st.lists(st.sampled_from([0.2, 0.5, 0.9]), min_size=len(pairs), max_size=len(pairs)))
    scores = draw(st.lists(st.sampled_from([0.1, 0.4, 0.4, 0.8]), min_size=tubelets, max_size=tubelets))
    return (overlapping(*((*pair, iou) for pair, iou in zip(pairs, ious, strict=True))), np.array(scores), lesions)


def plain_hits(found: Overlaps, scores: Iterable[float], threshold: float) -> tuple[dict[int, int], list[int]]:
    """Who hit each mark first, and how many marks each tubelet hits that were hit before; tubelet by tubelet."""
    first: dict[int, int] = {}
    repeats = [0 for _ in scores]
    for row in sorted(range(len(repeats)), key=lambda row: (-list(scores)[row], row)):
        for tubelet_row, lesion, iou in zip(found.tubelet, found.mark, found.iou, strict=True):
            if tubelet_row == row and iou >= threshold:
                repeats[row] += first.setdefault(int(lesion), row) != row
    return first, repeats


@settings(max_examples=25)
@given(st.lists(placed, max_size=6), st.lists(placed, max_size=6))
def test_overlaps_are_those_of_every_pair_in_one_volume_and_slice(found: list[Any], marked: list[Any]) -> None:
    tubelets = scored(*(tubelet(volume, box, z=[z]) for volume, z, box in found))
    lesions = marks(*(mark(volume, box, z=z) for volume, z, box in marked))
    got = overlaps(tubelets, lesions)
    want = {
        (i, j): float(paired_iou(np.array(a), np.array(b)))
        for i, (volume, z, a) in enumerate(found)
        for j, (other, k, b) in enumerate(marked)
        if (volume, z) == (other, k) and paired_iou(np.array(a), np.array(b)) > 0
    }
    assert dict(zip(zip(got.tubelet.tolist(), got.mark.tolist(), strict=True), got.iou.tolist(), strict=True)) == want
    # One-slice tubelets and marks can change places: P3D IoU is symmetric.
    swapped = overlaps(
        scored(*(tubelet(volume, box, z=[z]) for volume, z, box in marked)),
        marks(*(mark(volume, box, z=z) for volume, z, box in found)),
    )
    assert sorted(zip(swapped.mark, swapped.tubelet, swapped.iou, strict=True)) == sorted(
        zip(got.tubelet, got.mark, got.iou, strict=True)
    )


@given(visits(), st.sampled_from([0.2, 0.5, 1.0]))
def test_hits_are_those_of_a_visit_one_by_one(visit: tuple[Overlaps, Any, int], threshold: float) -> None:
    found, scores, lesions = visit
    got = hits(found, scores, lesions, threshold)
    first, repeats = plain_hits(found, scores.tolist(), threshold)
    assert got.mark_hit_by.tolist() == [first.get(lesion, -1) for lesion in range(lesions)]
    assert got.repeat_hits.tolist() == repeats
    assert got.new_hits.sum() == len(first)
    assert (got.correct == (got.new_hits > 0)).all()


@given(visits(), st.integers(1, 5))
def test_curves_rise_stay_in_bounds_and_hang_on_the_order_alone(visit: tuple[Overlaps, Any, int], volumes: int) -> None:
    found, scores, lesions = visit
    seen = hits(found, scores, lesions)
    curve, pr = froc(seen, volumes), precision_recall(seen)
    for rising in (curve.fp_per_volume, curve.sensitivity, pr.recall, -pr.scores):
        assert (np.diff(rising) >= 0).all()
    for share in (curve.sensitivity, pr.precision, pr.recall):
        assert ((share >= 0) & (share <= 1)).all()
    assert 0 <= average_precision(seen) <= (seen.mark_hit_by >= 0).mean() + 1e-12
    again = hits(found, np.exp(3 * scores) - 7, lesions)
    assert average_precision(again) == average_precision(seen)
    assert sensitivity_at(again, RATES, volumes).tolist() == sensitivity_at(seen, RATES, volumes).tolist()


@given(st.integers(1, 9), st.integers(0, 20), st.integers(0, 1000))
def test_a_resample_draws_as_many_patients_as_there_are(patients: int, resamples: int, seed: int) -> None:
    draws = draw_patients(patients, resamples, seed)
    assert draws.shape == (resamples, patients)
    assert (draws.sum(axis=1) == patients).all()
    np.testing.assert_array_equal(draws, draw_patients(patients, resamples, seed))


@given(st.integers(0, 1000), st.permutations(range(4)))
def test_a_patient_drawn_twice_counts_as_two_and_numbers_are_only_names(seed: int, order: list[int]) -> None:
    """Patients with their volumes, marks and detections: the figures follow how often each is drawn."""
    rng = np.random.default_rng(seed)
    of_mark = np.concatenate([np.arange(4), rng.integers(0, 4, 6)])
    of_detection = rng.integers(0, 4, 12)
    rows, lesions = np.nonzero((of_detection[:, None] == of_mark) & (rng.random((12, 10)) < 0.4))
    scores = rng.permutation(12) / 12.0
    seen = hits(Overlaps(rows, lesions, np.ones(len(rows))), scores, 10)
    request = (np.array([0.5, 2.0]), False, np.array([0.2, 0.7]), 0.5)

    def figures(names: Any, draws: list[int]) -> dict[str, Any]:
        who = Patients(names[of_detection], names[of_mark], names, 4)
        return resample(seen, who, np.array([draws], np.int16), *request)

    once = figures(np.arange(4), [1, 1, 1, 1])
    np.testing.assert_allclose(once["ap"], average_precision(seen), atol=1e-12)
    twice = figures(np.arange(4), [2, 2, 2, 2])
    draws = [2, 0, 1, 1]
    drawn, renamed = (figures(np.arange(4), draws), figures(np.array(order), [draws[order.index(k)] for k in range(4)]))
    for name in once:
        np.testing.assert_allclose(twice[name], once[name], atol=1e-12)
        np.testing.assert_allclose(renamed[name], drawn[name], atol=1e-12)
