"""NIfTI files of any axis order come out alike."""

import gzip
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from harvester.errors import VolumeError
from harvester.imaging.nifti.file import read_header
from harvester.imaging.nifti.reader import read_nifti, read_oriented_nifti

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
    volume, orientation = read_oriented_nifti(path, read_header(path, "v"), "v", "p")
    drawn = np.asarray(nibabel.load(path).dataobj)[1:3, 2:5, 3]
    z, x1, y1, x2, y2 = orientation.box(3, (1, 2, 2, 4))
    found = volume.hu_zyx[z, int(y1) : int(y2) + 1, int(x1) : int(x2) + 1]
    assert sorted(found.ravel()) == sorted(drawn.ravel())


def test_a_box_on_slices_that_are_not_axial_is_refused(tmp_path: Path) -> None:
    _, orientation = read_oriented_nifti(path := write(tmp_path / "a.nii", "SAR"), read_header(path, "v"), "v", "p")
    with pytest.raises(VolumeError) as caught:
        orientation.box(0, (0, 0, 1, 1))
    assert caught.value.reason == "not_axial"


def test_scaled_values_are_rounded_and_clipped(tmp_path: Path) -> None:
    values = np.full((2, 2, 2), 40.6, np.float32)
    values[0, 0] = [-3000, 9000]
    hu = read_nifti(write(tmp_path / "a.nii", "LPS", values), "v", "p").hu_zyx
    np.testing.assert_array_equal(hu, [[[-1024, 3071], [41, 41]], [[41, 41], [41, 41]]])


def test_slope_and_intercept_of_the_header_are_used(tmp_path: Path) -> None:
    """As nibabel itself scales, of either byte order."""
    image = nibabel.Nifti1Image(BODY_ZYX.astype(">i2"), np.diag([-1.0, -1, 1, 1]))
    image.header.set_slope_inter(2.5, 20)
    nibabel.save(image, tmp_path / "a.nii.gz")
    hu = read_nifti(tmp_path / "a.nii.gz", "v", "p").hu_zyx
    np.testing.assert_array_equal(hu.transpose(2, 1, 0), np.rint(nibabel.load(tmp_path / "a.nii.gz").get_fdata()))
    assert hu.max() > 0 > hu.min()


@pytest.mark.parametrize("lost", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_number_refuse_the_scan_but_nan_may_be_told_to_be_air(tmp_path: Path, lost: float) -> None:
    values = np.full((2, 2, 2), 40, np.float32)
    values[0, 0, 0] = lost
    path = write(tmp_path / "a.nii", "LPS", values)
    assert refused(path) == "not_finite"
    if np.isnan(lost):
        assert read_oriented_nifti(path, read_header(path, "v"), "v", "p", missing_is_air=True)[0].hu_zyx[
            0, 0
        ].tolist() == [-1024, 40]
    else:
        with pytest.raises(VolumeError, match="1 voxels"):
            read_oriented_nifti(path, read_header(path, "v"), "v", "p", missing_is_air=True)


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


def spoil(path: Path, **fields: Any) -> Path:
    """The body's file with raw header fields overwritten, unchecked."""
    content = bytearray(write(path, "LPS").read_bytes())
    raw = nibabel.Nifti1Header(bytes(content[:348]), check=False)
    for name, value in fields.items():
        raw[name] = value
    content[:348] = raw.binaryblock
    path.write_bytes(content)
    return path


ROW = {"srow_x": [-0.7, 0, 0, 0], "srow_y": [0, -0.8, 0, 0], "srow_z": [0, 0, 2.5, 0]}
QFORM = {"sform_code": 0, "qform_code": 1}
BROKEN: dict[str, tuple[str, dict[str, Any]]] = {
    "affine of zeros": ("bad_spacing", {"srow_x": 0, "srow_y": 0, "srow_z": 0}),
    "affine with a column of zeros": ("bad_spacing", {"srow_z": [0, 0, 0, 0]}),
    "affine with NaN": ("bad_affine", {"srow_x": np.nan}),
    "affine with an infinite shift": ("bad_affine", {"srow_z": [0, 0, 2.5, np.inf]}),
    "two axes alike": ("sheared", {"srow_x": [0, 0, 0, 0], "srow_y": [-0.8, -0.8, 0, 0]}),
    "axes that lean": ("sheared", {"srow_y": [0, -0.8, 0.5, 0]}),
    "voxels in metres": ("bad_spacing", {"srow_x": [-7e-4, 0, 0, 0]}),
    "voxels as wide as a house": ("bad_spacing", {"srow_x": [-7e3, 0, 0, 0]}),
    "spacing 0 beside a quaternion": ("bad_spacing", {**QFORM, "pixdim": [1, 1, 0, 1, 0, 0, 0, 0]}),
    "spacing below 0 beside a quaternion": ("bad_affine", {**QFORM, "pixdim": [1, 1, -1, 1, 0, 0, 0, 0]}),
    "a quaternion that is no rotation": ("bad_affine", {**QFORM, "quatern_b": 3}),
    "a picture": ("not_grey", {"datatype": 128, "bitpix": 24}),
    "complex numbers": ("not_grey", {"datatype": 32, "bitpix": 64}),
    "a type that NIfTI does not have": ("unreadable", {"datatype": 999}),
    "two dimensions": ("not_3d", {"dim": [2, 6, 5, 4, 1, 1, 1, 1]}),
    "four dimensions": ("not_3d", {"dim": [4, 6, 5, 2, 2, 1, 1, 1]}),
    "no voxels": ("not_3d", {"dim": [3, 6, 0, 4, 1, 1, 1, 1]}),
    "sides below 0": ("not_3d", {"dim": [3, -6, -5, 4, 1, 1, 1, 1]}),
    "forty dimensions": ("unreadable", {"dim": [40, 6, 5, 4, 1, 1, 1, 1]}),
    "an enormous shape": ("too_large", {"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}),
    "more than the file holds": ("unreadable", {"dim": [3, 600, 500, 400, 1, 1, 1, 1]}),
    "voxels inside the header": ("unreadable", {"vox_offset": 100}),
    "voxels far behind the end": ("unreadable", {"vox_offset": 1e30}),
    "voxels nowhere": ("unreadable", {"vox_offset": np.nan}),
    "a header in another file": ("unreadable", {"magic": b"ni1"}),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_header_that_cannot_be_is_refused(tmp_path: Path, case: str) -> None:
    reason, fields = BROKEN[case]
    assert refused(spoil(tmp_path / "a.nii", **fields)) == reason


def test_what_is_spoilt_is_sound_before(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_nifti(spoil(tmp_path / "a.nii", **ROW), "v", "p").hu_zyx, BODY_ZYX)


def test_no_room_is_made_for_what_a_small_file_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = spoil(tmp_path / "a.nii", dim=[3, 1024, 1024, 1000, 1, 1, 1, 1])
    packed = tmp_path / "a.nii.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    monkeypatch.setattr(np, "empty", lambda *_: pytest.fail("made room"))
    assert refused(path) == refused(packed) == "unreadable"


def test_a_limit_on_voxels_may_be_set(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii", "LPS")
    read_header(path, "v", BODY_ZYX.size)
    with pytest.raises(VolumeError, match=r"data.archive.max_voxels = 119") as caught:
        read_header(path, "v", BODY_ZYX.size - 1)
    assert caught.value.reason == "too_large"


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.nii", "LPS")
    monkeypatch.setattr(Path, "open", denied)
    assert refused(path) == "unreadable"


def denied(path: Path, *_: Any) -> None:
    """What the disk answers to somebody without rights; tests may run as root, who has them all."""
    raise PermissionError(13, "Permission denied", str(path))


def test_nifti_2_is_read_too(tmp_path: Path) -> None:
    values = BODY_ZYX.transpose(2, 1, 0)
    nibabel.save(nibabel.Nifti2Image(values, np.diag([-1.0, -1, 1, 1])), tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii.gz", "v", "p").hu_zyx, BODY_ZYX)


def test_whatever_a_header_says_it_is_read_or_refused(tmp_path: Path) -> None:
    """Bytes of the header overwritten at random: no other error, no warning, no volume that is not whole."""
    rng = np.random.default_rng(11)
    fields = [*range(48), *range(70, 120), *range(252, 352)]  # sizes, types, spacing, scale, affine, magic, extension
    sound = write(tmp_path / "sound.nii", "LPS").read_bytes()
    seen = set()
    for _ in range(150):
        content = bytearray(sound)
        for at in rng.choice(fields, rng.integers(1, 6)):
            content[at] = rng.choice([0, 1, 127, 128, 255, rng.integers(256)])
        (tmp_path / "a.nii").write_bytes(content)
        try:
            volume = read_nifti(tmp_path / "a.nii", "v", "p")
            assert volume.hu_zyx.size == np.prod(volume.hu_zyx.shape) > 0
            seen.add("read")
        except VolumeError as error:
            seen.add(error.reason)
    assert {"read", "unreadable", "bad_spacing", "not_3d"} <= seen


def test_voxels_that_fail_their_checksum_are_refused(tmp_path: Path) -> None:
    hu = np.random.default_rng(0).integers(-1024, 3071, (64, 64, 9)).astype(np.int16)
    file = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(hu, np.diag([0.8, 0.8, 2.5, 1])), file)
    content = file.read_bytes()
    # The voxels of such a scan are packed as they are: zeros among them unpack without complaint.
    file.write_bytes(content[: len(content) // 2] + bytes(200) + content[len(content) // 2 + 200 :])
    with pytest.raises(VolumeError) as raised:
        read_nifti(file, "v", "p")
    assert raised.value.reason == "unreadable"


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.float64])
def test_the_limit_is_one_of_bytes_too(tmp_path: Path, kind: Any) -> None:
    """Wide values may be as many fewer as they are wider than CT's two bytes."""
    path = write(tmp_path / "a.nii.gz", "LPS", BODY_ZYX.astype(kind))
    least = BODY_ZYX.size * np.dtype(kind).itemsize // 2
    read_header(path, "v", least)
    with pytest.raises(
        VolumeError, match=rf"120 voxels of {np.dtype(kind).itemsize} bytes, more than .* of 2"
    ) as caught:
        read_header(path, "v", least - 1)
    assert caught.value.reason == "too_large"


@pytest.mark.parametrize("axes", ["LPS", "RAS", "SAR"])
def test_a_scan_takes_the_room_that_it_has_in_the_store(tmp_path: Path, axes: str) -> None:
    """However wide its values are and however it is turned."""
    path = write(tmp_path / "a.nii.gz", axes, np.zeros((120, 96, 96)))
    tracemalloc.start()
    volume = read_nifti(path, "v", "p")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < volume.hu_zyx.nbytes + (3 << 20)
