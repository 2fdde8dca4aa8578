"""Training slabs: crops and their boxes agree, draws are seeded, and nothing is taught that is not known."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harvester.config.models import GeneratorSettings, GridSettings
from harvester.imaging.hounsfield import windowed
from harvester.imaging.interpolation import interpolate
from harvester.models.device_slab import as_tensors, mixed
from harvester.proposals.augment import collate, to_network_input
from harvester.proposals.boxes import SliceBoxes
from harvester.proposals.labels import VolumeLabels, volume_labels
from harvester.proposals.network import CONTEXT
from harvester.proposals.pasting import REACH, Bank, paste
from harvester.proposals.slabs import Crop, SlabDataset
from harvester.proposals.targets import SlabLabels
from harvester.records import Mark
from harvester.store.slab import GridFrame, read_slab
from harvester.store.store import Store
from tests.builders import label

WIDE = GridSettings(windows_hu=((-1024.0, 1024.0),))
NO_BOXES = np.zeros((0, 4))
BOX_A = (12.0, 20.0, 27.0, 31.0)
BOX_B = (44.0, 40.0, 59.0, 55.0)

# Crop


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scale", [1.0, 2.0, 0.5, 0.8, 1.2])
@pytest.mark.parametrize("centre", [(32.0, 32.0), (25.5, 40.0), (11.3, 50.7)])
def test_what_is_cut_is_where_the_box_says(flip: bool, scale: float, centre: tuple[float, float]) -> None:
    slab = np.full((1, 64, 64), -1000, np.int16)
    slab[0, 26:42, 18:30] = 1000
    crop = Crop(centre, (96, 80), scale, flip)
    seen = cut(crop, slab)
    assert seen.shape == (1, 96, 80)
    (x1, y1, x2, y2) = crop.boxes(np.array([[18.0, 26.0, 29.0, 41.0]]))[0]
    assert x2 - x1 + 1 == pytest.approx(12 * scale)
    assert y2 - y1 + 1 == pytest.approx(16 * scale)
    # The edges of the bright rectangle lie where linear interpolation passes the middle grey.
    bright = seen[0] >= 0
    for low, high, lit in ((x1, x2, bright.any(0)), (y1, y2, bright.any(1))):
        inside = np.flatnonzero(lit)
        assert abs(inside[0] - max(low, 0)) <= 0.51
        assert abs(inside[-1] - min(high, len(lit) - 1)) <= 0.51


def test_a_crop_of_scale_one_is_a_window_of_the_slab() -> None:
    slab = np.random.default_rng(0).integers(-1000, 1000, (3, 40, 50)).astype(np.int16)
    np.testing.assert_array_equal(cut(Crop((25, 20), (40, 50)), slab), slab)
    np.testing.assert_array_equal(cut(Crop((25, 20), (40, 50), flip=True), slab), slab[:, :, ::-1])
    part = cut(Crop((16.0, 12.0), (16, 16)), slab)
    np.testing.assert_array_equal(part, slab[:, 4:20, 8:24])
    beyond = cut(Crop((0.0, 0.0), (8, 8)), slab)
    np.testing.assert_array_equal(beyond[:, 4:, 4:], slab[:, :4, :4])
    assert (beyond[:, :4, :4] == slab[:, :1, :1]).all()


def test_slabs_of_a_volume_that_has_the_grids_spacing_can_be_written_to(make_store: Callable[..., Store]) -> None:
    # Nothing is resampled then: the slab may be the store's own cache, which torch warns about.
    store = make_store({"m": ("vm", noise(40))}, spacing_zyx_mm=WIDE.spacing_zyx_mm)
    row = store.manifest.to_pylist()[0]
    own_frame = GridFrame.of(row, WIDE)
    labels = {"m": volume_labels([], own_frame, complete=True)}
    items = SlabDataset(store.path, [own_frame], labels, settings(paste_lesions=0.0), 20, 0)
    for i in range(20):
        raw, _ = items[i]
        raw["hu"] += 1


@pytest.mark.parametrize("augment", [False, True])
def test_an_image_is_what_numpy_makes_of_it(augment: bool) -> None:
    rng = np.random.default_rng(2)
    slab = rng.integers(-1000, 1000, (3, 40, 50)).astype(np.int16)
    crop, windows = Crop((22.0, 19.0), (32, 48), 1.1, flip=True), ((-1024.0, 3071.0), (-160.0, 240.0))
    rows, columns = crop.taps(slab)
    raw: dict[str, Any] = {
        "hu": torch.from_numpy(slab), "rows": as_tensors(rows), "columns": as_tensors(columns),
        "noise": torch.tensor([5] if augment else [], dtype=torch.int64),
        "noise_hu": torch.tensor(np.float32(7.5)), "shift_hu": torch.tensor(np.float32(-12.25)),
    }  # fmt: skip
    draw = rng.standard_normal(3000, dtype=np.float32)
    hu = interpolate(interpolate(slab, 1, rows), 2, columns)
    if augment:
        stretch = draw[(5 + np.arange(hu.size)) % 3000].reshape(hu.shape)
        hu = hu + stretch * np.float32(7.5) + np.float32(-12.25)
    got = to_network_input(raw, torch.from_numpy(draw), windows)
    np.testing.assert_array_equal(got.numpy(), windowed(hu, windows))


def test_slabs_of_different_sizes_make_a_batch() -> None:
    items = [({"hu": torch.zeros(3, n, n)}, {"heat": torch.full((2, 2), float(n))}) for n in (4, 6)]
    raws, targets = collate(items)
    assert [raw["hu"].shape[1] for raw in raws] == [4, 6]
    assert targets["heat"][:, 0, 0].tolist() == [4.0, 6.0]


def test_boxes_are_cut_as_slowly_as_one_likes() -> None:
    rng = np.random.default_rng(1)
    crop = Crop((31.0, 22.5), (48, 64), 1.3, flip=True)
    low = rng.uniform(0, 40, (20, 2))
    boxes = np.concatenate([low, low + rng.uniform(0, 20, (20, 2))], axis=1)
    for box, got in zip(boxes, crop.boxes(boxes), strict=True):
        left, right = (32 - 1.3 * (edge - 31.0) for edge in (box[2] + 1, box[0]))
        top, bottom = (24 + 1.3 * (edge - 22.5) for edge in (box[1], box[3] + 1))
        np.testing.assert_allclose(got, [left, top, right - 1, bottom - 1])
    assert crop.boxes(NO_BOXES).shape == (0, 4)


# Boxes on slices


def test_boxes_on_slices_are_cut_out_moved_and_joined() -> None:
    three = SliceBoxes.of([(2, np.array(BOX_A)), (4, np.array(BOX_B)), (2, np.array(BOX_B))])
    assert (len(three), [z for z, _ in three]) == (3, [2, 4, 2])
    part = three.between(1, 3)
    assert part.z.tolist() == [1, 1]
    np.testing.assert_array_equal(part.boxes_xyxy, [BOX_A, BOX_B])
    assert [len(three.between(*span)) for span in ((0, 2), (2, 1), (4, 9), (5, 2))] == [0, 2, 1, 0]
    moved = three.moved(lambda boxes: boxes + 1)
    assert moved.z.tolist() == three.z.tolist()
    np.testing.assert_array_equal(moved.boxes_xyxy, three.boxes_xyxy + 1)
    joined = part.joined(SliceBoxes.of(), three)
    assert joined.z.tolist() == [1, 1, 2, 4, 2]
    assert joined.boxes_xyxy.shape == (5, 4)


# Labels of a volume


def frame(depth: int = 12, spacing_z: float = 4.0) -> GridFrame:
    return GridFrame("v", (depth, 64, 64), (spacing_z, 1.6, 1.6), (4.0, 1.6, 1.6))


def test_a_mark_holds_near_its_slice_and_is_unsure_further_out() -> None:
    # 16 px of 1.6 mm is 25.6 mm: a quarter is 6.4 mm (1 slice), three quarters 19.2 mm (4.8 slices).
    labels = volume_labels([label("v", BOX_B, "lesion", [5])], frame(), complete=True)
    assert sorted(labels.lesions.z) == [4, 5, 6]
    assert sorted(labels.ignored.z) == [0, 1, 2, 3, 7, 8, 9, 10]
    np.testing.assert_allclose(labels.lesions.boxes_xyxy, np.tile(BOX_B, (3, 1)))
    slab = labels.slab(3, 3, 0.0)
    assert (slab.lesions.z.tolist(), sorted(slab.ignored.z)) == ([1, 2], [0])
    assert slab.slice_weight.tolist() == [1, 1, 1]


def test_a_tubelet_holds_on_its_own_slices_alone() -> None:
    rows = [label("v", BOX_A, "lesion", [4, 5]), label("v", BOX_B, "hard_negative", [7, 8])]
    labels = volume_labels(rows, frame(), complete=False)
    assert (sorted(labels.lesions.z), sorted(labels.negatives.z), len(labels.ignored)) == ([4, 5], [7, 8], 0)
    np.testing.assert_allclose(labels.negatives.boxes_xyxy, np.tile(BOX_B, (2, 1)))


def test_regions_left_out_are_ignored_and_no_lesions() -> None:
    labels = volume_labels([label("v", BOX_A, "ignored", [2, 3, 4])], frame(), complete=True)
    assert (labels.ignored.z.tolist(), len(labels.lesions), len(labels.negatives)) == ([2, 3, 4], 0, 0)


def test_a_mark_at_the_end_of_a_volume_stays_inside() -> None:
    labels = volume_labels([label("v", BOX_B, "lesion", [0])], frame(3), complete=True)
    assert (sorted(labels.lesions.z), sorted(labels.ignored.z)) == ([0, 1], [2])


def test_a_lesions_probability_goes_with_its_boxes() -> None:
    rows = [
        label("v", BOX_A, "lesion", [2, 3]) | {"probability": 0.7},
        label("v", BOX_B, "lesion", [5]) | {"probability": None},
        label("v", BOX_B, "hard_negative", [7]),
    ]
    known = volume_labels(rows, frame(), complete=True)
    assert known.lesions.z.tolist()[:2] == [2, 3]
    assert known.lesions.weights.tolist() == [0.7] * 2 + [1.0] * (len(known.lesions) - 2)
    cut = known.slab(3, 4, 0.0).lesions.moved(lambda boxes: boxes + 1)
    assert cut.weights.tolist() == [0.7] + [1.0] * (len(cut) - 1)
    both = cut.joined(SliceBoxes.of([(0, cut.boxes_xyxy[0])]))
    assert both.weights.tolist() == [*cut.weights.tolist(), 1.0]


def test_a_partly_marked_volume_is_silent_where_no_lesion_is_labelled() -> None:
    labels = volume_labels(
        [label("v", BOX_B, "lesion", [5]), label("v", BOX_A, "hard_negative", [9])], frame(), complete=False
    )
    assert labels.slab(2, 8, 0.0).slice_weight.tolist() == [0, 0, 1, 1, 1, 0, 0, 0]
    assert labels.slab(2, 8, 0.25).slice_weight.tolist() == [0.25, 0.25, 1, 1, 1, 0.25, 0.25, 0.25]


def test_no_rows_no_labels() -> None:
    for complete in (False, True):
        labels = volume_labels([], frame(), complete)
        for kind in (labels.lesions, labels.negatives, labels.ignored):
            assert (kind.z.shape, kind.boxes_xyxy.shape) == ((0,), (0, 4))
        assert (labels.slab(0, 4, 0.0).slice_weight == float(complete)).all()


# SlabDataset


def noise(depth: int = 10, side: int = 64, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0, 30, (depth, side, side))


def painted(hu: Any, box: tuple[float, ...], z: Any, value: float = 800.0) -> Any:
    x1, y1, x2, y2 = (int(v) for v in box)
    hu[z, y1 : y2 + 1, x1 : x2 + 1] = value
    return hu


def settings(**more: Any) -> GeneratorSettings:
    plain: dict[str, Any] = {"slab_depth": 3, "crop_px": 48, "augment": False, "stride": 4}
    return GeneratorSettings(**(plain | more))


class Shown:
    """SlabDataset as the network sees them."""

    def __init__(self, items: SlabDataset) -> None:
        self.items, self.noise = items, torch.from_numpy(items.noise)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        raw, targets = self.items[index]
        return to_network_input(raw, self.noise, WIDE.windows_hu), targets


def slabs(
    store: Store, labels: dict[str, VolumeLabels], own: GeneratorSettings, seed: int = 0, items: int = 64
) -> Shown:
    frames = [GridFrame.of(row, WIDE) for row in store.manifest.to_pylist()]
    return Shown(SlabDataset(store.path, frames, labels, own, items, seed))


def cut(crop: Crop, slab: Any) -> Any:
    """The crop's pixels, as `show` takes them."""
    rows, columns = map(as_tensors, crop.taps(slab))
    return mixed(mixed(torch.from_numpy(slab), rows, 1), columns, 2).numpy()


@pytest.fixture
def pair(make_store: Callable[..., Store]) -> tuple[Store, dict[str, VolumeLabels]]:
    """A complete volume with a bright lesion, and a partly marked one with a marked lesion and a hard negative."""
    store = make_store(
        {
            "m": ("vm", painted(noise(seed=1), BOX_A, slice(4, 7))),
            "h": ("vh", painted(painted(noise(seed=2), BOX_B, slice(2, 5)), BOX_A, slice(7, 9), -800)),
        },
        [Mark("m", "a", 5, *BOX_A, clinical=False), Mark("h", "b", 3, *BOX_B, clinical=True)],
    )
    m = volume_labels([label("v", BOX_A, "lesion", [5])], frame(10), complete=True)
    h = volume_labels(
        [label("v", BOX_B, "lesion", [3]), label("v", BOX_A, "hard_negative", [7, 8])], frame(10), complete=False
    )
    return store, {"m": m, "h": h}


def test_the_same_seed_and_index_make_the_same_item(pair: Any) -> None:
    own = settings(augment=True, paste_lesions=0.5)
    one, two, other = slabs(*pair, own, 3), slabs(*pair, own, 3), slabs(*pair, own, 4)
    differ = 0
    for i in (7, 0, 21):
        (images, targets), (images2, targets2), (images3, _) = one[i], two[i], other[i]
        assert torch.equal(images, images2)
        assert all(torch.equal(targets[name], targets2[name]) for name in targets)
        differ += not torch.equal(images, images3)
    assert differ == 3
    assert len(one) == 64


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("crop_px", [0, 48])
def test_a_lesions_centre_is_bright_in_the_image(pair: Any, augment: bool, crop_px: int) -> None:
    items = slabs(*pair, settings(augment=augment, crop_px=crop_px, marked_slab_share=1.0))
    seen = dark = 0
    for i in range(40):
        images, targets = items[i]
        side = crop_px or 64
        assert images.shape == (1, 3 + 2 * CONTEXT, side, side)
        assert {tuple(t.shape[-2:]) for t in targets.values()} == {(side // 4, side // 4)}
        for z, _, y, x in torch.nonzero(targets["centre"]).tolist():
            seen += 1
            assert float(images[0, z + CONTEXT, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].mean()) > 0.75
        for z, _, y, x in torch.nonzero(targets["negative"] == 1).tolist():
            dark += 1
            assert float(images[0, z + CONTEXT, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].mean()) < 0.25
    assert seen > 20
    assert dark > 5


def test_unmarked_slices_weigh_nothing_but_hard_negatives_count(pair: Any) -> None:
    store, labels = pair
    items = slabs(store, {**labels, "m": volume_labels([], frame(10), complete=False)}, settings(marked_slab_share=1.0))
    negatives = 0
    for i in range(40):
        _, targets = items[i]
        for z in range(3):
            weight, centre = targets["weight"][z, 0], targets["centre"][z, 0]
            known = (targets["heat"][z, 0] > 0) | (targets["negative"][z, 0] > 0)
            assert bool((weight[known] == 1).all())
            # Slices 2 to 4 carry the lesion's label, even where its centre lies outside the crop.
            assert float(weight[~known].max()) in (0.0, 1.0)
            if bool((targets["negative"][z, 0] == 1).any()):
                negatives += 1
                assert float(weight[~known].max()) == 0
                assert float(centre.sum()) == 0
    assert negatives > 5


def test_without_anchors_the_complete_volumes_teach_background(make_store: Callable[..., Store]) -> None:
    store = make_store({"m": ("vm", np.full((6, 64, 64), 500)), "h": ("vh", np.full((6, 64, 64), -500))})
    labels = {name: volume_labels([], frame(6), complete=name == "m") for name in ("m", "h")}
    items = slabs(store, labels, settings(marked_slab_share=1.0))
    for i in range(10):
        images, targets = items[i]
        assert float(images.min()) > 0.7
        assert float(targets["heat"].max()) == 0


@pytest.mark.parametrize(("weight", "drawn"), [(0.0, {"m"}), (0.25, {"m", "h"}), (1.0, {"m", "h"})])
def test_unmarked_slices_that_weigh_anything_are_drawn_as_background(
    weight: float, drawn: set[str], make_store: Callable[..., Store]
) -> None:
    store = make_store({"m": ("vm", np.full((6, 64, 64), 500)), "h": ("vh", np.full((6, 64, 64), -500))})
    labels = {name: volume_labels([], frame(6), complete=name == "m") for name in ("m", "h")}
    items = slabs(store, labels, settings(unmarked_slice_weight=weight))
    seen = set()
    for i in range(40):
        images, targets = items[i]
        volume = "m" if float(images.mean()) > 0.5 else "h"
        seen.add(volume)
        inside = targets["weight"][targets["weight"] > 0]  # slices beyond the volume's end weigh nothing
        assert bool((inside == (1.0 if volume == "m" else weight)).all())
    assert seen == drawn


@pytest.mark.parametrize("depth", [2, 4])
def test_slices_beyond_a_volumes_end_teach_nothing(make_store: Callable[..., Store], depth: int) -> None:
    # The lesion lies on the last slice; slices past it show it again but carry no label.
    store = make_store({"m": ("vm", painted(noise(depth), BOX_A, slice(depth - 1, depth)))})
    labels = {
        "m": volume_labels(
            [label("v", BOX_A, "lesion", [depth - 1]), label("v", BOX_B, "lesion", [0])], frame(depth), complete=True
        )
    }
    items = slabs(store, labels, settings(crop_px=0, marked_slab_share=0.0))
    taught, last = 0.0, 0
    for i in range(30):
        images, targets = items[i]
        for z in range(3):
            shown = float(images[0, z + CONTEXT, 22:30, 14:26].mean()) > 0.75
            if shown and not bool(targets["centre"][z].any()):
                taught += float(targets["weight"][z, 0, 5:8, 4:7].sum())
            last += shown
    assert taught == 0
    assert last > 5


# Copied-in lesions


def bank_of(store: Path, depth: int = 10) -> Bank:
    return Bank(
        partial(read_slab, store),
        [(frame(depth), volume_labels([label("v", BOX_A, "lesion", [5])], frame(depth), complete=True))],
    )


def slab_labels(weight: Any = (1.0, 1.0, 1.0), **more: SliceBoxes) -> SlabLabels:
    kinds = {name: SliceBoxes.of() for name in ("lesions", "negatives", "ignored")}
    return SlabLabels(**(kinds | more), slice_weight=np.array(weight, np.float32))


@pytest.fixture
def bank(make_store: Callable[..., Store]) -> Bank:
    """One bright lesion with a margin of surroundings in its box, on a flat background."""
    hu = painted(np.zeros((10, 64, 64)), (15, 22, 24, 29), slice(4, 7), 300)
    return bank_of(make_store({"v": ("vm", hu)}).path)


FLAT = np.full((3 + 2 * CONTEXT, 96, 96), 20, np.int16)


def test_a_pasted_lesion_shows_where_its_label_is(bank: Bank) -> None:
    pasted = 0
    for seed in range(20):
        slab, known = paste(FLAT, slab_labels(), bank, (48.0, 48.0), np.random.default_rng(seed))
        assert (FLAT == 20).all()
        if not len(known.lesions):
            continue
        pasted += 1
        ((z, box),) = known.lesions
        x1, y1, x2, y2 = (int(v) for v in box)
        changed = np.argwhere(slab != FLAT)
        assert changed[:, 1].min() >= y1
        assert changed[:, 1].max() <= y2
        assert changed[:, 2].min() >= x1
        assert changed[:, 2].max() <= x2
        assert set(changed[:, 0]) <= {z + CONTEXT + step for step in range(-REACH, REACH + 1)}
        assert slab[z + CONTEXT, (y1 + y2) // 2, (x1 + x2) // 2] == pytest.approx(320, abs=2)
        # Neighbours that show a part of it are unknown there, not background.
        shown = {at - CONTEXT for at in changed[:, 0]} & {0, 1, 2}
        assert shown - {z} == set(known.ignored.z.tolist()) & shown
        assert all((ignored == box).all() for _, ignored in known.ignored)
    assert pasted >= 15


@pytest.mark.parametrize("kind", ["lesions", "negatives", "ignored"])
def test_nothing_is_pasted_over_a_label(bank: Bank, kind: str) -> None:
    taken = np.array([[30.0, 0.0, 95.0, 95.0]])
    known = slab_labels(**{kind: SliceBoxes(np.array([1]), taken)})
    moved = 0
    for seed in range(40):
        slab, after = paste(FLAT, known, bank, (28.0, 48.0), np.random.default_rng(seed))
        assert (slab[:, :, 30:] == 20).all()
        if len(after.lesions) > len(known.lesions):
            moved += 1
            assert after.lesions.boxes_xyxy[-1][2] < 30
    assert moved > 5


def test_nothing_is_pasted_into_other_tissue(bank: Bank) -> None:
    lung, known = np.full_like(FLAT, -850), slab_labels()
    for seed in range(5):
        slab, after = paste(lung, known, bank, (48.0, 48.0), np.random.default_rng(seed))
        assert slab is lung
        assert after is known


def test_an_empty_bank_pastes_nothing(tmp_path: Path) -> None:
    known = slab_labels()
    slab, after = paste(FLAT, known, Bank(partial(read_slab, tmp_path), []), (48.0, 48.0), np.random.default_rng(0))
    assert slab is FLAT
    assert after is known


def test_a_pasted_lesion_does_not_make_the_rest_of_its_slice_known(bank: Bank) -> None:
    # Slice 0 carries a clinical mark; slices 1 and 2 may hold lesions that nobody marked.
    marked = SliceBoxes.of([(0, np.array([70.0, 70.0, 80.0, 80.0]))])
    known = slab_labels((1.0, 0.0, 0.0), lesions=marked)
    for seed in range(20):
        _, after = paste(FLAT, known, bank, (40.0, 40.0), np.random.default_rng(seed))
        assert after.slice_weight.tolist() == [1.0, 0.0, 0.0]
