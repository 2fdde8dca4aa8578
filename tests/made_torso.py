"""A made torso to insert lesions into, at any spacing."""

import numpy as np

from harvester.datasets.insertion.backgrounds import Background
from harvester.datasets.insertion.insertion import InsertionCase
from harvester.records import Volume

SIZE_MM = (96.0, 144.0, 192.0)
COARSE = (4.0, 2.0, 2.0)
FINE = (2.5, 1.0, 0.8)


def torso(spacing_zyx_mm: tuple[float, float, float] = COARSE) -> Volume:
    """A body: fat round an organ below, two lungs above, a column of bone behind, noise of 5 HU, air outside."""
    rng = np.random.default_rng(7)
    axes = [(np.arange(round(side / step)) + 0.5) * step for side, step in zip(SIZE_MM, spacing_zyx_mm, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)

    def ellipse(cy: float, cx: float, ry: float, rx: float) -> np.ndarray:
        return ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1

    hu = np.where(ellipse(73, 97, 64, 88), 55.0, -1024.0) + 0 * z
    hu = np.where(ellipse(73, 97, 50, 74) & (z < 48), -100.0, hu)
    hu = np.where(ellipse(69, 73, 34, 40) & (z < 48), 60.0, hu)
    hu = np.where((ellipse(73, 57, 36, 24) | ellipse(73, 137, 36, 24)) & (z >= 48), -850.0, hu)
    hu = np.where(ellipse(116, 97, 14, 17), 600.0, hu)
    hu = np.where(ellipse(116, 97, 11, 14), 220.0, hu)
    hu += np.where(hu > -1000, rng.normal(0, 5, hu.shape), 0)
    return Volume("made", "p", hu.round().astype(np.int16), spacing_zyx_mm)


def background(**fields: object) -> Background:
    return Background.model_validate({"id": "made", "file": "made.nii", "patient": "p", "role": "vm", **fields})


def case(number: int = 1) -> InsertionCase:
    return InsertionCase(f"in-{number:012x}", "bg-1", "made", "vm")
