"""Inserted lesions: seeded, where and what they claim to be, away from the scan's own disease."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harvester.config.data import InsertionSettings
from harvester.datasets.insertion.backgrounds import (
    Background,
    Prepared,
    load_background_volume,
    load_backgrounds,
    prepare,
)
from harvester.datasets.insertion.insertion import InsertionCase, make, plan
from harvester.datasets.insertion.lesion_models import coverage, draw_blob, draw_texture, half_covered, paint, shade
from harvester.datasets.insertion.placement import Inserted, SubVolume, insert_lesions
from harvester.datasets.insertion.subvolume import cut, draw_frame, ignored_regions
from harvester.errors import SettingsError, VolumeError
from harvester.imaging.nifti.file import read_header
from harvester.records import Volume

REPO = Path(__file__).parents[4]
DATA = Path(os.environ.get("HARVESTER_DATA", REPO.parent / "shared" / "data"))
SPACING = (4.0, 2.0, 2.0)
SETTINGS = InsertionSettings(depth=8)


def torso() -> Volume:
    """A body of 24 slices: fat round a large organ below, two lungs above, noise of 5 HU, air outside."""
    rng = np.random.default_rng(7)
    z, y, x = np.meshgrid(np.arange(24), np.arange(72), np.arange(96), indexing="ij", sparse=True)

    def ellipse(cy: float, cx: float, ry: float, rx: float) -> np.ndarray:
        return ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1

    hu = np.where(ellipse(36, 48, 32, 44), 55.0, -1024.0) + 0 * z
    hu = np.where(ellipse(36, 48, 25, 37) & (z < 12), -100.0, hu)
    hu = np.where(ellipse(34, 36, 17, 20) & (z < 12), 60.0, hu)
    hu = np.where((ellipse(36, 28, 18, 12) | ellipse(36, 68, 18, 12)) & (z >= 12), -850.0, hu)
    hu += np.where(hu > -1000, rng.normal(0, 5, hu.shape), 0)
    return Volume("made", "p", hu.round().astype(np.int16), SPACING)


def background(**fields: object) -> Background:
    return Background.model_validate({"id": "made", "file": "made.nii", "patient": "p", "role": "vm", **fields})


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(background(), torso(), SPACING)


def case(number: int = 1) -> InsertionCase:
    return InsertionCase(f"in-{number:012x}", "bg-1", "made", "vm")


def test_the_tissues_of_a_made_torso_are_found(prepared: Prepared) -> None:
    tissues = prepared.tissues
    assert tissues.lung_room_mm[18, 36, 28] > 15
    assert tissues.organ_room_mm[6, 34, 36] > 15
    assert tissues.fat_room_mm[6, 36, 70] > 8
    assert tissues.fat_room_mm[13:].max() < 3, "the rim of the lungs is no fat to speak of"
    assert not tissues.lung_room_mm[:11].any()
    assert not tissues.organ_room_mm[18, 36, 48], "what lies between the lungs is no organ for lesions"
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
        assert volume.hu_zyx.shape[0] == SETTINGS.depth
        assert volume.hu_zyx.shape[1] % 16 == volume.hu_zyx.shape[2] % 16 == 0
        assert ignored == []
        assert not marks or any(mark.clinical for mark in marks)
        for mark in marks:
            assert 0 <= mark.z < SETTINGS.depth
            assert 0 <= mark.x1 < mark.x2 <= volume.hu_zyx.shape[2] - 1
            assert 0 <= mark.y1 < mark.y2 <= volume.hu_zyx.shape[1] - 1
            known.append(mark.clinical)
            sizes.append(mark.x2 - mark.x1)
    assert len(known) > 50
    assert np.mean(known) == pytest.approx(SETTINGS.marked_share, abs=0.12)
    assert np.mean(np.array(sizes)[known]) > np.mean(np.array(sizes)[~np.array(known)])


def inserted_into(prepared: Prepared, seed: int) -> list[tuple[Inserted, np.ndarray]]:
    """Lesions with the change of HU in their voxels."""
    rng = np.random.default_rng(seed)
    frame = draw_frame(SETTINGS, prepared, rng)
    before = cut(SETTINGS, prepared, frame, rng)
    after = before.copy()
    target = SubVolume(SETTINGS, prepared, frame, after, [], rng)
    insert_lesions(target)
    lesions = target.inserted
    change = after - before
    blocks = [tuple(slice(a, a + n) for a, n in zip(i.place_zyx, i.voxels.shape, strict=True)) for i in lesions]
    return [(lesion, change[block][lesion.voxels]) for lesion, block in zip(lesions, blocks, strict=True)]


def test_lesions_change_their_voxels_as_their_kind_says(prepared: Prepared) -> None:
    found = [pair for seed in range(12) for pair in inserted_into(prepared, seed)]
    assert {lesion.kind for lesion, _ in found} == {"nodule", "hypodense", "hyperdense", "node"}
    for lesion, change in found:
        share = change.mean() / lesion.contrast_hu
        assert 0.25 < share < 1.1, (lesion.kind, lesion.diameter_mm)  # thick slices: partial volume
        assert (lesion.contrast_hu < 0) == (lesion.kind == "hypodense")


@pytest.mark.parametrize("contrast", [-60.0, 45.0])
def test_shade_moves_the_mean_by_the_asked_contrast_and_keeps_the_noise(contrast: float) -> None:
    rng = np.random.default_rng(0)
    blob = draw_blob(rng, 24, flatness=0.7, bumps=0.2)
    cover = coverage(blob, np.zeros(3), (4.0, 1.6, 1.6), 5.0)
    tissue = rng.normal(60, 10, cover.shape).astype(np.float32)
    changed, voxels = shade(tissue, cover, contrast, draw_texture(rng, cover.shape, 0.0))
    core = cover > 0.95
    assert (changed - tissue)[core].mean() == pytest.approx(contrast, abs=2)
    assert changed[core].std() == pytest.approx(tissue[core].std(), rel=0.15)
    assert np.array_equal(changed[cover == 0], tissue[cover == 0])
    assert voxels[core].all()


def test_paint_fills_lung_and_leaves_the_wall() -> None:
    blob = draw_blob(np.random.default_rng(1), 20, flatness=0.9, bumps=0.0)
    cover = coverage(blob, np.zeros(3), (4.0, 1.6, 1.6), 2.0)
    lung = np.full(cover.shape, -850, np.float32)
    lung[:, :, cover.shape[2] // 2 + 3 :] = 50
    changed, voxels = paint(lung, cover, 40.0, np.zeros_like(cover), 400.0)
    core = cover[:, :, :-8] > 0.99
    assert changed[:, :, :-8][core & (lung[:, :, :-8] < 0)].max() <= 40
    middle = tuple(n // 2 for n in cover.shape)
    assert changed[middle] == pytest.approx(40, abs=1)
    assert voxels[middle]
    assert np.abs((changed - lung)[:, :, cover.shape[2] // 2 + 6 :]).max() < 5
    assert not voxels[:, :, cover.shape[2] // 2 + 5 :].any()


def test_coverage_holds_the_volume_of_the_lesion_whatever_the_grid() -> None:
    blob = draw_blob(np.random.default_rng(2), 16, flatness=1.0, bumps=0.0)
    expected = 4 / 3 * np.pi * np.prod(blob.radii_zyx_mm)
    for spacing in ((4.0, 1.6, 1.6), (1.0, 0.8, 0.8)):
        cover = coverage(blob, np.array([0.3, -0.2, 0.4]), spacing, 5.0)
        assert cover.sum() * np.prod(spacing) == pytest.approx(expected, rel=0.03)
        assert cover.max() <= 1.001
        assert half_covered(cover).any()


def test_nothing_is_inserted_into_avoided_regions() -> None:
    right = background(avoid_mm=[[0, 96, 0, 144, 0, 96]], clean_mm=[[0, 96]])
    prepared = prepare(right, torso(), SPACING)
    count = 0
    for number in range(10):
        volume, marks, ignored = make(SETTINGS, prepared, case(number), 0)
        (region,) = ignored
        assert region.volume_id == volume.volume_id
        assert (region.z1, region.z2) == (0, SETTINGS.depth - 1)
        assert all(mark.x1 > region.x2 for mark in marks)
        count += len(marks)
    assert count > 5


def test_ignored_regions_cover_the_voxels_that_they_touch() -> None:
    still = SETTINGS.model_copy(update={"scale_jitter": 0.0, "shift_mm": 0.0})
    made = prepare(background(avoid_mm=[[16, 24.5, 40, 60, 50, 70]], clean_mm=[[8, 40]]), torso(), SPACING)
    frame = draw_frame(still, made, np.random.default_rng(0))
    assert frame.z_start == 2
    (region,) = ignored_regions(made, frame, "in-1")
    y1, y2, x1, x2 = made.crop_yx
    pad_y, pad_x = ((-(-n // 16) * 16 - n) / 2 for n in (y2 - y1, x2 - x1))
    assert (region.z1, region.z2) == (2, 4)
    assert region.x1 == np.floor(25 - x1 + pad_x)
    assert region.x2 == np.ceil(34 - x1 + pad_x)
    assert region.y1 == np.floor(20 - y1 + pad_y)
    assert region.y2 == np.ceil(29 - y1 + pad_y)


def test_a_scan_without_a_clean_range_is_refused_with_its_name() -> None:
    short = prepare(background(clean_mm=[[0, 20]]), torso(), SPACING)
    assert short.starts_for(5) == [0]
    with pytest.raises(VolumeError, match="background made"):
        make(SETTINGS, short, case(), 0)


def test_a_scan_without_tissue_gives_a_volume_without_lesions() -> None:
    air = Volume("air", "p", np.full((10, 40, 40), -1000, np.int16), SPACING)
    volume, marks, _ = make(SETTINGS, prepare(background(), air, SPACING), case(), 0)
    assert marks == []
    assert volume.hu_zyx.max() <= -1000


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
    prepared = load_background_volume(chosen, (4.0, 1.6, 1.6))
    assert len(prepared.starts_for(20)) == 3
    kinds = set()
    for number in range(3):
        volume, marks, ignored = make(InsertionSettings(), prepared, case(number), 0)
        assert volume.patient_id == "bg-1"
        assert len(ignored) >= 1
        kinds |= {mark.kind for mark in marks}
    assert {"nodule", "node"} <= kinds
