"""Slice boxes to tubelets: SORT along z, with a constant-velocity Kalman filter per track and Hungarian
assignment.

Works in any frame with inclusive box ends (geometry.py) and integer slices; velocities are per slice. A
track's filter holds (cx, cy, w, h) and their velocities. Its variances are in units of the box's side
squared, so they are the same for all four and no constant below depends on the pixel spacing. Source of the
scheme: SORT (Bewley 2016); the constants are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from harvester.config.models import LinkingSettings
from harvester.errors import LabelError
from harvester.evaluation.matching import join
from harvester.geometry import Array, box_areas, intersections, iou_matrix

MEASUREMENT_STD: Final = 0.1
"""Jitter of a measured box's centre and size, in box sides: a box of 20 px wobbles by 2 px."""
FIRST_VELOCITY_STD: Final = 0.3
"""How far a new track may move in its first slice, in box sides: further, and the IoU would be too low."""
ACCELERATION_STD: Final = 0.05
"""Change of velocity per slice, in box sides: lesions bend and taper slowly against 2 to 5 mm slices."""


@dataclass(frozen=True, eq=False)
class Tubelet:
    """A chain of boxes, at most one per slice.

    z           (k,) int, ascending; gaps are slices without a box
    boxes_xyxy  (k, 4) float, inclusive ends, in the frame of the boxes that were linked
    scores      (k,) float
    """

    z: NDArray[np.int64]
    boxes_xyxy: NDArray[np.float64]
    scores: NDArray[np.float64]

    @property
    def score(self) -> float:
        """The highest slice score."""
        return float(self.scores.max())


def link(z: Array, boxes_xyxy: Array, scores: Array, settings: LinkingSettings) -> list[Tubelet]:
    """Join n boxes (z (n,), boxes_xyxy (n, 4), scores (n,)) to tubelets, best score first, then lowest slice.

    A track ends after more than `max_gap` slices without a box. Measured boxes are kept as they are. Every
    box is in one tubelet, or in none if its track has fewer than `min_length`. No boxes, no tubelets.
    """
    if not (z.shape == scores.shape == boxes_xyxy.shape[:1] and boxes_xyxy.shape[1:] == (4,)):
        shapes = f"{z.shape}, {boxes_xyxy.shape}, {scores.shape}"
        raise LabelError(f"boxes to link: z, boxes and scores have shapes {shapes}; want (n,), (n, 4), (n,)")
    if not len(z):
        return []
    order = np.lexsort((-scores, z))
    z, boxes_xyxy, scores = z[order].astype(np.int64), boxes_xyxy[order].astype(np.float64), scores[order]
    return _tubelets(_track_of(z, boxes_xyxy, settings), z, boxes_xyxy, scores.astype(np.float64), settings)


def trim(tubelet: Tubelet, end_share: float) -> Tubelet:
    """The tubelet without its end slices that score less than `end_share` of its best slice.

    The generator still answers weakly where a lesion has ended; boxes there would teach that nothing is a lesion.
    """
    strong = np.flatnonzero(tubelet.scores >= end_share * tubelet.scores.max())
    kept = slice(strong[0], strong[-1] + 1)
    return Tubelet(tubelet.z[kept], tubelet.boxes_xyxy[kept], tubelet.scores[kept])


def suppress(tubelets: Sequence[Tubelet], iou: float) -> list[Tubelet]:
    """Best score first (ties: as given), without those whose 3D IoU with a kept one is >= `iou`, in (0, 1].

    3D IoU: intersection areas summed over shared slices / (all areas of both - intersections).
    """
    if not tubelets:
        return []
    order = np.argsort([-tubelet.score for tubelet in tubelets], kind="stable")
    ranked = [tubelets[i] for i in order]
    worse, start = _rivals(ranked, iou)
    kept = np.ones(len(ranked), dtype=bool)
    for row in np.flatnonzero(np.diff(start)):
        if kept[row]:
            kept[worse[start[row] : start[row + 1]]] = False
    return [ranked[i] for i in np.flatnonzero(kept)]


class _Tracks:
    """The open tracks, a column each; all states stand at slice `z`.

    state  (11, tracks): cx, cy, w, h; their velocities; variance of position, of position and velocity, of velocity
    """

    def __init__(self) -> None:
        self.z = 0
        self.ids = np.zeros(0, dtype=np.int64)
        self.last_z = np.zeros(0, dtype=np.int64)
        self.state = np.zeros((11, 0))

    def keep(self, those: Array) -> None:
        if not those.all():
            self.ids, self.last_z, self.state = self.ids[those], self.last_z[those], self.state[:, those]

    def predict(self, z: int) -> None:
        """Move every state to slice z."""
        step, self.z = z - self.z, z
        forward, noise = _motion(step)
        self.state = forward @ self.state
        self.state[8:] += noise
        np.maximum(self.state[2:4], 1.0, out=self.state[2:4])

    def update(self, those: Array, centre_size: Array) -> None:
        """Correct the states of `those` by the boxes measured on this slice."""
        state = self.state[:, those]
        moments, variances = state[:8].reshape(2, 4, -1), state[8:]
        gains = variances[:2] / (variances[0] + MEASUREMENT_STD**2)  # of position, of velocity
        moments += gains[:, None] * (centre_size - moments[0])
        variances[2] -= gains[1] * variances[1]
        variances[:2] *= 1 - gains[0]
        self.state[:, those] = state
        self.last_z[those] = self.z

    def open(self, ids: Array, centre_size: Array) -> None:
        """New tracks at rest, from boxes that continue none."""
        new = np.zeros((11, len(ids)))
        new[:4] = centre_size
        new[8], new[10] = MEASUREMENT_STD**2, FIRST_VELOCITY_STD**2
        self.ids = np.concatenate([self.ids, ids])
        self.last_z = np.concatenate([self.last_z, np.full(len(ids), self.z)])
        self.state = np.concatenate([self.state, new], axis=1)


@lru_cache
def _motion(step: int) -> tuple[Array, Array]:
    """What `step` slices at constant velocity do to a state, (11, 11), and what they add to its variances, (3, 1)."""
    forward = np.eye(11)
    forward[:4, 4:8] = step * np.eye(4)
    forward[8:, 8:] = [[1, 2 * step, step**2], [0, 1, step], [0, 0, 1]]
    return forward, ACCELERATION_STD**2 * np.array([[step**3 / 3], [step**2 / 2], [step]])


def _track_of(z: Array, boxes_xyxy: Array, settings: LinkingSettings) -> NDArray[np.int64]:
    """(n,) number of each box's track; boxes ascending in z."""
    track = np.zeros(len(z), dtype=np.int64)
    tracks, opened = _Tracks(), 0
    centre_size = _centre_size(boxes_xyxy)
    slices, starts = np.unique(z, return_index=True)
    ends = [*starts[1:].tolist(), len(z)]
    for level, start, end in zip(slices.tolist(), starts.tolist(), ends, strict=True):
        tracks.keep(level - tracks.last_z - 1 <= settings.max_gap)
        tracks.predict(level)
        known, found = assign(_corners(tracks.state[:4]), boxes_xyxy[start:end], settings.iou_floor)
        track[start + found] = tracks.ids[known]
        new = np.ones(end - start, dtype=bool)
        new[found] = False
        fresh = start + np.flatnonzero(new)
        track[fresh] = np.arange(opened, opened + len(fresh))
        opened += len(fresh)
        tracks.update(known, centre_size[:, start + found])
        tracks.open(track[fresh], centre_size[:, fresh])
    return track


def assign(predicted_xyxy: Array, measured_xyxy: Array, iou_floor: float) -> tuple[Array, Array]:
    """Rows and columns of the one-to-one pairs, each of IoU >= the floor, with the highest summed IoU."""
    if not len(predicted_xyxy) or not len(measured_xyxy):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    iou = iou_matrix(predicted_xyxy, measured_xyxy)
    # A pair below the floor costs as much as no pair (1 - 0), so that it never displaces an allowed one.
    iou[iou < iou_floor] = 0.0
    rows, columns = linear_sum_assignment(1.0 - iou)
    allowed = iou[rows, columns] > 0
    return rows[allowed], columns[allowed]


def _centre_size(boxes_xyxy: Array) -> Array:
    """(n, 4) corners -> (4, n) cx, cy, w, h."""
    low, high = boxes_xyxy.T[:2], boxes_xyxy.T[2:]
    return np.concatenate([(low + high) / 2, high - low + 1])


def _corners(centre_size: Array) -> Array:
    """(4, n) cx, cy, w, h -> (n, 4) corners."""
    half = (centre_size[2:] - 1) / 2
    return np.concatenate([centre_size[:2] - half, centre_size[:2] + half]).T


def _tubelets(track: Array, z: Array, boxes_xyxy: Array, scores: Array, settings: LinkingSettings) -> list[Tubelet]:
    """Boxes (ascending in z) gathered by track, best score first, then lowest slice."""
    order = np.argsort(track, kind="stable")
    z, boxes_xyxy, scores = z[order], boxes_xyxy[order], scores[order]
    _, starts, lengths = np.unique(track[order], return_index=True, return_counts=True)
    ranked = np.lexsort((starts, z[starts], -np.maximum.reduceat(scores, starts)))
    ranked = ranked[lengths[ranked] >= settings.min_length]
    spans = [slice(start, end) for start, end in zip(starts[ranked], (starts + lengths)[ranked], strict=True)]
    return [Tubelet(z[span], boxes_xyxy[span], scores[span]) for span in spans]


def _rivals(ranked: Sequence[Tubelet], iou: float) -> tuple[Array, Array]:
    """Each tubelet's worse-ranked ones whose 3D IoU with it is >= `iou`: CSR (columns, (n + 1,) starts)."""
    count = len(ranked)
    owner = np.repeat(np.arange(count), [len(tubelet.z) for tubelet in ranked])
    boxes = np.concatenate([tubelet.boxes_xyxy for tubelet in ranked])
    z = np.concatenate([tubelet.z for tubelet in ranked])
    by_slice = np.argsort(z, kind="stable")
    a, b = (by_slice[side] for side in join(z[by_slice], z[by_slice]))
    forward = owner[a] < owner[b]
    a, b = a[forward], b[forward]
    area = intersections(boxes[a], boxes[b])
    a, b, area = owner[a[area > 0]], owner[b[area > 0]], area[area > 0]
    pairs, place = np.unique(a * count + b, return_inverse=True)
    shared = np.bincount(place, weights=area, minlength=len(pairs))
    volume = np.bincount(owner, weights=box_areas(boxes), minlength=count)
    better, worse = pairs // count, pairs % count
    close = shared >= iou * (volume[better] + volume[worse] - shared)
    return worse[close], np.searchsorted(better[close], np.arange(count + 1))
