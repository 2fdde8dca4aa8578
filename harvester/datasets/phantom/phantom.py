"""Phantoms: CT-like torsos on the network's grid, with lesions of known truth of which a part is marked.

An archive that costs nothing and whose every lesion is known, so that the loop can be tried and its precision
and recall be measured anywhere. `plan` says which volumes there are, `make` draws one.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from harvester.config.data import PhantomSettings, Spacing
from harvester.config.settings import Settings
from harvester.datasets.discovery import Dataset, Discovery, LoadedVolume, clipped
from harvester.datasets.phantom import anatomy
from harvester.datasets.phantom.bones import paint_bones
from harvester.datasets.phantom.canvas import SUB_SLICES, Canvas, empty_canvas
from harvester.datasets.phantom.distractors import paint_distractors
from harvester.datasets.phantom.lesions import Finding, Scene, paint_lesions
from harvester.datasets.phantom.tubes import paint_gut, paint_vessels, paint_wires
from harvester.geometry import Array
from harvester.imaging.hounsfield import to_hu
from harvester.records import SIDES, Mark, Volume

Split = Literal["vm", "vh_test", "vd_test"]
PAD_MM = 4.0
Z_START_MM = (40.0, 345.0)
FIRST_OF_VD_TEST = 10**6


@dataclass(frozen=True)
class PhantomCase:
    """One volume of the archive. Even patient indices belong to vm, odd ones to vh_test, those from FIRST_OF_VD_TEST
    to vd_test: patients are disjoint, and a longer split leaves the others as they were. volume_index counts the
    volumes of a patient."""

    volume_id: str
    patient_id: str
    split: Split
    patient_index: int
    volume_index: int


def dataset(settings: Settings, source: Path | None = None) -> Dataset:
    """The phantoms of all splits; they follow from the settings, no source is read."""

    def load(case: Mapping[str, Any]) -> LoadedVolume:
        grid = settings.grid.spacing_zyx_mm
        return LoadedVolume(*make(settings.data.phantom, grid, PhantomCase(**case), settings.seed)[:2])

    return Dataset(lambda salt: Discovery(plan(settings.data.phantom)), load)


def plan(settings: PhantomSettings) -> list[PhantomCase]:
    """The cases of all splits, vm first, volumes_per_patient each (the last patient may have fewer)."""
    sizes: tuple[tuple[Split, int, int, int], ...] = (
        ("vm", settings.vm_volumes, 0, 2),
        ("vh_test", settings.vh_test_volumes, 1, 2),
        ("vd_test", settings.vd_test_volumes, FIRST_OF_VD_TEST, 1),
    )
    each = settings.volumes_per_patient
    return [
        _case(split, first + step * (i // each), i % each) for split, size, first, step in sizes for i in range(size)
    ]


def _case(split: Split, patient_index: int, volume_index: int) -> PhantomCase:
    patient = hashlib.sha256(f"phantom patient {patient_index}".encode()).hexdigest()[:12]
    volume = hashlib.sha256(f"phantom volume {patient_index} {volume_index}".encode()).hexdigest()[:12]
    return PhantomCase(f"ph-{volume}", f"pp-{patient}", split, patient_index, volume_index)


def make(
    settings: PhantomSettings, grid_spacing_zyx_mm: Spacing, case: PhantomCase, seed: int
) -> tuple[Volume, list[Mark], list[dict[str, Any]]]:
    """Draw one case: the volume on the grid, a mark for every lesion, and what only looks like one.

    Marks hold the key slice (the largest extent) and the lesion's in-plane extent there, 4 mm wider on every
    side. A volume may have no lesion. Distractors are dicts of kind, z, x1, y1, x2, y2 (padded alike), for
    pictures and analysis alone. The same seed and case give the same bytes.
    """
    patient = anatomy.draw_patient(np.random.default_rng([seed, case.patient_index]))
    rng = np.random.default_rng([seed, case.patient_index, 1 + case.volume_index])
    z_start = rng.uniform(*Z_START_MM) * patient.scale_xyz[2]
    canvas = empty_canvas(grid_spacing_zyx_mm, settings.depth, z_start)
    scene = _draw_scene(canvas, patient, settings, rng)
    distractors = paint_distractors(scene, int(rng.poisson(settings.distractors_per_volume)))
    lesions = paint_lesions(scene, int(rng.poisson(settings.lesions_per_volume)))
    hu = _scan(canvas, settings.noise_hu, rng)
    volume = Volume(case.volume_id, case.patient_id, hu, grid_spacing_zyx_mm)
    return volume, _marks(lesions, volume, settings, rng), [_padded(one, volume) for one in distractors]


def _draw_scene(canvas: Canvas, patient: anatomy.Patient, settings: PhantomSettings, rng: np.random.Generator) -> Scene:
    body = anatomy.lay_body(canvas, patient, rng)
    anatomy.paint_wall(canvas, patient, body, rng)
    anatomy.paint_lungs(canvas, patient, body)
    anatomy.paint_chest_organs(canvas, patient, body)
    anatomy.paint_belly_organs(canvas, patient, body, rng)
    paint_vessels(canvas, patient, body, rng)
    paint_gut(canvas, patient, body, rng)
    paint_bones(canvas, body, rng)
    paint_wires(canvas, rng)
    return Scene(canvas, patient, body, rng, settings)


def _scan(canvas: Canvas, noise_hu: float, rng: np.random.Generator) -> NDArray[np.int16]:
    """Average the sub-slices, blur, add noise whose grain is wider than a pixel; int16 HU."""
    depth = canvas.z.size // SUB_SLICES
    hu = canvas.hu.reshape(depth, SUB_SLICES, *canvas.hu.shape[1:]).mean(1)
    strength = np.float32(noise_hu * rng.uniform(0.7, 1.4))
    grain = _blur(rng.standard_normal(hu.shape, np.float32), 0.7)
    return to_hu(_blur(hu, 0.45) + strength * (grain / grain[len(grain) // 2].std()))


def _blur(sheet: Array, sigma_px: float) -> Array:
    return np.asarray(gaussian_filter(sheet, sigma_px, mode="nearest", truncate=3.0, axes=(1, 2)))


def _marks(lesions: list[Finding], volume: Volume, settings: PhantomSettings, rng: np.random.Generator) -> list[Mark]:
    diameters = np.array([lesion.diameter_mm for lesion in lesions])
    clinical = choose_clinical(diameters, settings.lesions_per_volume, settings.marked_share, rng)
    return [
        Mark(volume.volume_id, f"{volume.volume_id}-{i}", **_padded(lesion, volume), clinical=bool(clinical[i]))
        for i, lesion in enumerate(lesions)
    ]


def choose_clinical(
    diameters_mm: NDArray[np.float64], mean_count: float, share: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Which lesions of a volume a radiologist marks: (n,) of n diameters; one at least if the share allows.

    Larger ones are likelier, by the square of the diameter. Over volumes whose lesion count is Poisson with
    mean `mean_count`, a `share` of all lesions is marked.
    """
    count = len(diameters_mm)
    chosen = np.zeros(count, bool)
    if count == 0:
        return chosen
    occupied = 1 - np.exp(-mean_count)
    first = min(1.0, share * mean_count / occupied)
    further = max(0.0, (share * mean_count - occupied) / (mean_count - occupied))
    marked = int(rng.random() < first) + int(rng.binomial(count - 1, further))
    weight = diameters_mm**2 / np.sum(diameters_mm**2)
    chosen[rng.choice(count, marked, replace=False, p=weight)] = True
    return chosen


def _padded(finding: Finding, volume: Volume) -> dict[str, Any]:
    """A finding as a box with the padding of marks, inside the image."""
    pad_y, pad_x = (PAD_MM / size for size in volume.spacing_zyx_mm[1:])
    box = (finding.x1 - pad_x, finding.y1 - pad_y, finding.x2 + pad_x, finding.y2 + pad_y)
    sides = zip(SIDES, clipped(box, *volume.hu_zyx.shape[1:]), strict=True)
    return {"kind": finding.kind, "z": finding.z, **dict(sides)}
