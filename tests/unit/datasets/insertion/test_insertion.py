"""Inserted lesions: seeded, where and what they claim to be, away from the scan's own disease."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from harvester.config.data import InsertionSettings
from harvester.datasets.insertion.backgrounds import (
    TISSUE_MM,
    Background,
    Prepared,
    load_background_volume,
    load_backgrounds,
    prepare,
)
from harvester.datasets.insertion.insertion import make, plan, scans_of_vm
from harvester.datasets.insertion.kinds import KINDS
from harvester.datasets.insertion.placement import SubVolume, insert_lesions
from harvester.datasets.insertion.subvolume import cut, draw_frame, ignored_regions
from harvester.errors import SettingsError, VolumeError
from harvester.imaging.nifti.file import read_header
from harvester.imaging.nifti.reader import read_nifti
from harvester.records import Volume
from harvester.store.container import voxel_hash
from tests.made_torso import COARSE, FINE, background, case, torso

REPO = Path(__file__).parents[4]
DATA = Path(os.environ.get("HARVESTER_DATA", REPO.parent / "shared" / "data"))
DEPTH = 8
SETTINGS = InsertionSettings(depth=(DEPTH, DEPTH))


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(background(), torso())


def test_the_tissues_of_a_made_torso_are_found(prepared: Prepared) -> None:
    tissues = prepared.tissues
    assert tissues.spacing_zyx_mm == TISSUE_MM != prepared.volume.spacing_zyx_mm

    def at(z: float, y: float, x: float) -> tuple[int, ...]:
        return tuple(int(mm / size) for mm, size in zip((z, y, x), TISSUE_MM, strict=True))

    assert tissues.lung_room_mm[at(74, 73, 57)] > 15
    assert tissues.organ_room_mm[at(26, 69, 73)] > 15
    assert tissues.fat_room_mm[at(26, 73, 141)] > 8
    assert tissues.fat_room_mm[13:].max() < 3, "the rim of the lungs is no fat to speak of"
    assert not tissues.lung_room_mm[:11].any()
    assert not tissues.organ_room_mm[at(74, 73, 97)], "what lies between the lungs is no organ for lesions"
    assert not tissues.body[:, :2].any()


def test_the_same_seed_gives_the_same_bytes(prepared: Prepared) -> None:
    first, marks, _ = make(SETTINGS, prepared, case(), 3)
    again, marks_again, _ = make(SETTINGS, prepared, case(), 3)
    assert first.hu_zyx.tobytes() == again.hu_zyx.tobytes()
    assert marks == marks_again
    other, _, _ = make(SETTINGS, prepared, case(), 4)
    another, _, _ = make(SETTINGS, prepared, case(2), 3)
    assert not np.array_equal(first.hu_zyx, other.hu_zyx)
    assert not np.array_equal(first.hu_zyx, another.hu_zyx)


def test_marks_are_in_range_and_their_share_is_the_asked_one(prepared: Prepared) -> None:
    known, sizes = [], []
    for number in range(25):
        volume, marks, ignored = make(SETTINGS, prepared, case(number), 0)
        assert len(volume.hu_zyx) == DEPTH
        assert volume.spacing_zyx_mm == COARSE
        assert ignored == []
        assert not marks or any(mark.clinical for mark in marks)
        for mark in marks:
            assert 0 <= mark.z < DEPTH
            assert 0 <= mark.x1 < mark.x2 <= volume.hu_zyx.shape[2] - 1
            assert 0 <= mark.y1 < mark.y2 <= volume.hu_zyx.shape[1] - 1
            known.append(mark.clinical)
            sizes.append(mark.x2 - mark.x1)
    assert len(known) > 50
    assert np.mean(known) == pytest.approx(SETTINGS.marked_share, abs=0.12)
    assert np.mean(np.array(sizes)[known]) > np.mean(np.array(sizes)[~np.array(known)])


def test_nothing_is_inserted_into_avoided_regions() -> None:
    right = background(avoid_mm=[[0, 96, 0, 144, 0, 96]], clean_mm=[[0, 96]])
    prepared = prepare(right, torso())
    count = 0
    for number in range(10):
        volume, marks, ignored = make(SETTINGS, prepared, case(number), 0)
        (region,) = ignored
        assert region.volume_id == volume.volume_id
        assert (region.z1, region.z2) == (0, DEPTH - 1)
        assert all(mark.x1 > region.x2 for mark in marks)
        count += len(marks)
    assert count > 5


def test_ignored_regions_cover_the_voxels_that_they_touch() -> None:
    still = SETTINGS.model_copy(update={"scale_jitter": 0.0, "shift_mm": 0.0})
    made = prepare(background(avoid_mm=[[16, 24.5, 40, 60, 50, 70]], clean_mm=[[8, 40]]), torso())
    frame = draw_frame(still, made, np.random.default_rng(0))
    assert frame.z_start == 2
    (region,) = ignored_regions(made, frame, "in-1")
    y1, _, x1, _ = made.crop_yx
    assert (region.z1, region.z2) == (2, 4)
    assert region.x1 == np.floor(25 - x1)
    assert region.x2 == np.ceil(34 - x1)
    assert region.y1 == np.floor(20 - y1)
    assert region.y2 == np.ceil(29 - y1)


def test_a_scan_without_a_clean_range_is_refused_with_its_name() -> None:
    short = prepare(background(clean_mm=[[0, 20]]), torso())
    assert short.starts_for(5) == [0]
    with pytest.raises(VolumeError, match=r"background made: .* leave 5 slices, want 6"):
        make(SETTINGS, short, case(), 0)


def test_a_scan_without_tissue_gives_a_volume_without_lesions() -> None:
    air = Volume("air", "p", np.full((10, 40, 40), -1000, np.int16), COARSE)
    volume, marks, _ = make(SETTINGS, prepare(background(), air), case(), 0)
    assert marks == []
    assert volume.hu_zyx.max() <= -1000


def test_vd_test_has_the_backgrounds_that_are_named_for_it() -> None:
    listed = [
        background(id="a", patient="a"),
        background(id="b", patient="b", role="vh_test"),
        background(id="c", patient="c", role="vh_test"),
    ]
    named = InsertionSettings(
        vm_volumes=1, vh_test_volumes=2, vd_test_volumes=2, vh_test_backgrounds=("b",), vd_test_backgrounds=("c",)
    )
    cases = [(case.split, case.background_id) for case in plan(named, listed)]
    assert cases == [("vm", "a"), ("vh_test", "b"), ("vh_test", "b"), ("vd_test", "c"), ("vd_test", "c")]
    with pytest.raises(VolumeError, match="1 background patients are in vh_test and vd_test"):
        plan(named.model_copy(update={"vh_test_backgrounds": ()}), listed)
    with pytest.raises(VolumeError, match=r"name some in data\.insertion\.vd_test_backgrounds"):
        plan(named.model_copy(update={"vd_test_backgrounds": ()}), listed)


def test_plan_spreads_splits_over_their_own_patients() -> None:
    listed = [
        background(id="a", patient="a"),
        background(id="b", patient="b"),
        background(id="c", patient="c", role="vh_test"),
        background(id="d", patient="d", role="held_out"),
    ]
    cases = plan(InsertionSettings(vm_volumes=5, vh_test_volumes=3), listed)
    assert [each.background_id for each in cases] == ["a", "b", "a", "b", "a", "c", "c", "c"]
    assert [each.split for each in cases] == ["vm"] * 5 + ["vh_test"] * 3
    assert len({each.volume_id for each in cases}) == 8
    assert cases[0].patient_id == cases[2].patient_id == listed[0].patient_id
    assert cases == plan(InsertionSettings(vm_volumes=5, vh_test_volumes=3), listed)
    with pytest.raises(VolumeError, match="vm and vh_test"):
        plan(InsertionSettings(), [listed[0], background(id="x", patient="a", role="vh_test")])
    with pytest.raises(VolumeError, match="vh_test"):
        plan(InsertionSettings(), listed[:2])
    assert len(plan(InsertionSettings(vm_volumes=2, vh_test_volumes=0), listed[:2])) == 2, "nobody to be tested on"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {id: a, file: a.nii.gz, patient: a, role: vm}", "a.nii.gz, which is not there"),
        ("- {id: a, file: a.nii.gz, patient: a, role: vm, boxes: b}", "boxes"),
        ("- {id: a, file: a.nii.gz, patient: a, role: vd}", "role"),
        ("", "list.yaml"),
        ("- [", "list.yaml"),
    ],
)
def test_a_wrong_list_is_one_settings_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.yaml").write_text(text)
    settings = InsertionSettings(backgrounds=str(tmp_path / "list.yaml"))
    with pytest.raises(SettingsError, match=message) as error:
        load_backgrounds(settings, tmp_path)
    assert "\n" not in str(error.value)


@pytest.fixture
def shipped() -> Callable[[], list[Background]]:
    if not (DATA / "ct").is_dir():
        pytest.skip("real CT is absent: set HARVESTER_DATA or put shared/data beside the repository")
    settings = InsertionSettings(backgrounds=str(REPO / "configs" / "backgrounds.yaml"))
    return lambda: load_backgrounds(settings, DATA)


def test_the_shipped_list_keeps_patients_apart(shipped: Callable[[], list[Background]]) -> None:
    listed = shipped()
    roles = {role: {b.patient for b in listed if b.role == role} for role in ("vm", "vh_test", "held_out")}
    assert len(listed) == len(set().union(*roles.values())) == 25
    assert roles["held_out"] == {"lung_dx_a0001", "chest_rider0117"}
    # The certificate counts patients: most of them are for it (13 are needed at 0.90), the rest to measure on.
    assert (len(roles["vm"]), len(roles["vh_test"])) == (15, 8)
    assert not roles["vm"] & roles["vh_test"]


def test_the_shipped_regions_lie_inside_their_scans(shipped: Callable[[], list[Background]]) -> None:
    for each in (b for b in shipped() if b.role != "held_out"):
        header = read_header(each.file, each.id)
        sides = zip(header.orientation().shape_zyx, header.spacing_zyx_mm(), strict=True)
        z_mm, y_mm, x_mm = (count * spacing for count, spacing in sides)
        for z1, z2, y1, y2, x1, x2 in each.avoid_mm:
            assert 0 <= z1 < z2 <= z_mm + 4, each.id
            assert 0 <= y1 < y2 <= y_mm + 1, each.id
            assert 0 <= x1 < x2 <= x_mm + 1, each.id
        assert all(0 <= low < high <= z_mm for low, high in each.clean_mm), each.id
        # A sub-volume of 20 slices of 4 mm finds room.
        assert max((high - low for low, high in each.clean_mm), default=z_mm) >= 80, each.id


def test_a_real_background_gets_lesions_in_its_tissues(shipped: Callable[[], list[Background]]) -> None:
    (chosen,) = [b for b in shipped() if b.id == "chest_fcp"]
    prepared = load_background_volume(chosen)
    fewest, most = prepared.depths(InsertionSettings())
    assert (fewest, most) == (30, len(prepared.volume.hu_zyx))
    kinds = set()
    for number in range(3):
        volume, marks, ignored = make(InsertionSettings(), prepared, case(number), 0)
        assert volume.spacing_zyx_mm == prepared.volume.spacing_zyx_mm == (2.0, *volume.spacing_zyx_mm[1:])
        assert 0.7 < volume.spacing_zyx_mm[1] < 0.8, "as scanned"
        assert fewest <= len(volume.hu_zyx) <= most
        assert volume.patient_id == "bg-1"
        assert len(ignored) >= 1
        kinds |= {mark.kind for mark in marks}
    assert {"nodule", "node"} <= kinds


@pytest.mark.parametrize("spacing", [COARSE, FINE, (5.0, 0.7, 0.9)])
def test_a_lesion_lies_where_it_was_put_and_is_as_large(spacing: tuple[float, float, float]) -> None:
    """The visible voxels give centre and size in mm, whatever the spacing."""
    made = prepare(background(), torso(spacing))
    own = InsertionSettings(lesions_per_volume=12, kind_weights={"calcified": 1, "node": 1, "hypodense": 1})
    seen = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        frame = draw_frame(own, made, rng)
        target = SubVolume(own, made, frame, cut(own, made, frame, rng), [], rng)
        insert_lesions(target)
        for lesion in target.inserted:
            key = int(lesion.voxels.sum(axis=(1, 2)).argmax())
            area_mm2 = lesion.voxels[key].sum() * spacing[1] * spacing[2]
            across = 2 * np.sqrt(area_mm2 / np.pi)
            assert 0.55 * lesion.diameter_mm - spacing[2] < across < 1.3 * lesion.diameter_mm + spacing[2]
            middle = np.argwhere(lesion.voxels).mean(axis=0) + lesion.place_zyx
            off = np.abs(middle - lesion.centre_zyx) * spacing
            # A lesion at a wall shows less of itself than was put there.
            assert (off <= np.maximum(spacing, 0.25 * lesion.diameter_mm)).all(), lesion.kind
            seen += 1
    assert seen > 20


def test_a_place_of_the_tissue_maps_is_the_same_place_in_the_volume() -> None:
    """Nodules lie in lung, organ lesions in the organ: places are turned from one grid into the other."""
    made = prepare(background(), torso(FINE))
    rng = np.random.default_rng(0)
    own = InsertionSettings(lesions_per_volume=16, kind_weights={"ground_glass": 1, "node": 1, "hypodense": 1})
    frame = draw_frame(own, made, rng)
    before = cut(own, made, frame, rng)
    target = SubVolume(own, made, frame, before.copy(), [], rng)
    insert_lesions(target)
    expected = {"nodule_mm": -850, "node_mm": -100, "organ_mm": 60}
    assert {KINDS[lesion.kind].limits for lesion in target.inserted} == {*expected}
    for lesion in target.inserted:
        z, y, x = (round(at) for at in lesion.centre_zyx)
        there = np.median(before[z, y - 2 : y + 3, x - 2 : x + 3])
        assert there == pytest.approx(expected[KINDS[lesion.kind].limits], abs=15)


def test_a_sub_volume_keeps_to_lengths_and_clean_ranges() -> None:
    clean = [[0, 20], [22.5, 95]]
    made = prepare(background(clean_mm=clean), torso((2.5, 2.0, 2.0)))
    assert made.clean_slices() == [(0, 8), (9, 38)]
    assert made.depths(InsertionSettings()) == (29, 29), "30 slices are more than there are"
    assert made.depths(InsertionSettings(max_mm=30)) == (12, 12), "the limit in mm goes before the fewest"
    assert made.depths(InsertionSettings(depth=(6, 28))) == (24, 28), "60 mm at least"
    own = InsertionSettings(depth=(10, 26), max_mm=64)
    assert made.depths(own) == (24, 25)
    lengths = set()
    for seed in range(30):
        frame = draw_frame(own, made, np.random.default_rng(seed))
        lengths.add(frame.depth)
        assert frame.z_start >= 9
        assert frame.z_start + frame.depth <= 38
    assert lengths == {24, 25}


def test_the_cut_moves_and_scales_the_scan_round_the_middle_of_its_body() -> None:
    """Against one point at a time, read between the scan's pixels."""
    made = prepare(background(), torso(FINE))
    own = InsertionSettings(noise_jitter=0, scale_jitter=0.2)
    frame = draw_frame(own, made, np.random.default_rng(3))
    hu = cut(own, made, frame, np.random.default_rng(4))
    y1, y2, x1, x2 = made.crop_yx
    rng = np.random.default_rng(5)
    for _ in range(50):
        z, y, x = (int(rng.integers(side)) for side in hu.shape)
        own_y = (y - frame.middle_yx[0]) / frame.scale + frame.centre_yx[0]
        own_x = (x - frame.middle_yx[1]) / frame.scale + frame.centre_yx[1]
        if not (y1 <= own_y < y2 - 1 and x1 <= own_x < x2 - 1):
            assert hu[z, y, x] == -1024
            continue
        (low_y, low_x), (part_y, part_x) = (int(own_y), int(own_x)), (own_y % 1, own_x % 1)
        four = made.volume.hu_zyx[frame.z_start + z, low_y : low_y + 2, low_x : low_x + 2].astype(float)
        expected = np.array([1 - part_y, part_y]) @ four @ np.array([1 - part_x, part_x])
        assert hu[z, y, x] == pytest.approx(expected, abs=1.01), "rounded along both axes"
        assert frame.to_frame(np.array([[frame.z_start + z, own_y, own_x]]))[0] == pytest.approx([z, y, x])


def test_named_backgrounds_are_taken_whatever_their_role() -> None:
    listed = [background(id=name, patient=name, role=role) for name, role in (("a", "vm"), ("b", "vh_test"))]
    listed += [background(id="c", patient="c", role="vh_test"), background(id="d", patient="d", role="held_out")]
    own = InsertionSettings(vm_volumes=2, vh_test_volumes=1, vm_backgrounds=("b",))
    with pytest.raises(VolumeError, match="vm and vh_test"):
        plan(own, listed)
    cases = plan(own.model_copy(update={"vh_test_backgrounds": ("c",)}), listed)
    assert [(each.background_id, each.split) for each in cases] == [("b", "vm"), ("b", "vm"), ("c", "vh_test")]
    for wrong in ("e", "d"):
        with pytest.raises(SettingsError, match=rf"data.insertion.vh_test_backgrounds: {wrong}: .* a, b, c$"):
            plan(InsertionSettings(vh_test_backgrounds=("a", wrong)), listed)


def test_the_scans_of_vm_are_known_by_the_voxels_that_a_store_would_name_them_by(tmp_path: Path) -> None:
    for number, name in enumerate(("seen", "test")):
        voxels = np.full((4, 5, 6), number, np.int16)
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1.0, 1.0, 3.0, 1.0])), tmp_path / f"{name}.nii")
    entries = [{"id": n, "file": f"{n}.nii", "patient": n, "role": r} for n, r in (("seen", "vm"), ("test", "vh_test"))]
    (tmp_path / "list.yaml").write_text(json.dumps(entries))
    settings = InsertionSettings(source=str(tmp_path), backgrounds=str(tmp_path / "list.yaml"))
    stored = read_nifti(tmp_path / "seen.nii", "any", "other")
    assert scans_of_vm(settings, tmp_path) == {voxel_hash(stored): Background.model_validate(entries[0]).patient_id}
