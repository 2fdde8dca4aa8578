"""What is a CT in HU is taken, whole, cropped or made; what is not is refused with what was seen."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harvester.config.data import PhantomSettings
from harvester.datasets.phantom.phantom import make, plan
from harvester.errors import VolumeError
from harvester.imaging.hounsfield import to_hu
from harvester.imaging.nifti.reader import read_nifti
from harvester.imaging.plausible import check_hounsfield, check_type

REAL = Path(os.environ.get("HARVESTER_DATA") or Path(__file__).parents[4] / "shared" / "data") / "ct"
RNG = np.random.default_rng(0)


def chest(noise_hu: float = 15.0) -> Any:
    """(z, y, x): air, a body of fat with organs, lungs and a spine."""
    y, x = np.mgrid[:96, :128]
    hu = np.full((10, 96, 128), -1000.0)
    parts = ((64, 48, 56, 38, -100), (64, 48, 50, 33, 45), (42, 44, 16, 22, -850), (86, 44, 16, 22, -850))
    for cx, cy, a, b, value in (*parts, (64, 72, 7, 6, 600)):
        hu[:, ((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 < 1] = value
    return hu + RNG.normal(0, noise_hu, hu.shape)


CHEST = chest()
ABDOMEN = np.where(CHEST[:, 30:60, 50:80] < -500, 45, CHEST[:, 30:60, 50:80])
ABDOMEN[:, :2] = -100
"""Cropped: no air, and a little fat."""
TAKEN = {
    "a chest": CHEST,
    "noisy": chest(80),
    "without noise": chest(0),
    "an abdomen without air": ABDOMEN,
    "padded with -2000": np.where(CHEST < -900, -2000, CHEST),
    "clipped to a window": np.clip(CHEST, -160, 240),
    "one slice": CHEST[:1],
}
REFUSED = {
    "HU + 1024": (CHEST + 1024, "not_hu"),
    "HU + 1024 without noise": (chest(0) + 1024, "not_hu"),
    "HU + 1000, noise below 0": (chest(40) + 1000, "not_hu"),
    "HU + 1024 padded with -1024": (np.where(CHEST < -950, -1024, CHEST + 1024), "not_hu"),
    "HU + 1024, an abdomen": (ABDOMEN + 1024, "not_hu"),
    "the intercept taken off twice": (CHEST - 1024, "not_hu"),
    "0 to 1": ((CHEST + 1024) / 1700, "label_map"),
    "-1 to 1": ((CHEST + 1024) / 2048 - 1, "not_hu"),
    "z scores": ((CHEST - CHEST.mean()) / CHEST.std(), "not_hu"),
    "MR in 8 bits": (np.clip(RNG.normal(120, 60, CHEST.shape), 0, 255), "not_hu"),
    "MR": (np.abs(RNG.normal(300, 200, CHEST.shape)), "not_hu"),
    "MR's phase": (RNG.integers(-4096, 4095, CHEST.shape), "not_hu"),
    "PET": (RNG.exponential(800, CHEST.shape), "not_hu"),
    "a mask": (CHEST > 100, "label_map"),
    "a mask of 255": (255 * (CHEST > 100), "label_map"),
    "organs": (np.digitize(CHEST, range(-1000, 1000, 20)), "label_map"),
    "labels from -1 on": ((CHEST > 100) - 1, "not_hu"),
    "nothing": (0 * CHEST, "constant"),
    "air": (np.full(CHEST.shape, -1024), "constant"),
    "noisy air": (RNG.normal(-1000, 20, CHEST.shape), "not_hu"),
}


@pytest.mark.parametrize("name", TAKEN)
def test_a_ct_is_taken(name: str) -> None:
    check_hounsfield(to_hu(TAKEN[name]))


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_ct_is_refused_with_what_was_seen(name: str) -> None:
    values, reason = REFUSED[name]
    hu = to_hu(np.asarray(values, np.float64))
    with pytest.raises(VolumeError) as caught:
        check_hounsfield(hu)
    assert caught.value.reason == reason
    assert str(hu.min()) in str(caught.value) and str(hu.max()) in str(caught.value)
    assert "data.archive.any_values=true" in str(caught.value)


def test_a_phantom_is_taken() -> None:
    settings = PhantomSettings(depth=6)
    check_hounsfield(make(settings, (4.0, 1.6, 1.6), plan(settings)[0], 0)[0].hu_zyx)


@pytest.mark.parametrize("name", ["abd_tcgaBC", "chest_rider0117", "sts_008", "crlm_1004"])
def test_real_scans_are_taken_whole_and_cropped(name: str) -> None:
    """sts_008 is a thigh; the middle of crlm_1004 and sts_008 has hardly any air."""
    file = REAL / f"{name}.nii.gz"
    if not file.is_file():
        pytest.skip(f"real data {name} are not here; set HARVESTER_DATA")
    hu = read_nifti(file, "v", "p").hu_zyx
    check_hounsfield(hu)
    check_hounsfield(hu[tuple(slice(side // 3, 2 * side // 3) for side in hu.shape)])


@pytest.mark.parametrize(
    ("dtype", "slope", "inter", "good"),
    [
        (np.int16, 1, 0, True), (np.uint16, 1, -1024, True), (np.uint8, 8, -1024, True), (np.uint16, -1, 3000, True),
        (np.float32, 1, 0, True), (np.uint16, 1, 0, False), (np.uint8, 1, 0, False), (np.int16, 1, 32768, False),
    ],
)  # fmt: skip
def test_a_type_that_cannot_be_dark_is_known_by_its_header(dtype: Any, slope: int, inter: int, good: bool) -> None:
    if good:
        check_type(np.dtype(dtype), slope, inter)
        return
    with pytest.raises(VolumeError, match="holds no value below 0, and air is -1000 HU"):
        check_type(np.dtype(dtype), slope, inter)
