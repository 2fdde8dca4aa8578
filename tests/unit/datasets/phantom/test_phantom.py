"""Phantoms: who is in which split, what is marked, and that a drawn volume keeps its promises."""

from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from harvester.config.data import PhantomSettings
from harvester.datasets.phantom.phantom import choose_clinical, make, plan
from harvester.records import Mark, Volume

SPACING = (4.0, 3.2, 3.2)
SETTINGS = PhantomSettings(vm_volumes=7, vh_test_volumes=4, volumes_per_patient=2, depth=10)
Drawn = tuple[Volume, list[Mark], list[dict[str, Any]]]


@cache
def _drawn(index: int) -> Drawn:
    return make(SETTINGS, SPACING, plan(SETTINGS)[index], seed=3)


def test_plan_has_disjoint_patients_and_distinct_opaque_ids() -> None:
    cases = plan(SETTINGS)
    patients = {split: {c.patient_id for c in cases if c.split == split} for split in ("vm", "vh_test")}
    assert [c.split for c in cases] == ["vm"] * 7 + ["vh_test"] * 4
    assert not patients["vm"] & patients["vh_test"]
    assert (len(patients["vm"]), len(patients["vh_test"])) == (4, 2)
    assert len({c.volume_id for c in cases}) == len(cases)
    assert all(c.volume_id.startswith("ph-") and len(c.volume_id) == 15 for c in cases)


def test_a_longer_vm_leaves_vh_test_as_it_was() -> None:
    longer = SETTINGS.model_copy(update={"vm_volumes": 20})
    assert plan(longer)[20:] == plan(SETTINGS)[7:]


def test_vd_test_has_patients_of_its_own_and_moves_nobody() -> None:
    without, own = plan(PhantomSettings(vm_volumes=4, vh_test_volumes=4)), PhantomSettings(vd_test_volumes=5)
    cases = plan(own.model_copy(update={"vm_volumes": 4, "vh_test_volumes": 4}))
    assert cases[:8] == without and [case.split for case in cases[8:]] == ["vd_test"] * 5
    assert not {case.patient_id for case in without} & {case.patient_id for case in cases[8:]}
    assert len({case.patient_id for case in cases[8:]}) == 3  # two volumes each


def test_same_seed_and_case_give_the_same_bytes() -> None:
    volume, marks, distractors = make(SETTINGS, SPACING, plan(SETTINGS)[0], seed=3)
    first = _drawn(0)
    assert volume.hu_zyx.tobytes() == first[0].hu_zyx.tobytes()
    assert (marks, distractors) == first[1:]
    other = make(SETTINGS, SPACING, plan(SETTINGS)[0], seed=4)[0]
    assert (other.hu_zyx != volume.hu_zyx).mean() > 0.5


def test_volumes_are_on_the_grid_and_hold_air_fat_and_bone() -> None:
    for index in range(3):
        hu = _drawn(index)[0].hu_zyx
        assert hu.shape == (10, 96, 112)
        assert hu.min() >= -1024 and hu.max() <= 3071
        assert np.median(hu[:, :3]) < -900
        assert (hu > 250).mean() > 0.002
        assert ((hu > -140) & (hu < 150)).mean() > 0.15


def test_marks_lie_inside_and_carry_their_volume() -> None:
    marks = [(_drawn(i)[0], mark) for i in range(6) for mark in _drawn(i)[1]]
    assert len(marks) > 9
    for volume, mark in marks:
        depth, height, width = volume.hu_zyx.shape
        assert type(mark.z) is int and type(mark.x1) is float
        assert mark.volume_id == volume.volume_id and 0 <= mark.z < depth
        assert 0 <= mark.x1 < mark.x2 <= width - 1 and 0 <= mark.y1 < mark.y2 <= height - 1
        assert (mark.x2 - mark.x1) * SPACING[2] < 80
    assert len({mark.mark_id for _, mark in marks}) == len(marks)


def test_no_lesion_overlaps_another() -> None:
    for index in range(6):
        for a, b in combinations(_drawn(index)[1], 2):
            apart = max(a.x1, b.x1) > min(a.x2, b.x2) or max(a.y1, b.y1) > min(a.y2, b.y2)
            assert apart or abs(a.z - b.z) >= 2


def test_a_volume_with_lesions_has_a_clinical_mark() -> None:
    for index in range(6):
        marks = _drawn(index)[1]
        assert any(mark.clinical for mark in marks) or not marks


def test_distractors_are_boxes_of_known_kinds_and_can_be_turned_off() -> None:
    found = [one for index in range(6) for one in _drawn(index)[2]]
    assert len(found) > 15 and len({one["kind"] for one in found}) > 3
    assert set(found[0]) == {"kind", "z", "x1", "y1", "x2", "y2"}
    none = SETTINGS.model_copy(update={"distractors_per_volume": 0.0})
    assert make(none, SPACING, plan(none)[1], seed=3)[2] == []


def test_a_lesion_shows_against_what_was_there() -> None:
    """Without noise a lesion's centre differs from the rim of its padded box."""
    quiet = SETTINGS.model_copy(update={"noise_hu": 0.0})
    steps = []
    for case in plan(quiet)[:3]:
        volume, marks, _ = make(quiet, SPACING, case, seed=3)
        for mark in marks:
            x, y = round((mark.x1 + mark.x2) / 2), round((mark.y1 + mark.y2) / 2)
            rim = volume.hu_zyx[mark.z, int(mark.y1) : int(mark.y2) + 2, int(mark.x1)]
            steps.append(abs(float(volume.hu_zyx[mark.z, y, x]) - float(np.median(rim))))
    assert np.median(steps) > 15


@pytest.mark.parametrize("share", [0.2, 0.37, 0.8, 1.0])
def test_marked_share_is_the_setting_and_prefers_large_lesions(share: float) -> None:
    rng = np.random.default_rng(0)
    sizes, chosen = [], []
    for _ in range(3000):
        diameters = rng.uniform(8, 30, rng.poisson(4.0))
        sizes.append(diameters)
        chosen.append(choose_clinical(diameters, 4.0, share, rng))
    size, marked = np.concatenate(sizes), np.concatenate(chosen)
    assert marked.mean() == pytest.approx(share, abs=0.015)
    assert share == 1.0 or size[marked].mean() > size[~marked].mean() + 1
    if share >= 0.37:
        assert all(one.any() for one in chosen if len(one))
