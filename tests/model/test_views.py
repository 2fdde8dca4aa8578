"""The classifier's crops against a slow reading per pixel; examples that are balanced, seeded and augmented."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from harvester.classifier.examples import Examples
from harvester.classifier.views import DESCRIPTORS, MARGIN, Tubelets, cut_views, load_views, shape_profile, view_places
from harvester.config.settings import ClassifierSettings, GridSettings
from harvester.imaging.hounsfield import AIR_HU
from harvester.store.slab import GridFrame, read_slab
from harvester.store.store import Store
from tests.builders import Box, tubelet

GRID = GridSettings(windows_hu=((-1024.0, 1024.0), (-160.0, 240.0)))
CPU = torch.device("cpu")
SMALL = ClassifierSettings(views=4, local_px=16, global_px=20, global_mm=48.0)


def row(z: list[int], box: Box, lpg: float = 0.5) -> dict[str, Any]:
    return tubelet("v", box, z, lpg_score=lpg)


def smooth(depth: int = 9, side: int = 80) -> Any:
    """Waves: different everywhere, and nowhere so steep that rounding to HU shows."""
    z, y, x = np.meshgrid(np.arange(depth), np.arange(side), np.arange(side), indexing="ij")
    return 300 * np.sin(0.3 * x + 0.2 * z) + 200 * np.cos(0.23 * y - 0.5 * z) + 40 * z


@pytest.fixture
def opened(make_store: Callable[..., Store], frames_of: Any) -> tuple[Store, GridFrame]:
    store = make_store({"v": ("vm", smooth())})
    return store, frames_of(store, GRID)["v"]


def slow_crop(plane: Any, centre_xy: Any, extent_px: float, pixels: int) -> Any:
    """Bilinear reading at each output pixel's centre; corner coordinates, edge pixels repeated."""
    out = np.zeros((pixels, pixels))
    for i in range(pixels):
        for j in range(pixels):
            y = centre_xy[1] - extent_px / 2 + (i + 0.5) * extent_px / pixels - 0.5
            x = centre_xy[0] - extent_px / 2 + (j + 0.5) * extent_px / pixels - 0.5
            y, x = np.clip(y, 0, plane.shape[0] - 1), np.clip(x, 0, plane.shape[1] - 1)
            y0, x0 = min(int(y), plane.shape[0] - 2), min(int(x), plane.shape[1] - 2)
            fy, fx = y - y0, x - x0
            above = plane[y0, x0] * (1 - fx) + plane[y0, x0 + 1] * fx
            below = plane[y0 + 1, x0] * (1 - fx) + plane[y0 + 1, x0 + 1] * fx
            out[i, j] = above * (1 - fy) + below * fy
    return out


def channels(planes: Any, windows: Any) -> Any:
    """(3, p, p) HU to (3 windows, p, p): window by window."""
    return np.concatenate([np.clip((planes - low) / (high - low), 0, 1) for low, high in windows])


@pytest.mark.parametrize("jitter", [(0.0, 0.0, 1.0), (0.1, -0.07, 1.15)])
def test_views_equal_the_slow_reading(opened: Any, jitter: Any) -> None:
    store, frame = opened
    rows = [row([3, 4], (30.0, 32.0, 41.0, 47.0)), row([0], (36.5, 30.25, 40.0, 38.0)), row([7, 8], (28, 28, 50, 44))]
    views = load_views(store.path, frame, rows, SMALL.views, CPU)
    crops, z, boxes = cut_views(views, SMALL, GRID, jitter), views.z, views.boxes_xyxy
    slab = read_slab(store.path, frame, -1, 10).astype(np.float64)
    assert crops["local"].shape == (3, 4, 6, 16, 16)
    assert crops["global"].shape == (3, 4, 6, 20, 20)
    for n in range(3):
        for view in range(4):
            x1, y1, x2, y2 = boxes[n, view]
            sides = np.array([x2 - x1 + 1, y2 - y1 + 1])
            centre = np.array([x1 + x2 + 1, y1 + y2 + 1]) / 2 + sides * jitter[:2]
            planes = slab[z[n, view] : z[n, view] + 3]
            for name, extent, pixels in (
                ("local", sides.max() * jitter[2] * SMALL.local_scale, 16), ("global", 48.0 / 1.6, 20)
            ):  # fmt: skip
                slow = channels(np.stack([slow_crop(p, centre, extent, pixels) for p in planes]), GRID.windows_hu)
                np.testing.assert_allclose(crops[name][n, view].numpy(), slow, atol=2e-3)


def test_views_reach_beyond_the_tubelet_and_stop_at_the_ends() -> None:
    boxes = [np.arange(4.0 * n).reshape(n, 4) for n in (3, 1, 2)]
    slices = [np.array([4, 5, 7]), np.array([0]), np.array([10, 11])]
    tubelets = Tubelets(slices, boxes, [np.ones(len(own)) for own in slices])
    z, chosen = view_places(tubelets, 5, 12)
    assert z.tolist() == [[2, 4, 6, 7, 9], [0, 0, 0, 1, 2], [8, 9, 10, 11, 11]]
    # Each view has the box of the tubelet's nearest slice; beyond an end, the end's.
    assert chosen[0, :, 0].tolist() == [0, 0, 4, 8, 8]
    assert chosen[1, :, 0].tolist() == [0] * 5
    assert chosen[2, :, 0].tolist() == [0, 0, 0, 4, 4]
    one, _ = view_places(tubelets, 1, 12)
    assert one.shape == (3, 1)
    many, _ = view_places(tubelets, 9, 12)
    for z_of, row_of in zip(tubelets.z, many, strict=True):
        assert (np.diff(row_of) >= 0).all()
        assert row_of[0] == max(0, z_of[0] - MARGIN)
        assert row_of[-1] == min(11, z_of[-1] + MARGIN)


def test_tubelets_come_to_the_grid_one_box_a_slice() -> None:
    # 2 mm slices of 0.8 mm pixels on a grid of 4 mm and 1.6 mm.
    frame = GridFrame("v", (10, 64, 64), (2.0, 0.8, 0.8), (4.0, 1.6, 1.6))
    tubelets = Tubelets.of([row([3, 4, 5, 6, 9], (10.0, 20.0, 29.0, 39.0))], frame)
    assert tubelets.z[0].tolist() == sorted(set(frame.slices_to_grid(np.array([3, 4, 5, 6, 9]))))
    np.testing.assert_allclose(tubelets.boxes_xyxy[0], [[5.0, 10.0, 14.0, 19.0]] * len(tubelets.z[0]))


def test_beyond_the_slice_there_is_air(make_store: Callable[..., Store], frames_of: Any) -> None:
    store = make_store({"v": ("vm", np.full((4, 64, 64), AIR_HU))})
    frame = frames_of(store, GRID)["v"]
    crops = cut_views(
        load_views(
            store.path, frame, [row([1], (0.0, 0.0, 9.0, 9.0)), row([1], (55.0, 54.0, 63.0, 63.0))], SMALL.views, CPU
        ),
        SMALL,
        GRID,
    )
    assert float(crops["local"].max()) <= 1e-6
    assert float(crops["global"].max()) <= 1e-6


def test_the_shape_profile_tells_size_length_and_scores() -> None:
    # 4 mm slices of 1.6 mm pixels; 20 x 10 px at the widest, slices 2 to 5 with a gap.
    frame = GridFrame("v", (9, 64, 64), (4.0, 1.6, 1.6), (4.0, 1.6, 1.6))
    boxes = np.array([[10.0, 10.0, 19.0, 19.0], [5.0, 10.0, 24.0, 19.0], [10.0, 10.0, 17.0, 17.0]])
    tubelets = Tubelets([np.array([2, 3, 5])], [boxes], [np.array([0.5, 0.8, 0.2])])
    odds = [1.0, 4.0, 0.25]
    width, length = 20 * 1.6, 4 * 4.0
    expected = [np.log2(width / 16), np.log2(length / width), np.log(4.0), np.log(odds).mean(), 0.0, np.log(0.25)]
    profile = shape_profile(tubelets, frame)
    assert profile.shape == (1, DESCRIPTORS)
    np.testing.assert_allclose(profile[0], expected, atol=1e-6)
    sure = Tubelets(tubelets.z, tubelets.boxes_xyxy, [np.array([0.0, 1.0, 1.0])])
    assert np.isfinite(shape_profile(sure, frame)).all()


# Examples


def examples(opened: Any, seed: int = 0, **more: Any) -> Examples:
    store, frame = opened
    lesions = [(frame, row([3, 4], (30.0, 32.0, 41.0, 47.0)))]
    others = [(frame, row([z], (20.0, 20.0, 30.0, 28.0))) for z in range(9)]
    own = SMALL.model_copy(update=more)
    return Examples(store.path, {1: lesions, 0: others}, own, GRID, 50, seed)


def test_examples_are_balanced_and_seeded(opened: Any) -> None:
    one, two, other = examples(opened), examples(opened), examples(opened, seed=1)
    labels = [float(one[i][1]) for i in range(10)]
    assert sum(labels) == 5
    for i in (8, 1):
        (views, _), (again, _), (different, _) = one[i], two[i], other[i]
        assert set(views) == {"local", "global", "shape_profile"}
        assert views["local"].shape == (4, 6, 16, 16)
        assert all(torch.equal(again[name], view) for name, view in views.items())
        assert not all(torch.equal(different[name], view) for name, view in views.items())
    assert len(one) == 50


def test_others_are_drawn_by_their_squared_generator_score(opened: Any) -> None:
    store, frame = opened
    others = [(frame, row([2], (20.0, 20.0, 30.0, 28.0), 0.6)), (frame, row([6], (50.0, 50.0, 60.0, 58.0), 0.2))]
    own = SMALL.model_copy(update={"augment": False})
    items = Examples(store.path, {1: others[:1], 0: others}, own, GRID, 200, 0)
    liked, _ = items[1]
    drawn = [torch.equal(items[i][0]["local"], liked["local"]) for i in range(0, 200, 2)]
    # 0.36 / 0.4 of 100 draws; three standard deviations are 9.
    assert 81 <= sum(drawn) <= 99


def test_without_augmentation_an_example_is_what_inference_sees(opened: Any) -> None:
    store, frame = opened
    views, label = examples(opened, augment=False)[1]
    assert float(label) == 1
    crops = cut_views(
        load_views(store.path, frame, [row([3, 4], (30.0, 32.0, 41.0, 47.0))], SMALL.views, CPU), SMALL, GRID
    )
    assert all(torch.equal(crops[name][0], view) for name, view in views.items())


def test_mirroring_along_z_turns_the_slices_of_a_view(opened: Any) -> None:
    class Mirrored(np.random.Generator):
        """Mirrors along z alone, adds neither shift nor noise."""

        def random(self, *_: Any, **__: Any) -> Any:
            return np.array([1.0, 1.0, 0.0])

        def normal(self, loc: Any = 0, scale: Any = 1, size: Any = ()) -> Any:
            return np.zeros(size)

        def uniform(self, *_: Any, **__: Any) -> Any:
            return 0.0

    views, _ = examples(opened, augment=False)[1]
    varied = examples(opened)._varied(views, Mirrored(np.random.PCG64(0)))
    for name in ("local", "global"):
        # Channels: window by window, each the slice below, the slice and the one above.
        assert torch.equal(varied[name], views[name][:, [2, 1, 0, 5, 4, 3]])
