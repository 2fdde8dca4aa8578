"""NIfTI files of any axis order come out alike."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from harvester.errors import VolumeError
from harvester.volumes.io import read_nifti
from harvester.volumes.io_nifti import read_turned_nifti

BODY_ZYX = np.arange(-60, 60, dtype=np.int16).reshape(4, 5, 6)
"""z to the head, y to the back, x to the left."""
SPACING_XYZ = (0.7, 0.8, 2.5)


def write(path: Path, axes: str, values_zyx: Any = BODY_ZYX, **header: Any) -> Path:
    """The body with file axes as named, e.g. "RAS": first axis to the right, second to the front, third up."""
    data, affine = values_zyx.transpose(2, 1, 0)[::-1, ::-1], np.diag([*SPACING_XYZ, 1.0])  # RAS
    image = nibabel.Nifti1Image(data, affine)
    turned = image.as_reoriented(
        nibabel.orientations.ornt_transform(
            nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(tuple(axes))
        )
    )
    for name, value in header.items():
        getattr(turned.header, name)(*value)
    nibabel.save(turned, path)
    return path


@pytest.mark.parametrize("axes", ["RAS", "LAS", "LPS", "RPI", "LPI", "SAR", "PIR"])
def test_every_axis_order_comes_out_alike(tmp_path: Path, axes: str) -> None:
    volume = read_nifti(write(tmp_path / "a.nii.gz", axes), "v", "p")
    np.testing.assert_array_equal(volume.hu_zyx, BODY_ZYX)
    assert volume.hu_zyx.dtype == np.int16
    assert volume.spacing_zyx_mm == pytest.approx(SPACING_XYZ[::-1])


@pytest.mark.parametrize("axes", ["RAS", "LAS", "LPS", "RPI", "LPI", "ARS"])
def test_a_box_drawn_in_the_file_lands_on_the_same_voxels(tmp_path: Path, axes: str) -> None:
    path = write(tmp_path / "a.nii", axes)
    volume, turn = read_turned_nifti(path, "v", "p")
    drawn = np.asarray(nibabel.load(path).dataobj)[1:3, 2:5, 3]
    z, x1, y1, x2, y2 = turn.box(3, (1, 2, 2, 4))
    found = volume.hu_zyx[z, int(y1) : int(y2) + 1, int(x1) : int(x2) + 1]
    assert sorted(found.ravel()) == sorted(drawn.ravel())


def test_a_box_on_slices_that_are_not_axial_is_refused(tmp_path: Path) -> None:
    _, turn = read_turned_nifti(write(tmp_path / "a.nii", "SAR"), "v", "p")
    with pytest.raises(VolumeError) as caught:
        turn.box(0, (0, 0, 1, 1))
    assert caught.value.reason == "not_axial"


def test_scaled_and_missing_values(tmp_path: Path) -> None:
    values = np.full((2, 2, 2), 40.6, np.float32)
    values[0, 0] = [np.nan, 9000]
    hu = read_nifti(write(tmp_path / "a.nii", "LPS", values), "v", "p").hu_zyx
    np.testing.assert_array_equal(hu, [[[-1024, 3071], [41, 41]], [[41, 41], [41, 41]]])


def test_a_trailing_axis_of_one_is_dropped(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5, 1), np.int16), np.eye(4)), tmp_path / "a.nii")
    assert read_nifti(tmp_path / "a.nii", "v", "p").hu_zyx.shape == (5, 4, 3)


def refused(path: Path) -> str:
    with pytest.raises(VolumeError) as caught:
        read_nifti(path, "v", "p")
    assert str(path) not in str(caught.value)
    return caught.value.reason


def test_refusals(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5, 2), np.int16), np.eye(4)), tmp_path / "time.nii")
    assert refused(tmp_path / "time.nii") == "not_3d"
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.eye(4))
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nibabel.save(image, tmp_path / "lost.nii")
    assert refused(tmp_path / "lost.nii") == "no_orientation"
    (tmp_path / "junk.nii.gz").write_bytes(b"no such thing")
    assert refused(tmp_path / "junk.nii.gz") == "unreadable"
    assert refused(tmp_path / "absent.nii") == "unreadable"


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_file_cut_short_is_refused(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(-1000, 1000, (20, 20, 20)).astype(np.int16)
    path = write(tmp_path / name, "LPS", noise)
    path.write_bytes(path.read_bytes()[:8000])
    assert refused(path) == "unreadable"
