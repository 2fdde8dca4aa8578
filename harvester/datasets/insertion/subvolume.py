"""Cutting a sub-volume from a background: where it lies, its pixels, its regions that are out of bounds."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from harvester.config.data import InsertionSettings
from harvester.datasets.insertion.backgrounds import Prepared
from harvester.imaging.hounsfield import AIR_HU
from harvester.imaging.interpolation import Taps, interpolate_in_plane

EMPTY_HU: Final = -1000
"""No noise is added to what is this empty: many archives blank the surroundings of the body."""

NOISE_BLUR_MM: Final = 0.7
"""Standard deviation of the Gaussian that gives added noise the grain of a soft to medium kernel."""


@dataclass(frozen=True)
class IgnoredRegion:
    """A box of a volume in which nothing is scored: slices z1 to z2 and pixels, all ends inclusive."""

    volume_id: str
    z1: int
    z2: int
    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True)
class Frame:
    """How a sub-volume lies in its background: pixel = (background pixel - centre) * scale + middle."""

    z_start: int
    depth: int
    scale: float
    centre_yx: tuple[float, float]
    middle_yx: tuple[float, float]
    shape_yx: tuple[int, int]

    def to_background(self, place: tuple[slice, ...]) -> list[NDArray[np.float64]]:
        """The background's slices, rows and columns at those of a block of the sub-volume."""
        z, y, x = (np.arange(side.start, side.stop, dtype=np.float64) for side in place)
        (my, mx), (cy, cx) = self.middle_yx, self.centre_yx
        return [z + self.z_start, (y - my) / self.scale + cy, (x - mx) / self.scale + cx]

    def to_frame(self, points_zyx: NDArray[np.floating]) -> NDArray[np.float64]:
        """(n, 3) background voxels as voxels of the sub-volume."""
        moved = np.array(points_zyx, dtype=np.float64)
        moved[:, 0] -= self.z_start
        moved[:, 1:] = (moved[:, 1:] - self.centre_yx) * self.scale + self.middle_yx
        return moved


def draw_frame(settings: InsertionSettings, prepared: Prepared, rng: np.random.Generator) -> Frame:
    """A random length, clean range, scale and shift. Raises VolumeError where no clean range is long enough."""
    fewest, most = prepared.depths(settings)
    depth = int(rng.integers(fewest, most + 1))
    y1, y2, x1, x2 = prepared.crop_yx
    shift = rng.uniform(-1, 1, 2) * settings.shift_mm / prepared.volume.spacing_zyx_mm[1:]
    return Frame(
        z_start=int(rng.choice(prepared.starts_for(depth))),
        depth=depth,
        scale=float(rng.uniform(1 - settings.scale_jitter, 1 + settings.scale_jitter)),
        centre_yx=((y1 + y2 - 1) / 2, (x1 + x2 - 1) / 2),
        middle_yx=((y2 - y1 - 1) / 2 + float(shift[0]), (x2 - x1 - 1) / 2 + float(shift[1])),
        shape_yx=(y2 - y1, x2 - x1),
    )


def cut(settings: InsertionSettings, prepared: Prepared, frame: Frame, rng: np.random.Generator) -> NDArray[np.float32]:
    """The sub-volume's HU with a little more noise; outside the background's crop it is AIR_HU."""
    y1, y2, x1, x2 = prepared.crop_yx
    own = prepared.volume.hu_zyx[frame.z_start : frame.z_start + frame.depth, y1:y2, x1:x2].astype(np.float32)
    _, rows, columns = frame.to_background((slice(0, 1), *(slice(0, side) for side in frame.shape_yx)))
    rows, columns = rows - y1, columns - x1
    hu: NDArray[np.float32] = interpolate_in_plane(own, Taps.at(rows, y2 - y1), Taps.at(columns, x2 - x1))
    hu[:, (rows < 0) | (rows > y2 - y1 - 1)] = AIR_HU
    hu[:, :, (columns < 0) | (columns > x2 - x1 - 1)] = AIR_HU
    sigma = [NOISE_BLUR_MM / size for size in prepared.volume.spacing_zyx_mm[1:]]
    white = ndimage.gaussian_filter(rng.standard_normal(hu.shape, dtype=np.float32), (0, *sigma), truncate=3)
    added = rng.uniform(0, settings.noise_jitter) * prepared.noise.std()
    white *= np.float32(added / white[0].std())
    np.add(hu, white, out=hu, where=hu > EMPTY_HU)
    return hu


def ignored_regions(prepared: Prepared, frame: Frame, volume_id: str) -> list[IgnoredRegion]:
    """The avoided regions of the background that reach into the sub-volume, clipped to it."""
    spacing = np.array(prepared.volume.spacing_zyx_mm)
    height, width = frame.shape_yx
    regions: list[IgnoredRegion] = []
    for ends_mm in prepared.avoid_mm:
        # Ends are edges in mm and become inclusive voxels: a voxel counts if any of it is inside.
        low, high = frame.to_frame(np.reshape(ends_mm, (3, 2)).T / spacing - 0.5)
        first = np.maximum(np.floor(low + 0.5), 0)
        last = np.minimum(np.ceil(high - 0.5), (frame.depth - 1, height - 1, width - 1))
        if (first <= last).all():
            (z_low, y_low, x_low), (z_high, y_high, x_high) = first.tolist(), last.tolist()
            regions.append(IgnoredRegion(volume_id, int(z_low), int(z_high), x_low, y_low, x_high, y_high))
    return regions
