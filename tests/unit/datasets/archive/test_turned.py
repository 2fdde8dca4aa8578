"""Whichever way a scan was saved: the same volume and the same boxes, given as CSV, as COCO or as a mask."""

import json
from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest

from harvester.config.data import ArchiveSettings
from harvester.datasets.archive.archive import discover, read
from harvester.records import Mark

SHAPE_ZYX = (5, 9, 11)
SPACING_ZYX_MM = (3.0, 0.7, 0.9)
LESIONS_ZYX = [((1, 2), (2, 4), (1, 6)), ((3, 3), (6, 8), (7, 8)), ((4, 4), (0, 0), (0, 3))]
"""First and last slice, row and column of each lesion."""
ALL = [(axes, flips) for axes in permutations(range(3)) for flips in product((1, -1), repeat=3)]
"""Every way to save a scan: which stored axis (0 for z) each file axis runs along, and against which."""
AXIAL = [(axes, flips) for axes, flips in ALL if axes[2] == 0]


def stored() -> tuple[np.ndarray, np.ndarray]:
    """The scan and its mask as they are to be stored. Each lesion is smaller on its later slices."""
    hu = np.random.default_rng(3).integers(-900, 900, SHAPE_ZYX).astype(np.int16)
    mask = np.zeros(SHAPE_ZYX, np.uint8)
    for label, ((z1, z2), (y1, y2), (x1, x2)) in enumerate(LESIONS_ZYX, 1):
        mask[z1, y1 : y2 + 1, x1 : x2 + 1] = label
        mask[z1 + 1 : z2 + 1, y1, x1] = label
    return hu, mask


def saved(values_zyx: np.ndarray, path: Path, axes: tuple[int, ...], flips: tuple[int, ...]) -> None:
    """The file with its axes in this order; the affine says so. Stored z, y, x run up, to the back, to the left."""
    turned = values_zyx.transpose(axes)[tuple(slice(None, None, flip) for flip in flips)]
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, (axis, flip) in enumerate(zip(axes, flips, strict=True)):
        up_back_left = (2, 1.0), (1, -1.0), (0, -1.0)
        row, way = up_back_left[axis]
        affine[row, column] = way * flip * SPACING_ZYX_MM[axis]
    affine[:3, 3] = np.random.default_rng(1).normal(0, 100, 3)
    nibabel.save(nibabel.Nifti1Image(turned, affine), path)


def file_box(lesion: int, axes: tuple[int, ...], flips: tuple[int, ...]) -> tuple[int, list[int]]:
    """The lesion's slice and box in the file's own voxels, where its third axis is the stored z."""
    ends = []
    for axis, flip in zip(axes, flips, strict=True):
        low, high = (LESIONS_ZYX[lesion][axis][0],) * 2 if axis == 0 else LESIONS_ZYX[lesion][axis]
        last = SHAPE_ZYX[axis] - 1
        ends.append((low, high) if flip == 1 else (last - high, last - low))
    (i1, i2), (j1, j2), (k, _) = ends
    return k, [i1, j1, i2, j2]


def put_marks(root: Path, kind: str, axes: tuple[int, ...], flips: tuple[int, ...]) -> None:
    placed = [file_box(lesion, axes, flips) for lesion in range(len(LESIONS_ZYX))] if kind != "mask" else []
    if kind == "csv":
        rows = [f"a,{k},{','.join(map(str, box))}\n" for k, box in placed]
        (root / "marks.csv").write_text("file,z,x1,y1,x2,y2\n" + "".join(rows))
    if kind == "coco":
        images = [{"id": n, "file_name": "a.nii", "slice": k} for n, (k, _) in enumerate(placed)]
        boxes = [[i1, j1, i2 - i1 + 1, j2 - j1 + 1] for _, (i1, j1, i2, j2) in placed]
        annotations = [{"id": n, "image_id": n, "bbox": box} for n, box in enumerate(boxes)]
        (root / "marks.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    if kind == "mask":
        saved(stored()[1], root / "a.mask.nii", axes, flips)


def box_of(mark: Mark) -> tuple[float, ...]:
    return mark.z, mark.y1, mark.x1, mark.y2, mark.x2


@pytest.mark.parametrize(("kind", "ways"), [("csv", AXIAL), ("coco", AXIAL), ("mask", ALL)])
def test_every_orientation_gives_the_same_volume_and_boxes(
    tmp_path: Path, kind: str, ways: list[tuple[tuple[int, ...], tuple[int, ...]]]
) -> None:
    assert len(ways) == (48 if kind == "mask" else 16)
    hu, _ = stored()
    expected = sorted((z1, y1, x1, y2, x2) for (z1, _), (y1, y2), (x1, x2) in LESIONS_ZYX)
    for axes, flips in ways:
        saved(hu, tmp_path / "a.nii", axes, flips)
        put_marks(tmp_path, kind, axes, flips)
        settings = ArchiveSettings(mask_min_mm=0, mask_split_labels=True, min_slices=1, slice_spacing_mm=(0.1, 100))
        (case,) = discover(tmp_path, settings, 0, "s").cases
        volume, marks = read(case, tmp_path, settings)
        np.testing.assert_array_equal(volume.hu_zyx, hu)
        assert volume.spacing_zyx_mm == pytest.approx(SPACING_ZYX_MM)
        assert sorted(map(box_of, marks)) == expected, (axes, flips)
