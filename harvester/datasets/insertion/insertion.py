"""Lesions of known truth inserted into real CT: how a site certifies the engine on its own scanner.

`plan` says which sub-volumes there will be, `make` makes one of them. A sub-volume is cut from a clean range
of a background, moved and scaled a little, given lesions where such lesions grow, and comes with every lesion
marked (`clinical` on the share that the archive pretends to know) and the regions that must not be scored.
One background gives many sub-volumes whose errors repeat: splits, folds and intervals go by patient_id.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from harvester.config.data import InsertionSettings
from harvester.config.fingerprint import settings_hash
from harvester.config.settings import Settings
from harvester.datasets.discovery import Discovery, LoadedVolume, root_of
from harvester.datasets.insertion.backgrounds import (
    Background,
    Prepared,
    load_background_volume,
    load_backgrounds,
    prepare,
)
from harvester.datasets.insertion.placement import Inserted, insert_lesions
from harvester.datasets.insertion.subvolume import IgnoredRegion, cut, draw_frame, ignored_regions
from harvester.errors import VolumeError
from harvester.imaging.hounsfield import to_hu
from harvester.records import Mark, Volume

__all__ = [
    "Background",
    "IgnoredRegion",
    "InsertionCase",
    "Prepared",
    "load_background_volume",
    "load_backgrounds",
    "make",
    "plan",
    "prepare",
]

BOX_PAD_MM: Final = 4.0
"""Boxes are larger than the lesion by this on each side, as DeepLesion's are (5 px of about 0.8 mm)."""

MARK_POWER: Final = 1.5
"""A lesion is marked with a weight of its diameter to this power: large ones more often."""


@dataclass(frozen=True)
class InsertionCase:
    """One sub-volume to be made: opaque id, its background, that one's patient, and the split."""

    volume_id: str
    patient_id: str
    background_id: str
    split: str


class Insertions:
    """The dataset of sub-volumes with inserted lesions. Of backgrounds, which take seconds to read, one is kept."""

    def __init__(self, settings: Settings, source: Path | None) -> None:
        self.settings, self.seed, self.grid = (settings.data.insertion, settings.seed, settings.grid.spacing_zyx_mm)
        self.backgrounds = load_backgrounds(self.settings, root_of(source))
        self.kept: Prepared | None = None

    def discover(self, salt: str) -> Discovery:
        """The sub-volumes of both splits, those of a background side by side. Raises VolumeError as `plan`."""
        return Discovery(sorted(plan(self.settings, self.backgrounds), key=lambda case: case.background_id))

    def load(self, case: Mapping[str, Any]) -> LoadedVolume:
        """Make one; no VolumeError but of `make` and the background's reader."""
        wanted = InsertionCase(**case)
        volume, marks, regions = make(self.settings, self._prepared(wanted.background_id), wanted, self.seed)
        rows = [{k: v for k, v in asdict(region).items() if k != "kind"} for region in regions]
        return LoadedVolume(volume, marks, rows)

    def _prepared(self, background_id: str) -> Prepared:
        if self.kept is None or self.kept.background.id != background_id:
            chosen = next(each for each in self.backgrounds if each.id == background_id)
            self.kept = load_background_volume(chosen, self.grid)
        return self.kept


def plan(settings: InsertionSettings, backgrounds: Sequence[Background]) -> list[InsertionCase]:
    """The sub-volumes of both splits, spread evenly over the backgrounds of each; held_out ones are left out.

    Raises VolumeError where a split has no background, or a patient is in both splits.
    """
    vm, vh_test = ([each for each in backgrounds if each.role == split] for split in ("vm", "vh_test"))
    both = {each.patient for each in vm} & {each.patient for each in vh_test}
    if both:
        raise VolumeError("mixed_splits", f"{len(both)} background patients are in vm and vh_test; want none")
    return [*_plan_split("vm", settings.vm_volumes, vm), *_plan_split("vh_test", settings.vh_test_volumes, vh_test)]


def _plan_split(split: str, count: int, backgrounds: Sequence[Background]) -> Iterator[InsertionCase]:
    if not backgrounds:
        raise VolumeError("no_background", f"no background has role {split}; list at least one")
    for index in range(count):
        background = backgrounds[index % len(backgrounds)]
        name = settings_hash("insertion", split, background.id, index)
        yield InsertionCase(f"in-{name}", background.patient_id, background.id, split)


def make(
    settings: InsertionSettings, prepared: Prepared, case: InsertionCase, seed: int
) -> tuple[Volume, list[Mark], list[IgnoredRegion]]:
    """One sub-volume on the grid, a mark for every lesion in it, and what must not be scored.

    The same settings, background, case and seed give the same bytes. A sub-volume may have no lesions; where
    it has some, at least one is clinical. Raises VolumeError where the background has no clean range of
    `depth` slices.
    """
    rng = np.random.default_rng([seed, int(case.volume_id.removeprefix("in-"), 16)])
    frame = draw_frame(settings, prepared, rng)
    hu = cut(settings, prepared, frame, rng)
    ignored = ignored_regions(prepared, frame, case.volume_id)
    inserted = insert_lesions(settings, prepared, frame, hu, ignored, rng)
    volume = Volume(case.volume_id, case.patient_id, to_hu(hu), prepared.volume.spacing_zyx_mm)
    return volume, _marks(settings, volume, inserted, rng), ignored


def _marks(
    settings: InsertionSettings, volume: Volume, inserted: Sequence[Inserted], rng: np.random.Generator
) -> list[Mark]:
    clinical = _draw_clinical(settings, [lesion.diameter_mm for lesion in inserted], rng)
    return [
        _mark(volume, f"{volume.volume_id}-{index}", lesion, index in clinical) for index, lesion in enumerate(inserted)
    ]


def _mark(volume: Volume, mark_id: str, lesion: Inserted, clinical: bool) -> Mark:
    """The padded box of the lesion on the slice where it is largest."""
    key = int(lesion.voxels.sum(axis=(1, 2)).argmax())
    rows, columns = np.nonzero(lesion.voxels[key])
    z, y, x = lesion.place_zyx
    pad_y, pad_x = (BOX_PAD_MM / size for size in volume.spacing_zyx_mm[1:])
    height, width = volume.hu_zyx.shape[1:]
    return Mark(
        volume_id=volume.volume_id,
        mark_id=mark_id,
        z=z + key,
        x1=max(0.0, float(x + columns.min()) - pad_x),
        y1=max(0.0, float(y + rows.min()) - pad_y),
        x2=min(width - 1.0, float(x + columns.max()) + pad_x),
        y2=min(height - 1.0, float(y + rows.max()) + pad_y),
        clinical=clinical,
        kind=lesion.kind,
    )


def _draw_clinical(settings: InsertionSettings, diameters_mm: Sequence[float], rng: np.random.Generator) -> set[int]:
    """Which lesions the archive knows: one for sure, and so many more that the share is right on average."""
    count = len(diameters_mm)
    if count == 0:
        return set()
    mean = settings.lesions_per_volume
    some = -np.expm1(-mean)  # share of volumes that have a lesion
    more = float(np.clip((settings.marked_share * mean - some) / max(mean - some, 1e-9), 0, 1))
    weights = np.array(diameters_mm) ** MARK_POWER
    known = 1 + int(rng.binomial(count - 1, more))
    return set(rng.choice(count, known, replace=False, p=weights / weights.sum()).tolist())
