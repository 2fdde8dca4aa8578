"""Real scans as backgrounds for inserted lesions: the list, what is out of bounds, where lesions fit.

The list is a YAML file (configs/backgrounds.yaml). Places are in the `mm` frame of geometry.py on the scan's
own corner: z to the head, y to the back, x to the patient's left.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from scipy import ndimage

from harvester.config.data import InsertionSettings, Section
from harvester.config.fingerprint import settings_hash
from harvester.config.shipped import named
from harvester.config.strict_yaml import parse
from harvester.datasets.discovery import contents_of
from harvester.datasets.insertion.lesion_models import smooth
from harvester.datasets.insertion.tissues import Tissues, find_tissues
from harvester.errors import SettingsError, VolumeError, one_line
from harvester.imaging.dicom.reader import read_dicom_series
from harvester.imaging.nifti.reader import read_nifti
from harvester.imaging.resample import resample
from harvester.records import Volume

Region = tuple[float, float, float, float, float, float]
"""z1, z2, y1, y2, x1, x2 in mm from the scan's outer corner."""

MASK_MARGIN_MM: Final = 10.0
"""An annotated lesion is avoided with this much around it."""

TISSUE_MM: Final = (4.0, 1.6, 1.6)
"""Spacing of the tissue maps: where a lesion may lie need not be known finer, and their search costs by voxel."""

NOISE_TILE_MM: Final = (24.0, 38.0, 38.0)
NOISE_FROM_MM: Final = 5.0
"""Slower variation than this (standard deviation of a Gaussian) is no noise; with less, its grain looks dotted."""

SHORTEST_MM: Final = 60.0
"""Sub-volumes are at least so long where the clean range is, however thin the slices."""

FEWEST_SLICES: Final = 6
"""A clean range of thick slices gives what it holds, but no fewer than these."""


class Background(Section):
    """One entry of the list; `load_backgrounds` makes paths absolute and checks that they exist.

    role      vm and vh_test are used as backgrounds; held_out never is
    clean_mm  z ranges that sub-volumes may be cut from; empty: the whole scan
    mask      NIfTI of the scan's own lesions, avoided and left out of scoring
    avoid_mm  regions of known or suspected disease: nothing is inserted, nothing found there is scored
    """

    id: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    file: Path
    patient: str = Field(min_length=1)
    role: Literal["vm", "vh_test", "held_out"]
    mask: Path | None = None
    clean_mm: tuple[tuple[float, float], ...] = ()
    avoid_mm: tuple[Region, ...] = ()
    why: str = ""

    @property
    def patient_id(self) -> str:
        """An opaque id, the same for all scans of a patient."""
        return "bg-" + settings_hash("background patient", self.patient)

    @property
    def contents(self) -> str:
        """Names all that sub-volumes are made of, wherever it lies: the files as they are now, and the regions."""
        scans = sorted(self.file.iterdir()) if self.file.is_dir() else [self.file]
        regions = self.model_dump(mode="json", include={"clean_mm", "avoid_mm"})
        return settings_hash(regions, contents_of(scans, [self.mask] if self.mask else []))


@dataclass(frozen=True, eq=False)
class Prepared:
    """A background with all that insertion needs; made once, used for many sub-volumes.

    volume      the scan as it is, at its own spacing
    tissues     where lesions fit (tissues.find_tissues), on a grid of TISSUE_MM
    noise       (z, y, x) tile of the scan's own noise in HU, mean 0
    crop_yx     rows and columns of the body in the scan: y1, y2, x1, x2, ends exclusive
    muscle_hu   median of the even soft tissue
    avoid_mm    avoid_mm of the entry and the boxes of its mask
    """

    background: Background
    volume: Volume
    tissues: Tissues
    noise: NDArray[np.float32]
    crop_yx: tuple[int, int, int, int]
    muscle_hu: float
    avoid_mm: tuple[Region, ...]

    def clean_slices(self) -> list[tuple[int, int]]:
        """First slice and end (exclusive) of each clean range; half a slice may reach over its limits."""
        slices, size = len(self.volume.hu_zyx), self.volume.spacing_zyx_mm[0]
        ranges = self.background.clean_mm or ((0.0, slices * size),)
        ends = [(max(0, ceil(low / size - 0.5)), min(slices, floor(high / size + 0.5))) for low, high in ranges]
        return [(first, end) for first, end in ends if first < end]

    def starts_for(self, depth: int) -> list[int]:
        """First slices from which `depth` slices lie inside a clean range; empty where none is so long."""
        starts = {z for first, end in self.clean_slices() for z in range(first, end - depth + 1)}
        return sorted(starts)

    def depths(self, settings: InsertionSettings) -> tuple[int, int]:
        """Fewest and most slices of a sub-volume. Raises VolumeError where the clean ranges hold too few.

        The most is within `settings.depth`, `max_mm` and the longest clean range, and goes before the fewest,
        which is also no shorter than SHORTEST_MM.
        """
        size, longest = self.volume.spacing_zyx_mm[0], max((end - z for z, end in self.clean_slices()), default=0)
        most = min(settings.depth[1], int(settings.max_mm / size), longest)
        if most < min(FEWEST_SLICES, settings.depth[1]):
            raise VolumeError(
                "too_short",
                f"background {self.background.id}: its clean ranges and data.insertion.max_mm leave {most} slices, "
                f"want {FEWEST_SLICES}; widen clean_mm or raise max_mm",
            )
        return min(max(settings.depth[0], ceil(SHORTEST_MM / size)), most), most


def load_backgrounds(settings: InsertionSettings, base_path: Path) -> list[Background]:
    """The list named by `settings.backgrounds`, in its order, files made absolute.

    `base_path` is what $HARVESTER_DATA stands for in `settings.source`. Raises SettingsError where the list
    or a file in it is missing or malformed.
    """
    source = Path(settings.source.replace("$HARVESTER_DATA", str(base_path)))
    try:
        entries = parse(named(Path(settings.backgrounds)).read_text(encoding="utf-8-sig"))
        listed = [Background.model_validate(entry) for entry in entries]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError, TypeError) as error:
        text = one_line(error)
        raise SettingsError(f"setting data.insertion.backgrounds = {settings.backgrounds}: {text}") from None
    return [_located(entry, source) for entry in listed]


def _located(entry: Background, source: Path) -> Background:
    found = {"file": source / entry.file, "mask": source / entry.mask if entry.mask else None}
    for path in found.values():
        if path is not None and not path.exists():
            raise SettingsError(
                f"setting data.insertion.source: background {entry.id} wants {path}, which is not there; "
                "set the source or $HARVESTER_DATA"
            )
    return entry.model_copy(update=found)


def read_background(background: Background) -> Volume:
    """The scan as it is. Raises VolumeError on a bad one."""
    read: Callable[[Path, str, str], Volume] = read_dicom_series if background.file.is_dir() else read_nifti
    return read(background.file, background.id, background.patient_id)


def load_background_volume(background: Background) -> Prepared:
    """Read and search one background; takes a few seconds. Raises VolumeError on a bad scan."""
    native = read_background(background)
    boxes = _mask_boxes(background) if background.mask else ()
    return prepare(background, native, boxes)


def prepare(background: Background, volume: Volume, lesions_mm: tuple[Region, ...] = ()) -> Prepared:
    """All that insertion needs of a scan; `lesions_mm` are regions to avoid besides those of the entry."""
    coarse = resample(volume, TISSUE_MM)
    tissues = find_tissues(coarse.hu_zyx, coarse.spacing_zyx_mm)
    return Prepared(
        background=background,
        volume=volume,
        tissues=tissues,
        noise=_noise_tile(volume, tissues),
        crop_yx=_body_crop(tissues, volume),
        muscle_hu=_muscle(coarse.hu_zyx, tissues.organ_room_mm),
        avoid_mm=background.avoid_mm + lesions_mm,
    )


def _mask_boxes(background: Background) -> tuple[Region, ...]:
    """One region per connected lesion of the mask, with MASK_MARGIN_MM around it."""
    mask = read_nifti(Path(str(background.mask)), background.id, background.patient_id)
    labels, _ = ndimage.label(mask.hu_zyx > 0, np.ones((3, 3, 3)))
    regions: list[Region] = []
    for place in ndimage.find_objects(labels):
        sides = zip(place, mask.spacing_zyx_mm, strict=True)
        z, y, x = ((p.start * size - MASK_MARGIN_MM, p.stop * size + MASK_MARGIN_MM) for p, size in sides)
        regions.append((*z, *y, *x))
    return tuple(regions)


def _noise_tile(volume: Volume, tissues: Tissues) -> NDArray[np.float32]:
    """The scan's noise in the middle of its largest even tissue; white noise of 12 HU where it has none."""
    room, spacing = tissues.organ_room_mm, volume.spacing_zyx_mm
    within = (NOISE_TILE_MM[0], *np.clip(1.6 * room.max(), 10, NOISE_TILE_MM[1:]))
    sides = np.maximum(2, np.rint(np.divide(within, spacing))).astype(int)
    middle = np.unravel_index(int(room.argmax()), room.shape)
    if room[middle] <= 0:
        return np.random.default_rng(0).normal(0, 12, sides).astype(np.float32)
    middle_px = (np.add(middle, 0.5) * tissues.spacing_zyx_mm / spacing).astype(int)
    z, y, x = (
        slice(max(0, at - side // 2), max(0, at - side // 2) + side) for at, side in zip(middle_px, sides, strict=True)
    )
    wide = volume.hu_zyx[z]
    residual = (wide - smooth(wide, spacing, NOISE_FROM_MM))[:, y, x]
    limit = 3 * max(float(np.median(np.abs(residual))) * 1.48, 1.0)
    return np.asarray(np.clip(residual - residual.mean(), -limit, limit), dtype=np.float32)


def _muscle(hu_zyx: NDArray[np.int16], organ_room_mm: NDArray[Any]) -> float:
    """Median of the even soft tissue, no brighter than enhanced muscle; 50 HU where there is none."""
    values = hu_zyx[organ_room_mm > 0]
    return min(float(np.median(values)), 75.0) if len(values) else 50.0


def _body_crop(tissues: Tissues, volume: Volume) -> tuple[int, int, int, int]:
    """Bounds of the body over all slices with 10 mm around it, inside the scan."""
    ends: list[int] = []
    for axis in (1, 2):
        seen = np.flatnonzero(tissues.body.any(axis=tuple({0, 1, 2} - {axis})))
        coarse, own, count = tissues.spacing_zyx_mm[axis], volume.spacing_zyx_mm[axis], volume.hu_zyx.shape[axis]
        low, high = (seen[0] * coarse, (seen[-1] + 1) * coarse) if len(seen) else (0.0, count * own)
        ends += [max(0, round((low - 10) / own)), min(count, round((high + 10) / own))]
    return ends[0], ends[1], ends[2], ends[3]
