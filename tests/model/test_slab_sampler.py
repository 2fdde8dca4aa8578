"""Where training slabs lie: what holds for every archive, every setting and every draw."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harvester.config.models import GeneratorSettings
from harvester.proposals.boxes import SliceBoxes
from harvester.proposals.labels import VolumeLabels
from harvester.proposals.slabs import SCALE_RANGE, Crop, SlabSampler
from harvester.store.slab import GridFrame

SPACING = (2.0, 0.8, 0.8)


@st.composite
def volumes(draw: st.DrawFn) -> tuple[list[GridFrame], dict[str, VolumeLabels]]:
    """One to four volumes of any shape, complete or not, each with up to three lesions and three hard negatives."""
    frames, labels = [], {}
    for index in range(draw(st.integers(1, 4))):
        shape = draw(st.tuples(st.integers(1, 30), st.integers(16, 200), st.integers(16, 200)))
        frame = GridFrame(f"v{index}", shape, SPACING, SPACING)
        kinds = [draw(st.lists(boxes(shape), max_size=3)) for _ in range(2)]
        labels[frame.volume_id] = VolumeLabels(
            *map(SliceBoxes.of, kinds), SliceBoxes.of(), complete=draw(st.booleans())
        )
        frames.append(frame)
    return frames, labels


def boxes(shape: tuple[int, int, int]) -> st.SearchStrategy[tuple[int, Any]]:
    depth, rows, columns = shape
    return st.builds(
        lambda z, x, y, side: (z, np.array([x, y, x + side, y + side])),
        st.integers(0, depth - 1), st.floats(0, columns - 16), st.floats(0, rows - 16), st.floats(1, 15),
    )  # fmt: skip


settings = st.builds(
    GeneratorSettings,
    slab_depth=st.integers(1, 9),
    crop_px=st.sampled_from((0, 32, 96)),
    augment=st.booleans(),
    marked_slab_share=st.sampled_from((0.0, 0.5, 1.0)),
    unmarked_slice_weight=st.sampled_from((0.0, 0.25)),
)
seeds = st.integers(0, 2**32 - 1)


def is_label(labels: VolumeLabels, z_start: int, depth: int, crop: Crop) -> bool:
    """Whether some lesion or hard negative on the slab's slices has its centre in the crop."""
    cut = [crop.boxes(kind.between(z_start, depth).boxes_xyxy) for kind in (labels.lesions, labels.negatives)]
    centres = np.concatenate([(boxes[:, :2] + boxes[:, 2:] + 1) / 2 for boxes in cut])
    return bool(((centres >= 0) & (centres <= crop.side_yx[0])).all(axis=1).any())


@given(volumes(), settings, seeds)
def test_a_slab_lies_in_its_volume_and_a_crop_is_as_asked(archive: Any, own: GeneratorSettings, seed: int) -> None:
    frames, labels = archive
    sampler = SlabSampler(frames, labels, own)
    frame, z_start, crop = sampler.draw(np.random.default_rng(seed))
    depth, rows, columns = frame.shape_zyx
    assert frame in frames
    # A volume thinner than a slab is begun at its first slice.
    assert 0 <= z_start <= max(0, depth - own.slab_depth)
    assert crop.side_yx == (sampler.side, sampler.side)
    assert sampler.side == own.crop_px or sampler.side >= max(rows, columns)
    low, high = SCALE_RANGE if own.augment else (1.0, 1.0)
    assert low <= crop.scale <= high
    assert own.augment or not crop.flip
    if own.crop_px == 0:
        assert crop.centre_xy == (columns / 2, rows / 2)


@given(volumes(), settings, seeds)
def test_the_same_random_numbers_draw_the_same_place(archive: Any, own: GeneratorSettings, seed: int) -> None:
    one, two = (SlabSampler(*archive, own).draw(np.random.default_rng(seed)) for _ in range(2))
    assert one == two


@given(volumes(), settings, seeds)
def test_an_anchored_slab_shows_a_label(archive: Any, own: GeneratorSettings, seed: int) -> None:
    frames, labels = archive
    own = own.model_copy(update={"marked_slab_share": 1.0})
    frame, z_start, crop = SlabSampler(frames, labels, own).draw(np.random.default_rng(seed))
    anything = any(len(own.lesions) + len(own.negatives) for own in labels.values())
    if anything and own.crop_px:
        assert is_label(labels[frame.volume_id], z_start, own.slab_depth, crop)


@given(volumes(), settings, seeds)
def test_background_is_drawn_where_it_is_known_to_be_one(archive: Any, own: GeneratorSettings, seed: int) -> None:
    frames, labels = archive
    own = own.model_copy(update={"marked_slab_share": 0.0, "unmarked_slice_weight": 0.0})
    frame, _, _ = SlabSampler(frames, labels, own).draw(np.random.default_rng(seed))
    assert labels[frame.volume_id].complete or not any(each.complete for each in labels.values())


@pytest.mark.parametrize(("negatives", "share"), [(300, 1 / 3), (0, 0.0)])
def test_hard_negatives_do_not_crowd_out_the_lesions(negatives: int, share: float) -> None:
    frame, box = GridFrame("v", (9, 64, 64), SPACING, SPACING), np.array([10.0, 10.0, 20.0, 20.0])
    labels = VolumeLabels(
        SliceBoxes.of([(0, box)]), SliceBoxes.of([(8, box)] * negatives), SliceBoxes.of(), complete=True
    )
    own = GeneratorSettings(slab_depth=1, marked_slab_share=1.0)
    sampler, rng = SlabSampler([frame], {"v": labels}, own), np.random.default_rng(0)
    drawn = [sampler.draw(rng)[1] for _ in range(600)]
    assert np.mean([z == 8 for z in drawn]) == pytest.approx(share, abs=0.06)
