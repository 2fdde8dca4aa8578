"""What the targets ask for, and that a network which answered them perfectly would give the boxes back."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harvester.geometry import paired_iou
from harvester.proposals.boxes import SliceBoxes
from harvester.proposals.decoding import above, best_peaks, shared_heat
from harvester.proposals.losses import CLAMP
from harvester.proposals.targets import SlabLabels, build_targets, centre_cell, gaussian_radius, splat

SIDE = 128
STRIDE = 4


def decode(
    outputs: dict[str, Tensor], top_k: int, score_floor: float, stride: int = STRIDE
) -> tuple[Tensor, Tensor, Tensor]:
    """Slices, boxes and scores of what survives."""
    return above(*best_peaks(outputs, top_k, stride), score_floor)


def labels(z: Any, boxes: Any, depth: int, **more: Any) -> SlabLabels:
    lesions = SliceBoxes(np.asarray(z, np.int64), np.asarray(boxes, np.float64).reshape(-1, 4))
    given: dict[str, Any] = {"lesions": lesions, "slice_weight": np.ones(depth, np.float32)}
    return SlabLabels(**({"negatives": SliceBoxes.of(), "ignored": SliceBoxes.of()} | given | more))


def scattered(rng: np.random.Generator, depth: int) -> tuple[Any, Any]:
    """Boxes with fractional ends, at most one in each 32 px square, so that no two share a neighbourhood."""
    z, boxes = [], []
    for level in range(depth):
        for cell in rng.permutation(16)[:5]:
            corner = np.array([cell % 4, cell // 4]) * 32 + rng.uniform(0, 8, 2)
            z.append(level)
            boxes.append(np.concatenate([corner, corner + rng.uniform(3, 22, 2)]))
    return np.array(z), np.stack(boxes)


def perfect(maps: dict[str, Any]) -> dict[str, Tensor]:
    """Outputs that answer the targets exactly; a Gaussian of 1 becomes the highest score that decode gives."""
    tensors = {name: torch.from_numpy(values) for name, values in maps.items()}
    return {"heat": torch.logit(tensors["heat"], eps=CLAMP), "size": tensors["size"], "offset": tensors["offset"]}


@pytest.mark.parametrize("stride", [2, 4])
@pytest.mark.parametrize("seed", range(5))
def test_perfect_answers_decode_to_the_boxes(seed: int, stride: int) -> None:
    rng = np.random.default_rng(seed)
    z, boxes = scattered(rng, 3)
    got_z, got, scores = decode(perfect(build_targets(labels(z, boxes, 3), SIDE, SIDE, stride)), 100, 0.9, stride)
    assert len(got) == len(boxes)
    assert float(scores.min()) == pytest.approx(1 - CLAMP)
    order = np.lexsort((boxes[:, 0], z))
    found = np.lexsort((got[:, 0].numpy(), got_z.numpy()))
    np.testing.assert_array_equal(got_z.numpy()[found], z[order])
    np.testing.assert_allclose(got.numpy()[found], boxes[order], atol=1e-3)


def test_two_lesions_that_touch_are_two_peaks_at_a_stride_of_2_wherever_they_lie() -> None:
    found = {2: 0, 4: 0}
    for x in np.arange(20, 28, 0.5):
        boxes = [(x, 30.0, x + 5, 35.0), (x + 6, 30.0, x + 11, 35.0)]
        for stride in found:
            out = perfect(build_targets(labels([0, 0], boxes, 1), SIDE, SIDE, stride))
            # Scores that are equal would both be the largest of their neighbourhood.
            out["heat"] = out["heat"] / 2 + torch.linspace(0, 1, out["heat"].shape[-1])
            found[stride] += len(decode(out, 100, 0.9, stride)[0])
    assert found[2] == 32
    assert found[4] < 32


def test_slices_without_boxes_decode_to_nothing() -> None:
    out = perfect(build_targets(labels([], [], 2), SIDE, SIDE, STRIDE))
    z, boxes, scores = decode(out, 100, 0.1)
    assert (z.shape, boxes.shape, scores.shape) == ((0,), (0, 4), (0,))


def test_decode_keeps_the_best_of_each_slice_above_the_floor() -> None:
    rng = torch.Generator().manual_seed(0)
    heat = torch.randn(2, 1, 16, 16, generator=rng)
    out = {"heat": heat, "size": torch.ones(2, 2, 16, 16), "offset": torch.zeros(2, 2, 16, 16)}
    p = torch.sigmoid(heat)[:, 0].numpy()
    peaks = []
    for z in range(2):
        for row in range(16):
            for column in range(16):
                around = p[z, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
                if p[z, row, column] == around.max() and p[z, row, column] >= 0.6:
                    peaks.append((z, -p[z, row, column], column * 4 - 2, row * 4 - 2))
    peaks.sort()
    z, boxes, scores = decode(out, 100, 0.6)
    got = list(zip(z.tolist(), (-scores).tolist(), boxes[:, 0].tolist(), boxes[:, 1].tolist(), strict=True))
    assert [(a, c, d) for a, _, c, d in got] == [(a, c, d) for a, _, c, d in peaks]
    np.testing.assert_allclose([b for _, b, _, _ in got], [b for _, b, _, _ in peaks], rtol=1e-5)
    few, _, _ = decode(out, 3, 0.6)
    assert few.tolist() == [0, 0, 0, 1, 1, 1]
    everything, _, _ = decode({name: value[:, :, :2, :2] for name, value in out.items()}, 100, 0.6)
    assert len(everything) <= 2


@pytest.mark.parametrize(("width", "height"), [(1.0, 1.0), (3.5, 20.0), (16.0, 16.0), (64.0, 30.0), (200.0, 2.0)])
@pytest.mark.parametrize("min_iou", [0.5, 0.7, 0.9])
def test_a_box_shifted_by_the_radius_keeps_the_iou(width: float, height: float, min_iou: float) -> None:
    radius = gaussian_radius(width, height, min_iou)
    box = np.array([[0.0, 0.0, width - 1, height - 1]])
    step = np.linspace(0, radius, 7)
    for dx in [*-step, *step]:
        for dy in [*-step, *step]:
            assert paired_iou(box, box + np.array([dx, dy, dx, dy]))[0] >= min_iou - 1e-9
    further = 1.01 * radius
    assert paired_iou(box, box + further)[0] < min_iou


def test_the_gaussian_is_the_formula() -> None:
    box = np.array([20.0, 24.0, 67.0, 79.0])
    heat = np.zeros((32, 32), np.float32)
    splat(heat, box, STRIDE)
    column, row, _, _ = centre_cell(box, STRIDE)
    assert (column, row) == (11, 13)
    reach = int(gaussian_radius(12, 14))
    sigma = (2 * reach + 1) / 6
    assert reach >= 1
    for y in range(32):
        for x in range(32):
            far = max(abs(y - row), abs(x - column)) > reach
            value = 0 if far else np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * sigma**2))
            assert heat[y, x] == pytest.approx(value, abs=1e-6)


def test_overlapping_lesions_keep_the_maximum_and_both_centres() -> None:
    boxes = [(10.0, 10.0, 49.0, 49.0), (18.0, 14.0, 61.0, 57.0)]
    both = build_targets(labels([0, 0], boxes, 1), SIDE, SIDE, STRIDE)
    single = [build_targets(labels([0], box, 1), SIDE, SIDE, STRIDE)["heat"] for box in boxes]
    np.testing.assert_array_equal(both["heat"], np.maximum(*single))
    assert both["centre"].sum() == (both["heat"] == 1).sum() == 2


def test_centres_outside_the_crop_teach_nothing() -> None:
    outside = [(-40.0, 10.0, -2.0, 20.0), (10.0, SIDE - 3.0, 20.0, SIDE + 30.0), (1e5, 0.0, 1e5 + 5, 9.0)]
    maps = build_targets(labels([0] * 3, outside, 1), SIDE, SIDE, STRIDE)
    for name in ("heat", "size", "offset", "centre", "negative"):
        assert maps[name].sum() == 0
    assert (maps["weight"] == 1).all()


def test_a_box_of_one_pixel_is_a_single_cell() -> None:
    maps = build_targets(labels([0], (41.0, 22.0, 41.0, 22.0), 1), SIDE, SIDE, STRIDE)
    assert maps["heat"][0, 0, 5, 10] == maps["heat"].sum() == 1
    np.testing.assert_allclose(maps["size"][0, :, 5, 10], 1 / STRIDE)
    np.testing.assert_allclose(maps["offset"][0, :, 5, 10], [1.5 / 4, 2.5 / 4])


def test_a_lesion_that_is_not_sure_weighs_less_in_its_own_cells() -> None:
    boxes = np.array([(10.0, 10.0, 49.0, 49.0), (18.0, 14.0, 61.0, 57.0)])
    unsure = labels([], [], 1, lesions=SliceBoxes(np.array([0, 0]), boxes, np.array([0.6, 0.9])))
    one, other = (build_targets(labels([0], box, 1), SIDE, SIDE, STRIDE)["heat"][0, 0] > 0 for box in boxes)
    maps = build_targets(unsure, SIDE, SIDE, STRIDE)
    expected = np.where(other, 0.9, np.where(one, 0.6, 1.0))
    np.testing.assert_allclose(maps["weight"][0, 0], expected, rtol=1e-6)
    sure = build_targets(labels([0, 0], boxes, 1), SIDE, SIDE, STRIDE)
    for name in ("heat", "negative", "size", "offset", "centre"):
        np.testing.assert_array_equal(maps[name], sure[name])


def test_ignored_regions_weigh_nothing_except_where_a_label_is() -> None:
    known = labels(
        [0], (40.0, 40.0, 70.0, 70.0), 2, ignored=SliceBoxes(np.array([0, 1]), np.array([[36.0, 36, 99, 83]] * 2))
    )
    maps = build_targets(known, SIDE, SIDE, STRIDE)
    inside = np.zeros((32, 32), bool)
    inside[9:21, 9:25] = True
    np.testing.assert_array_equal(maps["weight"][1, 0], ~inside)
    np.testing.assert_array_equal(maps["weight"][0, 0], ~inside | (maps["heat"][0, 0] > 0))
    beyond = labels([], [], 1, ignored=SliceBoxes.of([(0, np.array([-90.0, -90, -5, -5]))]))
    assert (build_targets(beyond, SIDE, SIDE, STRIDE)["weight"] == 1).all()


def test_a_hard_negative_does_not_make_an_unknown_region_known() -> None:
    # The region: where a marked lesion of a neighbouring slice may still show (labels.UNSURE).
    there = SliceBoxes.of([(0, np.array([40.0, 40, 70, 70]))])
    known = labels([], [], 1, ignored=there, negatives=there)
    weight = build_targets(known, SIDE, SIDE, STRIDE)["weight"][0, 0]
    assert weight[10:17, 10:17].max() == 0


def test_without_a_floor_only_peaks_come_out() -> None:
    out = {"heat": torch.zeros(1, 1, 8, 8), "size": torch.ones(1, 2, 8, 8), "offset": torch.zeros(1, 2, 8, 8)}
    out["heat"][0, 0] = torch.arange(64.0).view(8, 8) / 10
    _, _, scores = decode(out, 10, 0.0)
    assert len(scores) == 1


def test_the_cells_round_a_large_lesions_peak_count_and_those_round_a_small_one_do_not() -> None:
    heat = torch.full((1, 1, 24, 24), 0.05)
    heat[0, 0, 12, 11:14] = torch.tensor([0.5, 0.6, 0.4])
    for side, others in ((5.0, 1.0), (6.0, 0.85 * 0.95), (60.0, 0.85 * 0.95)):
        got = shared_heat(heat, torch.full((1, 2, 24, 24), side))
        assert got.shape == heat.shape
        assert float(got[0, 0, 12, 12]) == pytest.approx(1 - 0.4 * others)
        assert (got >= heat - 1e-6).all() and float(got[0, 0, 2, 2]) == pytest.approx(0.05)
    heat[0, 0, 12, 17] = 0.6  # five cells away: too far for any box
    far = shared_heat(heat, torch.full((1, 2, 24, 24), 60.0))
    assert float(far[0, 0, 12, 12]) == pytest.approx(1 - 0.4 * 0.85 * 0.95)
    assert float(shared_heat(torch.full_like(heat, 1 - CLAMP), torch.full((1, 2, 24, 24), 60.0)).max()) <= 1 - CLAMP
