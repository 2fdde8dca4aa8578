"""The body mask keeps the patient with lungs, and drops table, wires and air."""

import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from harvester.imaging.body_mask import BODY_HU, COARSE_MM, coarse_step
from harvester.imaging.body_mask import body_mask as coarse_mask

STEP = coarse_step(1.6)


def body_mask(hu_zyx: NDArray[Any]) -> NDArray[Any]:
    """The mask of 1.6 mm pixels, on all of them."""
    coarse = coarse_mask(hu_zyx[:, ::STEP, ::STEP] > BODY_HU)
    fine = coarse.repeat(STEP, axis=1).repeat(STEP, axis=2)
    return fine[:, : hu_zyx.shape[1], : hu_zyx.shape[2]]


def scene(depth: int = 6) -> dict[str, Any]:
    """An ellipse of tissue with two lungs, a table beneath, a wire above."""
    y, x = np.mgrid[:192, :224]
    body = ((x - 112) / 90) ** 2 + ((y - 96) / 62) ** 2 < 1
    lungs = (((x - 75) / 25) ** 2 + ((y - 90) / 35) ** 2 < 1) | (((x - 150) / 25) ** 2 + ((y - 90) / 35) ** 2 < 1)
    table, wire = (y > 166) & (y < 170), (y > 8) & (y < 11) & (x > 60) & (x < 160)
    hu = np.full((depth, 192, 224), -1000, np.int16)
    hu[:, body], hu[:, lungs], hu[:, table], hu[:, wire] = 40, -850, 200, 1500
    return {"hu": hu, "body": body, "lungs": lungs, "table": table, "wire": wire}


def test_the_patient_is_kept_and_the_rest_dropped() -> None:
    made = scene()
    mask = body_mask(made["hu"])
    assert mask.shape == made["hu"].shape
    assert mask.dtype == bool
    assert mask[:, made["body"]].mean() > 0.995
    assert mask[:, made["lungs"]].all()
    assert not mask[:, made["table"] | made["wire"]].any()
    assert mask[:, ~made["body"]].mean() < 0.15


@pytest.mark.parametrize(("radius", "apart"), [(60, 150), (40, 100), (20, 120)], ids=["legs", "knees", "an arm"])
def test_every_part_of_the_body_counts_and_the_table_does_not(radius: int, apart: int) -> None:
    """Two parts in air, the other one smaller, none at a slice's middle; a table of 13 to 26 mm beneath."""
    y, x = np.mgrid[:192, :320]
    parts = [(x - 80) ** 2 + (y - 70) ** 2 < 60**2, (x - 80 - apart - 30) ** 2 + (y - 70) ** 2 < radius**2]
    for thick in (8, 12, 16):
        table = (y > 150) & (y <= 150 + thick) & (x > 20) & (x < 300)
        hu = np.full((4, 192, 320), -1000, np.int16)
        hu[:, parts[0] | parts[1]], hu[:, table] = 40, 0
        mask = body_mask(hu)
        assert [mask[:, part].mean() > 0.99 for part in parts] == [True, True]
        assert not mask[:, table].any()


def test_noise_and_a_touching_wire_change_little() -> None:
    made = scene()
    hu = made["hu"] + np.random.default_rng(0).normal(0, 40, made["hu"].shape)
    hu[:, 8:40, 100:102] = 1500
    mask = body_mask(hu.astype(np.int16))
    assert mask[:, made["body"]].mean() > 0.99
    assert not mask[:, :20].any()


def test_air_alone_is_nobody() -> None:
    assert not body_mask(np.full((2, 30, 31), -1000, np.int16)).any()


def test_tissue_alone_is_body() -> None:
    assert body_mask(np.full((2, 31, 33), 40, np.int16))[:, 4:-4, 4:-4].all()


def test_a_slice_takes_a_few_milliseconds() -> None:
    hu = scene(20)["hu"]
    began = time.perf_counter()
    body_mask(hu)
    assert (time.perf_counter() - began) / 20 < 0.015


def test_the_step_follows_the_pixels() -> None:
    assert [coarse_step(mm) for mm in (0.8, 1.6, 3.2, COARSE_MM, 20.0)] == [8, 4, 2, 1, 1]


def test_holes_are_filled_slice_by_slice_as_scipy_does() -> None:
    rng = np.random.default_rng(0)
    rough = ndimage.gaussian_filter(rng.normal(size=(12, 40, 44)), (0, 3, 3)) > 0
    rough[:, :2] = rough[:, -3:] = False
    mask = coarse_mask(rough)
    cross = ndimage.generate_binary_structure(2, 1)[None]
    parts, _ = ndimage.label(ndimage.binary_erosion(rough, cross))
    thick = np.unique(parts[ndimage.binary_erosion(parts > 0, cross)])
    body = ndimage.binary_dilation(np.isin(parts, thick), cross, iterations=2)
    slow = np.stack([ndimage.binary_fill_holes(plane) for plane in body])
    assert (slow & ~body).any()
    np.testing.assert_array_equal(mask, slow)
