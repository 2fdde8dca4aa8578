"""Components of label masks to marks, against a slow and obvious search."""

import os
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from harvester.config.data import ArchiveSettings
from harvester.datasets.archive import masks
from harvester.datasets.archive.masks import mask_marks, read_labels
from harvester.datasets.archive.nifti import read_marked
from harvester.errors import VolumeError
from harvester.imaging.nifti.file import read_header
from harvester.records import Mark

SPACING = (5.0, 0.8, 0.8)


def found_in(voxels: np.ndarray, **mask: Any) -> tuple[list[Mark], int]:
    """Marks and the count of strays, by settings data.archive.mask_*; no stray unless a least length is given."""
    settings = ArchiveSettings(**{"mask_min_mm": 0.0} | {f"mask_{name}": value for name, value in mask.items()})
    return mask_marks(voxels, SPACING, "v", settings)


def boxes(voxels: np.ndarray, **mask: Any) -> list[tuple[float, ...]]:
    return [as_box(mark) for mark in found_in(voxels, **mask)[0]]


def as_box(mark: Mark) -> tuple[float, ...]:
    return mark.z, mark.y1, mark.x1, mark.y2, mark.x2


def slow_boxes(labels: np.ndarray) -> list[tuple[float, ...]]:
    """Flood each component voxel by voxel; its slice is the fullest, the lowest of equals."""
    left = {tuple(map(int, voxel)) for voxel in np.argwhere(labels)}
    found = []
    while left:
        first = left.pop()
        component, front = {first}, [first]
        while front:
            z, y, x = front.pop()
            around = {(z + a, y + b, x + c) for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1)}
            near = {voxel for voxel in around & left if labels[voxel] == labels[first]}
            left -= near
            component |= near
            front += near
        slices = [z for z, _, _ in component]
        key = max(sorted(set(slices)), key=slices.count)
        rows, columns = [y for z, y, _ in component if z == key], [x for z, _, x in component if z == key]
        found.append((key, min(rows), min(columns), max(rows), max(columns)))
    return sorted(found)


@pytest.mark.parametrize("seed", range(6))
def test_random_masks_agree_with_the_slow_search(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(1, 4, (7, 9, 8)) * (rng.random((7, 9, 8)) < 0.12)
    found = boxes(labels.astype(np.uint8), split_labels=True)
    assert found == slow_boxes(labels)
    assert len(found) > 10


def test_an_empty_mask_has_no_marks() -> None:
    assert found_in(np.zeros((2, 3, 4), np.uint8)) == ([], 0)


def test_labels_may_be_chosen_merged_or_kept_apart() -> None:
    """Label 2 inside label 1, as counts of readers are; label 3 apart, an organ."""
    labels = np.zeros((3, 8, 9), np.int16)
    labels[1, 1:5, 1:5], labels[1, 2:4, 2:4], labels[2, 6, 6:9] = 1, 2, 3
    outer, inner, organ = (1, 1, 1, 4, 4), (1, 2, 2, 3, 3), (2, 6, 6, 6, 8)
    assert boxes(labels, split_labels=True) == [outer, inner, organ]
    assert boxes(labels) == [outer, organ]
    assert boxes(labels, labels=(1, 2)) == [outer]
    assert boxes(labels, labels=(2,)) == [inner]
    assert boxes(labels, labels=(9,)) == []
    kinds = [mark.kind for mark in found_in(labels, labels=(1, 2), split_labels=True)[0]]
    assert kinds == ["label 1", "label 2"]
    assert {mark.kind for mark in found_in(labels, labels=(2,), split_labels=True)[0]} == {""}


def test_strays_are_dropped_by_their_longer_side_and_counted() -> None:
    labels = np.zeros((2, 9, 9), bool)
    labels[0, 0, 0] = labels[0, 3, 3:5] = labels[0, 6, 6:9] = labels[1, 0, 8] = True
    marks, strays = found_in(labels, min_mm=2.0)
    assert [as_box(mark) for mark in marks] == [(0, 6, 6, 6, 8)]
    assert strays == 3
    assert found_in(labels, min_mm=1.6)[1] == 2
    assert marks[0].mark_id == "v-0"


@pytest.mark.parametrize("labels", [np.arange(2000).reshape(2, 25, 40), np.full((1, 2, 2), -3)])
def test_a_scan_is_no_mask(labels: np.ndarray) -> None:
    with pytest.raises(VolumeError, match="want whole numbers, 0 for the background") as caught:
        found_in(labels)
    assert caught.value.reason == "bad_mask"


@pytest.mark.parametrize(("name", "count", "settings"), [
    ("lung_1", 1, {}),
    ("sts_019", 1, {}),
    ("chest_lidc1", 1, {}),
])  # fmt: skip
def test_real_masks_give_the_lesions_that_they_show(name: str, count: int, settings: dict[str, object]) -> None:
    folder = Path(os.environ.get("HARVESTER_DATA") or Path(__file__).parents[5] / "shared" / "data") / "ct"
    scan, mask = folder / f"{name}.nii.gz", folder / f"{name}.mask.nii.gz"
    if not mask.is_file():
        pytest.skip(f"real masks are not here: {mask.name}; set HARVESTER_DATA")
    volume, marks = read_marked(scan, mask, [], "v", "p", ArchiveSettings(**settings))
    assert len(marks) == count
    for mark in marks:
        inside = volume.hu_zyx[mark.z, int(mark.y1) : int(mark.y2) + 1, int(mark.x1) : int(mark.x2) + 1]
        assert np.median(inside) > -200, "a tumour is no air"


def test_noise_is_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "MOST_COMPONENTS", 4)
    labels = np.zeros((1, 3, 11), np.uint8)
    labels[0, 1, 1:8:2] = 1
    assert len(found_in(labels)[0]) == 4
    labels[0, 1, 9] = 1
    with pytest.raises(VolumeError, match="the mask has 5 components; want one for each lesion"):
        found_in(labels)


@pytest.mark.parametrize(("kind", "each"), [(np.uint8, 1), (np.int16, 2), (np.int64, 4), (np.float64, 4)])
def test_labels_take_the_least_room_whatever_they_are_stored_as(tmp_path: Path, kind: Any, each: int) -> None:
    labels = np.zeros((96, 96, 120), kind)
    labels[3, 4, 5] = 7
    nibabel.save(nibabel.Nifti1Image(labels, np.diag([-1.0, 1, 1, 1]), dtype=kind), tmp_path / "a.nii")
    header = read_header(tmp_path / "a.nii", "v")
    assert header.dtype == kind
    tracemalloc.start()
    read = read_labels(tmp_path / "a.nii", header, header.orientation(), "v")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < each * labels.size + (3 << 20)
    assert np.argwhere(read).tolist() == [[5, 91, 3]] and read.max() == 7


@pytest.mark.parametrize("value", [2.0**31, -(2.0**40), 0.5, float("nan"), float("inf")])
def test_a_value_that_is_no_label_is_refused(tmp_path: Path, value: float) -> None:
    labels = np.zeros((4, 4, 4))
    labels[1, 1, 1] = value
    nibabel.save(nibabel.Nifti1Image(labels, np.diag([-1.0, -1, 1, 1])), tmp_path / "a.nii")
    header = read_header(tmp_path / "a.nii", "v")
    with pytest.raises(VolumeError, match="values that are no labels"):
        read_labels(tmp_path / "a.nii", header, header.orientation(), "v")
