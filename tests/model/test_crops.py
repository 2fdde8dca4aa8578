"""Crops against a slow reading per sample and a ball of known place and size; examples that are balanced and seeded."""

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from harvester.classifier.crops import cut, in_windows, interpolated, load_squares, load_views
from harvester.classifier.examples import Examples, Raw, network_input
from harvester.classifier.views import STREAMS, Pose, Squares, Tubelet, pixels, view_squares
from harvester.config.models import ClassifierSettings, GridSettings
from harvester.imaging.hounsfield import AIR_HU
from harvester.records import Box
from harvester.store.slab import GridFrame, read_slab
from harvester.store.store import Store
from tests.builders import tubelet

GRID = GridSettings(windows_hu=((-1024.0, 1024.0), (-160.0, 240.0)))
CPU = torch.device("cpu")
SMALL = ClassifierSettings(views=3, poses=1, local_px=16, global_px=20, global_mm=60.0)
SPACING = (2.5, 0.8, 0.5)


def row(z: list[int], box: Box, lpg: float = 0.5, volume_id: str = "v") -> dict[str, Any]:
    return tubelet(volume_id, box, z, lpg_score=lpg)


def smooth(depth: int = 20, height: int = 80, width: int = 96) -> Any:
    """Waves: different everywhere, and nowhere so steep that float32 coordinates show."""
    z, y, x = np.meshgrid(np.arange(depth), np.arange(height), np.arange(width), indexing="ij")
    return np.rint(300 * np.sin(0.1 * x + 0.2 * z) + 200 * np.cos(0.13 * y - 0.5 * z) + 10 * z).astype(np.int16)


@pytest.fixture
def opened(make_store: Callable[..., Store], frames_of: Any) -> tuple[Store, GridFrame]:
    store = make_store({"v": ("vm", smooth())}, spacing_zyx_mm=SPACING)
    return store, frames_of(store, GRID)["v"]


# Sampling


def slow_value(hu: Any, z: float, y: float, x: float) -> float:
    """Trilinear between eight voxels; end slices repeat; beyond a slice's edges air, to its edge the last voxel."""
    _, height, width = hu.shape
    if not (-0.5 <= y <= height - 0.5 and -0.5 <= x <= width - 0.5):
        return AIR_HU
    place = [min(max(at, 0.0), count - 1.0) for at, count in zip((z, y, x), hu.shape, strict=True)]
    total = 0.0
    for corner in product((0, 1), repeat=3):
        at = [min(int(own) + step, count - 1) for own, step, count in zip(place, corner, hu.shape, strict=True)]
        shares = [own - int(own) if step else 1 - (own - int(own)) for own, step in zip(place, corner, strict=True)]
        total += math.prod(shares) * float(hu[at[0], at[1], at[2]])
    return total


def slow_pixel(hu: Any, squares: Squares, side: int, at: Any) -> float:
    """The mean of a pixel's samples, spread from edge to edge; `at`: which square, plane, row and column."""
    square, plane, row, column = at
    (down, across), axes = squares.subsamples(side)[square], squares.axes_zyx[square]
    samples = []
    for a, b in product(range(down), range(across)):
        v, u = (row + (a + 0.5) / down) / side - 0.5, (column + (b + 0.5) / across) / side - 0.5
        samples.append(
            slow_value(hu, *(squares.centres_zyx[square] + (plane - 1) * axes[0] + v * axes[1] + u * axes[2]))
        )
    return float(np.mean(samples))


def turned(degrees: float, mirrors_zyx: tuple[float, float, float] = (1, 1, 1)) -> Any:
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    return np.array([[1.0, 0, 0], [0, cosine, -sine], [0, sine, cosine]]) * mirrors_zyx


@pytest.mark.parametrize(
    "pose",
    [Pose((0.0, 0.0), 1.0, np.eye(3)), Pose((0.1, -0.07), 1.15, turned(37.0, (-1, 1, -1)))],
    ids=["still", "varied"],
)
@pytest.mark.parametrize("box", [(30.0, 32.0, 51.0, 47.0), (0.5, 60.25, 40.0, 79.0)], ids=["inside", "at the edge"])
def test_crops_equal_the_slow_reading(box: Box, pose: Pose) -> None:
    hu, frame = smooth(), GridFrame("v", (20, 80, 96), SPACING, (4.0, 1.6, 1.6))
    squares = view_squares(Tubelet.of(row([7, 8, 10], box)), frame, SMALL, pose)
    assert len(np.unique(squares["global"].subsamples(20), axis=0)) > 1
    for name in STREAMS:
        side = pixels(name, SMALL)
        crops = cut(torch.from_numpy(hu), squares[name], side).numpy()
        assert crops.shape == (5, 3, side, side)
        some = np.random.default_rng(0).integers(0, (5, 3, side, side), (400, 4))
        slow = np.array([slow_pixel(hu, squares[name], side, at) for at in some])
        difference = np.abs(crops[tuple(some.T)] - slow)
        assert difference.max() < 5e-3
        assert difference.mean() < 1e-3


@pytest.mark.parametrize("shape", [(1, 9, 9), (2, 1, 9), (3, 9, 1), (1, 1, 1)])
def test_volumes_of_a_voxel_along_an_axis_are_read_too(shape: tuple[int, int, int]) -> None:
    hu = np.random.default_rng(0).integers(-900, 900, shape, dtype=np.int16)
    places = np.random.default_rng(1).uniform(-2, 10, (3, 2, 6))
    z, (y, x) = places[0], (torch.from_numpy(each[:, None].astype(np.float32)) for each in places[1:])
    got = interpolated(torch.from_numpy(hu), z, y, x)
    assert got.shape == (2, 6, 1, 6)
    for m, level, column in product(range(2), range(6), range(6)):
        expected = slow_value(hu, z[m, level], float(y[m, 0, column]), float(x[m, 0, column]))
        assert float(got[m, level, 0, column]) == pytest.approx(expected, abs=1e-2)


def test_beyond_a_slice_there_is_air_and_beyond_the_volume_its_end_slices() -> None:
    hu = torch.stack([torch.full((40, 40), value, dtype=torch.int16) for value in (100, 200, 300)])
    frame = GridFrame("v", (3, 40, 40), (1.0, 1.0, 1.0), (4.0, 1.6, 1.6))
    own = SMALL.model_copy(update={"global_mm": 20.0})
    squares = view_squares(Tubelet.of(row([1], (37.0, 18.0, 41.0, 22.0))), frame, own)["global"]
    crops = cut(hu, squares, 20)
    # Of 20 mm, those beyond x = 40; the centre is at 39.5.
    assert (crops[:4, :, :, 11:] == AIR_HU).all()
    assert (crops[:4, :, :, :11] > 0).all()
    # Planes are 2 mm apart: the first view's are slices -2, 0 and 2. The coronal one shows both ends.
    for plane, value in enumerate((100, 100, 300)):
        assert (crops[0, plane, :, :11] == value).all()
    assert (crops[3, :, 0, :11] == 100).all()
    assert (crops[3, :, -1, :11] == 300).all()


@pytest.mark.parametrize("spacing", [(1.0, 0.7, 0.7), (4.0, 0.6, 0.9)], ids=["thin slices", "thick slices"])
def test_a_ball_is_round_centred_and_of_its_size_in_every_view(spacing: tuple[float, float, float]) -> None:
    depth, height, width = (int(120 / mm) for mm in spacing)
    shape = (depth, height, width)
    centre, radius = np.array([61.0, 50.0, 66.0]), 14.0
    places = np.meshgrid(
        *[(np.arange(count) + 0.5) * mm for count, mm in zip(shape, spacing, strict=True)], indexing="ij"
    )
    distance = np.sqrt(sum((place - mm) ** 2 for place, mm in zip(places, centre, strict=True)))
    hu = (np.clip(radius - distance + 0.5, 0, 1) * 1000).astype(np.int16)
    sides_mm = np.array([centre[2] - radius, centre[1] - radius, centre[2] + radius, centre[1] + radius])
    box = sides_mm / np.array(spacing)[[2, 1, 2, 1]] - (0, 0, 1, 1)
    slices = [z for z in range(shape[0]) if abs((z + 0.5) * spacing[0] - centre[0]) < radius]
    frame = GridFrame("v", shape, spacing, (4.0, 1.6, 1.6))
    own = ClassifierSettings(views=1, local_px=48, global_px=64, global_mm=96.0)
    squares = view_squares(Tubelet.of(row(slices, tuple(box))), frame, own)
    for name, side_mm in (("local", 2 * 2 * radius), ("global", 96.0)):
        side = pixels(name, own)
        planes = cut(torch.from_numpy(hu), squares[name], side)[:, 1].numpy() / 1000
        mm = side_mm / side
        for view, plane in zip(("axial", "coronal", "sagittal"), planes, strict=True):
            slack = spacing[0] / 2 + 1 if view != "axial" else 1.0
            rows, columns = (plane.sum(axis) for axis in (1, 0))
            middle = [(np.arange(side) + 0.5) @ each / each.sum() * mm for each in (rows, columns)]
            np.testing.assert_allclose(middle, side_mm / 2, atol=slack, err_msg=view)
            for through in (plane[side // 2], plane[:, side // 2]):
                assert through.sum() * mm == pytest.approx(2 * radius, abs=2 * slack), view


# Examples


def volumes(make_store: Callable[..., Store], frames_of: Any, *names: str) -> tuple[Store, dict[str, GridFrame]]:
    store = make_store({name: ("vm", smooth()) for name in names}, spacing_zyx_mm=SPACING)
    return store, frames_of(store, GRID)


def lesion(at: int) -> Box:
    return (20.0 + at, 30.0, 34.0 + at, 42.0)


def test_items_are_a_volumes_tubelets_half_lesions_where_it_has_both_and_half_on_the_whole(
    make_store: Callable[..., Store], frames_of: Any
) -> None:
    store, frames = volumes(make_store, frames_of, "both", "lesions", "others")
    lesions = [(frames[name], row([4], lesion(at), volume_id=name)) for name in ("both", "lesions") for at in range(3)]
    others = [(frames[name], row([9], lesion(at), volume_id=name)) for name in ("both", "others") for at in range(5)]
    items = Examples(store.path, {1: lesions, 0: others}, SMALL, 400, 0)
    labels = [items._drawn(1 - index % 2, np.random.default_rng((0, index)))[1] for index in range(400)]
    counts = {name: [] for name in frames}  # type: ignore[var-annotated]
    for chosen in labels:
        names = {each["volume_id"] for _, each in chosen}
        assert len(chosen) == 4
        assert len(names) == 1
        counts[names.pop()].append(sum(label for label, _ in chosen))
        # None twice where there are as many: another place each.
        if counts["others"] and chosen[0][1]["volume_id"] == "others":
            assert len({each["x1"][0] for _, each in chosen}) == 4
    assert set(counts["lesions"]) == {4}
    assert set(counts["others"]) == {0}
    assert np.mean(counts["both"]) == pytest.approx(2, abs=0.2)
    assert sum(map(sum, counts.values())) / 1600 == pytest.approx(0.5, abs=0.05)
    item = items[0]
    assert item["labels"].shape == (4,)
    assert len(items) == 400


@pytest.mark.parametrize("lesions_beside", [1, 6])
def test_half_are_lesions_however_many_volumes_have_both(
    make_store: Callable[..., Store], frames_of: Any, lesions_beside: int
) -> None:
    store, frames = volumes(make_store, frames_of, "both", "lesions")
    lesions = [(frames["both"], row([4], lesion(0), volume_id="both"))]
    lesions += [(frames["lesions"], row([4], lesion(at), volume_id="lesions")) for at in range(lesions_beside)]
    others = [(frames["both"], row([9], lesion(at), volume_id="both")) for at in range(5)]
    items = Examples(store.path, {1: lesions, 0: others}, SMALL, 600, 0)
    drawn = [items._drawn(1 - index % 2, np.random.default_rng((0, index)))[1] for index in range(600)]
    share = np.mean([label for chosen in drawn for label, _ in chosen])
    assert share == pytest.approx(0.5, abs=0.05)


def test_others_are_drawn_by_their_squared_generator_score(make_store: Callable[..., Store], frames_of: Any) -> None:
    store, frames = volumes(make_store, frames_of, "a", "b", "c")
    others = [(frames[name], row([2], lesion(0), lpg, name)) for name, lpg in (("a", 0.6), ("b", 0.2))]
    items = Examples(store.path, {1: [(frames["c"], row([2], lesion(0), volume_id="c"))], 0: others}, SMALL, 9, 0)
    drawn = [items._drawn(0, np.random.default_rng(index))[0].volume_id for index in range(100)]
    # 0.36 / 0.4 of 100 draws; three standard deviations are 9.
    assert 81 <= drawn.count("a") <= 99


def examples(opened: Any, seed: int = 0, **more: Any) -> Examples:
    store, frame = opened
    lesions = [(frame, row([3, 4], (30.0, 32.0, 41.0, 47.0)))]
    others = [(frame, row([z], (20.0, 20.0, 30.0, 28.0))) for z in range(9)]
    return Examples(store.path, {1: lesions, 0: others}, SMALL.model_copy(update=more), 50, seed)


def seen(items: Examples, raw: Raw) -> dict[str, torch.Tensor]:
    return network_input(raw, items.settings, GRID.windows_hu)


def test_examples_are_the_same_for_the_same_seed_and_index(opened: Any) -> None:
    one, two, other = examples(opened), examples(opened), examples(opened, seed=1)
    for i in (8, 1):
        views, again, different = (seen(items, items[i]) for items in (one, two, other))
        assert set(views) == {"local", "global", "shape_profile"}
        assert views["local"].shape == (4, 5, 6, 16, 16)
        assert views["global"].shape == (4, 5, 6, 20, 20)
        assert all(torch.equal(again[name], view) for name, view in views.items())
        assert not any(torch.equal(different[name], view) for name, view in views.items())
    assert torch.equal(one[3]["labels"], two[3]["labels"])


def test_without_augmentation_an_example_is_what_inference_sees(opened: Any) -> None:
    store, frame = opened
    items = examples(opened, augment=False)
    raw, (_, chosen) = items[0], items._drawn(1, np.random.default_rng((0, 0)))
    views = load_views(store.path, frame, [each for _, each in chosen], SMALL, CPU)
    assert torch.equal(raw["labels"], torch.tensor([1.0, 1.0, 0.0, 0.0]))
    for name, crops in seen(items, raw).items():
        if name == "shape_profile":
            assert np.array_equal(crops.numpy(), views.profile)
        else:
            hu = cut(views.hu_zyx, views.squares[name], pixels(name, SMALL))
            torch.testing.assert_close(crops.flatten(0, 1), in_windows(hu, GRID.windows_hu), atol=1e-6, rtol=0)


def test_the_generators_grid_may_be_looked_at_in_place_of_a_volumes_own_pixels(opened: Any) -> None:
    store, frame = opened
    coarse = SMALL.model_copy(update={"own_pixels": False})
    own = view_squares(Tubelet.of(row([8, 9, 10], (30.0, 32.0, 41.0, 47.0))), frame, SMALL)
    hu, squares = load_squares(store.path, frame, own, coarse, CPU)
    grid = read_slab(store.path, frame, 0, frame.shape_zyx[0])
    assert min(frame.ratios_zyx) > 1
    assert hu.shape[1:] == grid.shape[1:]
    assert len(hu) <= len(grid)
    first = next(z for z in range(len(grid)) if np.array_equal(grid[z : z + len(hu)], hu.numpy()))
    for name, seen in squares.items():  # the same squares of the body, in mm
        for places, wanted in ((seen.centres_zyx + (first, 0, 0) + 0.5, own[name].centres_zyx + 0.5),
                               (seen.axes_zyx, own[name].axes_zyx)):  # fmt: skip
            np.testing.assert_allclose(places * frame.spacing_zyx_mm, wanted * frame.spacing_px_zyx_mm)


def test_windows_are_channels_of_three_planes_each() -> None:
    hu = torch.linspace(-2000, 1000, 2 * 3 * 4 * 4).view(2, 3, 4, 4)
    made = in_windows(hu, GRID.windows_hu)
    assert made.shape == (2, 6, 4, 4)
    torch.testing.assert_close(made[:, :3], ((hu + 1024) / 2048).clamp(0, 1))
    torch.testing.assert_close(made[:, 3:], ((hu + 160) / 400).clamp(0, 1))


def test_mirroring_along_z_turns_planes_reformats_and_the_profiles_ends(opened: Any) -> None:
    _, frame = opened
    own = Tubelet.of(row([8, 9, 10], (30.0, 32.0, 41.0, 47.0)))
    still, mirrored = (
        view_squares(own, frame, SMALL, Pose((0.0, 0.0), 1.0, turned(0, (sign, 1, 1)))) for sign in (1, -1)
    )
    hu = torch.from_numpy(smooth())
    before, after = (cut(hu, squares["local"], 16) for squares in (still, mirrored))
    torch.testing.assert_close(after[:3], before[:3].flip(1), atol=1e-2, rtol=0)
    torch.testing.assert_close(after[3:], before[3:].flip(2), atol=1e-2, rtol=0)

    class NoNoise(np.random.Generator):
        """Varies nothing by chance."""

        def normal(self, loc: Any = 0, scale: Any = 1, size: Any = ()) -> Any:
            return np.zeros(size)

    profile = np.arange(12, dtype=np.float32).reshape(2, 6)
    poses = [Pose((0.0, 0.0), 1.0, turned(0, (sign, 1, 1))) for sign in (1, -1)]
    varied = examples(opened)._varied(profile, poses, NoNoise(np.random.PCG64(0)))
    np.testing.assert_array_equal(varied["shape_profile"], [profile[0], profile[1][[0, 1, 2, 3, 5, 4]]])
    assert varied["shape_profile"][1].tolist() == [6, 7, 8, 9, 11, 10]


def test_a_quarter_turn_turns_axial_views_and_exchanges_the_reformats(opened: Any) -> None:
    frame = GridFrame("v", (20, 80, 96), (2.5, 0.8, 0.8), (4.0, 1.6, 1.6))
    own, hu = Tubelet.of(row([8, 9, 10], (30.0, 32.0, 41.0, 43.0))), torch.from_numpy(smooth())
    still, quarter = (
        cut(hu, view_squares(own, frame, SMALL, Pose((0.0, 0.0), 1.0, turned(angle)))["local"], 16)
        for angle in (0.0, 90.0)
    )
    torch.testing.assert_close(quarter[:3], torch.rot90(still[:3], -1, (2, 3)), atol=1e-2, rtol=0)
    middle = [each[3:, 1] for each in (still, quarter)]
    torch.testing.assert_close(middle[1][0], middle[0][1].flip(1), atol=1e-2, rtol=0)
    torch.testing.assert_close(middle[1][1], middle[0][0], atol=1e-2, rtol=0)
