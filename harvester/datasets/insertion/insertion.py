"""Lesions of known truth inserted into real CT: how a site certifies the engine on its own scanner.

`plan` says which sub-volumes there will be, `make` makes one of them. A sub-volume is cut from a clean range
of a background, moved and scaled a little, given lesions where such lesions grow, and comes with every lesion
marked (`clinical` on the share that the archive pretends to know) and the regions that must not be scored.
One background gives many sub-volumes whose errors repeat: splits, folds and intervals go by patient_id.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np

from harvester.config.data import InsertionSettings
from harvester.config.fingerprint import settings_hash
from harvester.config.settings import Settings
from harvester.datasets.discovery import Dataset, Discovery, LoadedVolume, clipped, root_of
from harvester.datasets.insertion.backgrounds import (
    Background,
    Prepared,
    load_background_volume,
    load_backgrounds,
    read_background,
)
from harvester.datasets.insertion.placement import Inserted, SubVolume, insert_lesions
from harvester.datasets.insertion.subvolume import IgnoredRegion, cut, draw_frame, ignored_regions
from harvester.errors import SettingsError, VolumeError
from harvester.imaging.hounsfield import to_hu
from harvester.records import Mark, Volume
from harvester.store.container import voxel_hash

BOX_PAD_MM: Final = 4.0
"""Boxes are larger than the lesion by this on each side, as DeepLesion's are (5 px of about 0.8 mm)."""

MARK_POWER: Final = 1.5
"""A lesion is marked with a weight of its diameter to this power: large ones more often."""


@dataclass(frozen=True)
class InsertionCase:
    """One sub-volume to be made: opaque id, its background and what that holds, its patient, and the split."""

    volume_id: str
    patient_id: str
    background_id: str
    split: str
    contents: str = ""


def dataset(settings: Settings, source: Path | None) -> Dataset:
    """The sub-volumes of all splits, those of a background side by side: one, which takes seconds to read, is kept."""
    own = settings.data.insertion
    backgrounds = load_backgrounds(own, root_of(source))

    @lru_cache(maxsize=1)
    def prepared(background_id: str) -> Prepared:
        chosen = next(each for each in backgrounds if each.id == background_id)
        return load_background_volume(chosen)

    def load(case: Mapping[str, Any]) -> LoadedVolume:
        wanted = InsertionCase(**case)
        volume, marks, regions = make(own, prepared(wanted.background_id), wanted, settings.seed)
        return LoadedVolume(volume, marks, [asdict(region) for region in regions])

    def discover(_: str) -> Discovery:
        contents = {each.id: each.contents for each in backgrounds}
        planned = sorted(plan(own, backgrounds), key=lambda each: each.background_id)
        return Discovery([replace(case, contents=contents[case.background_id]) for case in planned])

    return Dataset(discover, load)


def scans_of_vm(settings: InsertionSettings, source: Path | None) -> dict[str, str]:
    """voxel_hash: patient_id of the scans that V_M's sub-volumes are cut from; each is read, which takes seconds."""
    listed = load_backgrounds(settings, root_of(source))
    return {
        voxel_hash(read_background(each)): each.patient_id for each in _chosen("vm", settings.vm_backgrounds, listed)
    }


def plan(settings: InsertionSettings, backgrounds: Sequence[Background]) -> list[InsertionCase]:
    """The sub-volumes of all splits, spread evenly over the backgrounds of each; held_out ones are left out.

    A split's backgrounds are those that the settings name, else those of its role. Raises SettingsError where
    they name what is not in the list or held out, VolumeError where a split has no background or a patient is
    in two splits.
    """
    splits = {
        "vm": (settings.vm_volumes, settings.vm_backgrounds),
        "vh_test": (settings.vh_test_volumes, settings.vh_test_backgrounds),
        "vd_test": (settings.vd_test_volumes, settings.vd_test_backgrounds),
    }
    chosen = {split: _chosen(split, ids, backgrounds) for split, (_, ids) in splits.items()}
    for one, other in combinations(splits, 2):
        if both := {each.patient for each in chosen[one]} & {each.patient for each in chosen[other]}:
            raise VolumeError("mixed_splits", f"{len(both)} background patients are in {one} and {other}; want none")
    return [case for split, (count, _) in splits.items() for case in _plan_split(split, count, chosen[split])]


def _chosen(split: str, ids: Sequence[str], backgrounds: Sequence[Background]) -> list[Background]:
    usable = [each for each in backgrounds if each.role != "held_out"]
    known = [each.id for each in usable]
    wrong = sorted(set(ids) - set(known))
    if wrong:
        raise SettingsError(
            f"setting data.insertion.{split}_backgrounds: {', '.join(wrong)}: want ids of backgrounds that are not "
            f"held out: {', '.join(known)}"
        )
    return [each for each in usable if each.id in ids] if ids else [each for each in usable if each.role == split]


def _plan_split(split: str, count: int, backgrounds: Sequence[Background]) -> Iterator[InsertionCase]:
    if count and not backgrounds:
        raise VolumeError(
            "no_background",
            f"no background has role {split}; list at least one, or name some in data.insertion.{split}_backgrounds",
        )
    for index in range(count):
        background = backgrounds[index % len(backgrounds)]
        name = settings_hash("insertion", split, background.id, index)
        yield InsertionCase(f"in-{name}", background.patient_id, background.id, split)


def make(
    settings: InsertionSettings, prepared: Prepared, case: InsertionCase, seed: int
) -> tuple[Volume, list[Mark], list[IgnoredRegion]]:
    """One sub-volume at the scan's own spacing, a mark for every lesion in it, and what must not be scored.

    The same settings, background, case and seed give the same bytes. A sub-volume may have no lesions; where
    it has some, at least one is clinical. Raises VolumeError where the background's clean ranges are too short.
    """
    rng = np.random.default_rng([seed, int(case.volume_id.removeprefix("in-"), 16)])
    frame = draw_frame(settings, prepared, rng)
    hu = cut(settings, prepared, frame, rng)
    ignored = ignored_regions(prepared, frame, case.volume_id)
    target = SubVolume(settings, prepared, frame, hu, ignored, rng)
    insert_lesions(target)
    volume = Volume(case.volume_id, case.patient_id, to_hu(hu), prepared.volume.spacing_zyx_mm)
    clinical = _draw_clinical(settings, [lesion.diameter_mm for lesion in target.inserted], rng)
    marks = [_mark(volume, index, lesion, index in clinical) for index, lesion in enumerate(target.inserted)]
    return volume, marks, ignored


def _mark(volume: Volume, index: int, lesion: Inserted, clinical: bool) -> Mark:
    """The padded box of the lesion on the slice where it is largest."""
    key = int(lesion.voxels.sum(axis=(1, 2)).argmax())
    rows, columns = np.nonzero(lesion.voxels[key])
    z, y, x = lesion.place_zyx
    pad_y, pad_x = (BOX_PAD_MM / size for size in volume.spacing_zyx_mm[1:])
    x1, y1, x2, y2 = (float(end) for end in (x + columns.min(), y + rows.min(), x + columns.max(), y + rows.max()))
    box = clipped((x1 - pad_x, y1 - pad_y, x2 + pad_x, y2 + pad_y), *volume.hu_zyx.shape[1:])
    return Mark(volume.volume_id, f"{volume.volume_id}-{index}", z + key, *box, clinical, lesion.kind)


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
