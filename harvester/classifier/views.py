"""What the classifier looks at: squares in a volume's own pixels, several views of a tubelet, each at two scales.

Axial views are spread evenly from MARGIN_MM below the tubelet to MARGIN_MM above it: where a lesion has ended and a
vessel goes on. A coronal and a sagittal view (reformats) go through its centre. The local stream sees a square about
the box, the global stream its surroundings; squares are so in mm. A view shows a plane with a parallel on both sides.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from harvester.config.models import ClassifierSettings
from harvester.geometry import Array
from harvester.records import SIDES
from harvester.store.slab import GridFrame

MARGIN_MM: Final = 8.0
PLANE_MM: Final = 2.0
"""How far apart a view's planes are; axial ones at least a slice."""
VOXELS_PER_SAMPLE: Final = 1.5
"""How far samples of a pixel may be apart, in voxels: linear interpolation takes in its neighbours anyway."""
MOST_SUBSAMPLES: Final = 3
DESCRIPTORS: Final = 6
STREAMS: Final = ("local", "global")
AXIAL: Final = np.eye(3)
"""Directions of a view as (z, y, x): to the next parallel, from its top to its bottom, from its left to its right."""
CORONAL: Final = AXIAL[[1, 0, 2]]
SAGITTAL: Final = AXIAL[[2, 0, 1]]


@dataclass(frozen=True)
class Tubelet:
    """A tubelet in its volume's pixels: its slices (ascending), boxes (inclusive ends) and scores on them."""

    z: Array
    boxes_xyxy: Array
    scores: Array

    @classmethod
    def of(cls, row: dict[str, Any]) -> "Tubelet":
        """From a row of records.TUBELETS."""
        z, first = np.unique(np.array(row["z"]), return_index=True)
        boxes = np.array([row[side] for side in SIDES], np.float64).T
        return cls(z, boxes[first], np.array(row["slice_score"], np.float64)[first])


@dataclass(frozen=True)
class Pose:
    """How an example's views are varied.

    shift_xy    by which shares of a box's sides
    scale       of the local square
    turn_zyx    (3, 3): what becomes of directions (z, y, x); z stays upright
    """

    shift_xy: tuple[float, float]
    scale: float
    turn_zyx: Array

    @classmethod
    def turned(
        cls,
        angle: float,
        mirrors_zyx: Sequence[float] | Array,
        shift_xy: tuple[float, float] = (0.0, 0.0),
        scale: float = 1.0,
    ) -> "Pose":
        """Turned about z by an angle (radians), what is mirrored (-1, else 1) along each axis before."""
        sine, cosine = np.sin(angle), np.cos(angle)
        turn = np.array([[1.0, 0.0, 0.0], [0.0, cosine, -sine], [0.0, sine, cosine]])
        return cls(shift_xy, scale, turn * np.asarray(mirrors_zyx))

    def of_profile(self, profile: Array) -> Array:
        """Shape profiles (..., DESCRIPTORS) so: upside down a first slice's score is the last one's."""
        return profile[..., PROFILE_UPSIDE_DOWN] if self.turn_zyx[0, 0] < 0 else profile


PROFILE_UPSIDE_DOWN: Final = [0, 1, 2, 3, 5, 4]
STILL: Final = Pose((0.0, 0.0), 1.0, np.eye(3))
POSES: Final = (STILL, Pose.turned(0.0, (1, 1, -1)), Pose.turned(np.pi, (-1, 1, 1)), Pose.turned(np.pi / 2, (1, 1, 1)))
"""How a tubelet is looked at, one after another (settings.classifier.poses): as it lies, mirrored left to right, turned
by 180 degrees and upside down, turned by 90."""


@dataclass(frozen=True)
class Squares:
    """m squares of a volume, in fractional indices of its voxels (z, y, x).

    centres_zyx (m, 3)
    axes_zyx    (m, 3, 3): from the centre to the next parallel, from the top edge to the bottom one, from the left edge
                to the right one. Of the first two one is along z, the others have no part along it.
    """

    centres_zyx: Array
    axes_zyx: Array

    def __len__(self) -> int:
        return len(self.centres_zyx)

    def __getitem__(self, some: Any) -> "Squares":
        return Squares(self.centres_zyx[some], self.axes_zyx[some])

    @classmethod
    def joined(cls, parts: Sequence["Squares"]) -> "Squares":
        """One after another."""
        return cls(
            np.concatenate([part.centres_zyx for part in parts]), np.concatenate([part.axes_zyx for part in parts])
        )

    def after(self, slices: int) -> "Squares":
        """The same, counted from a later slice."""
        return replace(self, centres_zyx=self.centres_zyx - (slices, 0, 0))

    def on_grid(self, frame: GridFrame) -> "Squares":
        """The same in fractional indices of the generator's grid."""
        ratios = np.array(frame.ratios_zyx)
        return Squares((self.centres_zyx + 0.5) / ratios - 0.5, self.axes_zyx / ratios)

    @property
    def axial(self) -> Array:
        """Which of them lie in a slice; the others stand upright."""
        return np.asarray(self.axes_zyx[:, 0, 0] != 0)

    def subsamples(self, side: int) -> Array:
        """(m, 2): of how many samples down and across a crop of `side` pixels is the mean, so that nothing aliases."""
        voxels = np.linalg.norm(self.axes_zyx[:, 1:], axis=-1) / side
        return np.asarray(np.clip(np.ceil(voxels / VOXELS_PER_SAMPLE - 1e-6), 1, MOST_SUBSAMPLES), np.int64)


def view_squares(
    tubelet: Tubelet, frame: GridFrame, settings: ClassifierSettings, pose: Pose = STILL
) -> dict[str, Squares]:
    """What each stream sees of a tubelet, view by view: `views` axial ones, then the reformats."""
    spacing = np.array(frame.spacing_px_zyx_mm)
    z, boxes = view_places(tubelet, settings.views, MARGIN_MM / spacing[0], frame.shape_px_zyx[0])
    gaps, directions = [max(spacing[0], PLANE_MM)] * len(z), [AXIAL] * len(z)
    longest = _sides_mm(boxes, spacing).max(-1)
    if settings.reformats:
        best = tubelet.boxes_xyxy[[tubelet.scores.argmax()] * 2]
        length = (tubelet.z[-1] - tubelet.z[0] + 1) * spacing[0]
        longest = np.append(longest, np.maximum(_sides_mm(best, spacing).max(-1), length))
        z = np.append(z, [(tubelet.z[0] + tubelet.z[-1]) / 2] * 2)
        boxes = np.concatenate([boxes, best])
        gaps, directions = [*gaps, PLANE_MM, PLANE_MM], [*directions, CORONAL, SAGITTAL]
    local = np.maximum(settings.local_scale * longest, settings.local_mm_min) * pose.scale
    centres = _centres(z, boxes, pose)
    turned = np.stack(directions) @ pose.turn_zyx.T / spacing
    return {
        name: Squares(centres, turned * np.stack([gaps, sides, sides], axis=1)[..., None])
        for name, sides in zip(STREAMS, (local, np.full(len(z), settings.global_mm)), strict=True)
    }


def view_places(tubelet: Tubelet, views: int, margin: float, depth: int) -> tuple[Array, Array]:
    """Slices (views,) and boxes (views, 4) to look at; a box beyond an end is the end's. `margin` counts slices."""
    middle, reach = (tubelet.z[0] + tubelet.z[-1]) / 2, (tubelet.z[-1] - tubelet.z[0]) / 2 + margin
    spread = np.linspace(-1, 1, views) if views > 1 else np.zeros(1)
    wanted = np.rint(middle + reach * spread).astype(np.int64)
    nearest = np.abs(wanted[:, None] - tubelet.z).argmin(1)
    return np.clip(wanted, 0, depth - 1), tubelet.boxes_xyxy[nearest]


def _sides_mm(boxes_xyxy: Array, spacing_zyx_mm: Array) -> Array:
    return np.asarray((boxes_xyxy[:, 2:] - boxes_xyxy[:, :2] + 1) * spacing_zyx_mm[[2, 1]])


def _centres(z: Array, boxes_xyxy: Array, pose: Pose) -> Array:
    sides = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2] + 1
    x, y = ((boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2 + sides * np.array(pose.shift_xy)).T
    return np.stack([z, y, x], axis=1)


def slices_needed(streams: Sequence[Squares], depth: int) -> tuple[int, int]:
    """From the first slice that squares show to behind the last one, within the volume."""
    ends = []
    for squares in streams:
        # Of the parallel and of half the side that goes up, whichever is along z.
        reach = np.abs(squares.axes_zyx[:, 0, 0]) + np.abs(squares.axes_zyx[:, 1, 0]) / 2
        z = squares.centres_zyx[:, 0]
        ends.append(np.clip([(z - reach).min(), (z + reach).max()], 0, depth - 1))
    low, high = np.stack(ends).min(0)[0], np.stack(ends).max(0)[1]
    return int(np.floor(low)), int(np.ceil(high)) + 1


def pixels(name: str, settings: ClassifierSettings) -> int:
    """Side of a stream's crops."""
    return settings.local_px if name == "local" else settings.global_px


def shape_profile(tubelets: Sequence[Tubelet], frame: GridFrame) -> Array:
    """(n, DESCRIPTORS) float32: what the crops can't show.

    log2 of the widest side over 16 mm; log2 of the length along z over that side; the generator's logit at its
    highest, on average, and on both end slices. A lesion is about as long as it is wide and fades at its ends; a
    vessel that runs through the slices is many times longer and does not.
    """
    spacing = np.array(frame.spacing_px_zyx_mm)
    width_mm = np.array([_sides_mm(each.boxes_xyxy, spacing).max() for each in tubelets])
    length_mm = np.array([each.z[-1] - each.z[0] + 1 for each in tubelets]) * spacing[0]
    logits = [np.log(p / (1 - p)) for p in (np.clip(each.scores, 1e-4, 1 - 1e-4) for each in tubelets)]
    along = np.array([(own.max(), own.mean(), own[0], own[-1]) for own in logits])
    shape = np.stack([np.log2(width_mm / 16), np.log2(length_mm / width_mm)], axis=1)
    return np.concatenate([shape, along], axis=1).astype(np.float32)
