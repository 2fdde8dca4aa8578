"""Every kind of lesion: it finds a place, changes the image by what it promises, and keeps its limits in mm."""

from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
from scipy import ndimage

from harvester.config.data import InsertionSettings, LesionKind
from harvester.datasets.insertion.backgrounds import Prepared, prepare
from harvester.datasets.insertion.insertion import make
from harvester.datasets.insertion.kinds import KINDS
from harvester.datasets.insertion.placement import CHAIN_GAP_MM, Inserted, SubVolume, insert_lesions
from harvester.datasets.insertion.subvolume import cut, draw_frame
from tests.made_torso import FINE, background, case, torso

Values = np.ndarray
NAMES = get_args(LesionKind)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(background(), torso(FINE))


def inserted(prepared: Prepared, seed: int, **fields: object) -> tuple[SubVolume, Values]:
    """A sub-volume with its lesions, and what it was before."""
    settings = InsertionSettings.model_validate({"lesions_per_volume": 6, **fields})
    rng = np.random.default_rng(seed)
    frame = draw_frame(settings, prepared, rng)
    before = cut(settings, prepared, frame, rng)
    target = SubVolume(settings, prepared, frame, before.copy(), [], rng)
    insert_lesions(target)
    return target, before


def seen(target: SubVolume, before: Values, lesion: Inserted) -> tuple[Values, Values]:
    """What the lesion's voxels were and are, without most of the noise."""
    block = tuple(slice(a, a + n) for a, n in zip(lesion.place_zyx, lesion.voxels.shape, strict=True))
    pair = (ndimage.gaussian_filter(volume[block], (0, 0.8, 0.8))[lesion.voxels] for volume in (before, target.hu_zyx))
    was, now = pair
    return was, now


# Small ones fill no voxel: 5 mm of soft tissue in lung are less than soft tissue.
PROMISES: dict[str, Callable[[Values, Values], bool]] = {
    "nodule": lambda was, now: was.mean() < -600 and -500 < np.median(now) < 80,
    "part_solid": lambda was, now: -780 < np.percentile(now, 20) < -400 and now.max() > -420,
    "ground_glass": lambda was, now: 80 < (now - was).mean() < 400 and now.mean() < -400,
    "cavitary": lambda was, now: np.percentile(now, 2) < -450 and np.percentile(now, 90) > -300,
    "calcified": lambda was, now: now.max() > 40 and was.mean() < -600,
    "hypodense": lambda was, now: -85 < (now - was).mean() < -12,
    "hyperdense": lambda was, now: 12 < (now - was).mean() < 85,
    "cystic": lambda was, now: -10 < np.median(now) < 40 and was.mean() > 40,
    "rim_enhancing": lambda was, now: (now - was).min() < -15 and (now - was).max() > 10,
    "node": lambda was, now: was.mean() < -60 and -40 < np.median(now) < 90,
    "node_chain": lambda was, now: was.mean() < -60 and -40 < np.median(now) < 90,
    "bone_lytic": lambda was, now: was.mean() > 180 and (now - was).mean() < -60,
    "bone_sclerotic": lambda was, now: was.mean() > 120 and (now - was).mean() > 100,
    "mass": lambda was, now: np.abs(now - was).mean() > 15 and -40 < np.median(now) < 90,
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_kind_changes_the_image_as_it_promises(prepared: Prepared, kind: LesionKind) -> None:
    count = 0
    for seed in range(8):
        target, before = inserted(prepared, seed, kind_weights={kind: 1})
        for lesion in target.inserted:
            assert lesion.kind in (kind, KINDS[kind].alone)
            was, now = seen(target, before, lesion)
            assert PROMISES[kind](was, now), (lesion.diameter_mm, was.mean(), now.mean())
            count += 1
        far = np.ones(before.shape, bool)
        for lesion in target.inserted:
            far[tuple(slice(a, a + n) for a, n in zip(lesion.place_zyx, lesion.voxels.shape, strict=True))] = False
        assert np.array_equal(before[far], target.hu_zyx[far])
    assert count >= 3


def test_every_kind_has_its_share_and_its_entry() -> None:
    shares = InsertionSettings().kind_weights
    assert set(KINDS) == set(NAMES) == set(shares) == set(PROMISES)
    assert sum(shares.values()) == pytest.approx(1)
    limits = {limit: sum(shares[kind] for kind in NAMES if KINDS[kind].limits == limit) for limit in
              ("nodule_mm", "organ_mm", "node_mm", "bone_mm", "mass_mm")}  # fmt: skip
    assert limits == pytest.approx(
        {"nodule_mm": 0.4, "organ_mm": 0.27, "node_mm": 0.2, "bone_mm": 0.08, "mass_mm": 0.05}
    )
    for kind in KINDS.values():
        assert sum(home.share for home in kind.homes) == pytest.approx(1)


@pytest.mark.parametrize("kind", NAMES)
def test_sizes_keep_their_limits_in_mm(kind: LesionKind) -> None:
    model, rng = KINDS[kind], np.random.default_rng(0)
    low, high = getattr(InsertionSettings(), model.limits)
    sizes = [model.draw_size(InsertionSettings(), rng) for _ in range(300)]
    assert max(low, model.least_mm) <= min(sizes) < max(sizes) <= high
    narrow = InsertionSettings.model_validate({model.limits: (4, 6)})
    assert {model.draw_size(narrow, rng) for _ in range(20)} <= {6} if model.least_mm else True
    assert all(4 <= model.draw_size(narrow, rng) <= 6 for _ in range(20))


def test_sizes_reach_from_small_to_large() -> None:
    rng = np.random.default_rng(0)
    settings = InsertionSettings()
    sizes = [KINDS[kind].draw_size(settings, rng) for kind in NAMES for _ in range(300)]
    assert min(sizes) == 5
    assert max(sizes) > 75


def test_a_chain_gives_neighbours_with_a_mark_each(prepared: Prepared) -> None:
    chains = 0
    for seed in range(6):
        target, _ = inserted(prepared, seed, kind_weights={"node_chain": 1}, lesions_per_volume=1.5)
        chain = [lesion for lesion in target.inserted if lesion.kind == "node_chain"]
        assert len(chain) != 1, "one without a neighbour is a node"
        assert {lesion.kind for lesion in target.inserted} <= {"node", "node_chain"}
        for lesion in chain:
            gaps = [
                float(np.linalg.norm(np.subtract(lesion.centre_zyx, other.centre_zyx) * FINE))
                - (lesion.diameter_mm + other.diameter_mm) / 2
                for other in chain
                if other is not lesion
            ]
            # A voxel's half on each axis: places are rounded to voxels.
            assert -1.5 < min(gaps) <= CHAIN_GAP_MM[1] + 3
        chains += bool(chain)
    assert chains >= 2


def test_marks_tell_their_kind(prepared: Prepared) -> None:
    settings = InsertionSettings(kind_weights={"node_chain": 1, "cavitary": 1}, lesions_per_volume=6)
    marks = [mark for number in range(4) for mark in make(settings, prepared, case(number), 0)[1]]
    assert {"node_chain", "cavitary"} <= {mark.kind for mark in marks} <= {"node_chain", "cavitary", "node"}
    assert len({(mark.volume_id, mark.mark_id) for mark in marks}) == len(marks)


def test_bones_are_found_and_bright_blood_is_none() -> None:
    made = torso()
    bones = prepare(background(), made).tissues.bone_room_mm

    def at(z: float, y: float, x: float) -> tuple[int, ...]:
        return int(z / 4), int(y / 1.6), int(x / 1.6)

    assert bones[at(30, 116, 97)] > 5
    assert bones[at(74, 116, 97)] > 5
    assert not bones[at(30, 73, 97)]
    y, x = np.ogrid[:72, :96]
    heart = (y * 2 - 66) ** 2 + (x * 2 - 97) ** 2 < 16**2
    made.hu_zyx[12:, heart] = 450
    bright = prepare(background(), made).tissues.bone_room_mm
    assert not bright[at(74, 66, 97)], "a heart full of contrast medium is no bone"
