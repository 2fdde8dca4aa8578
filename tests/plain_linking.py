"""Linking as a textbook has it: one 8 x 8 Kalman filter a track, loops over tracks and boxes. Slow; no numbers shared
with harvester.linking but its three constants. And a volume to link: lesions through many slices among strays."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from harvester.config.models import LinkingSettings
from harvester.proposals.linking import ACCELERATION_STD, FIRST_VELOCITY_STD, MEASUREMENT_STD

SEEN = np.eye(4, 8)
"""What of a state (cx, cy, w, h and their velocities) a box shows."""


@dataclass
class Track:
    """Its boxes so far, as indices, and the filter at slice z."""

    z: int
    state: Any
    covariance: Any
    boxes: list[int] = field(default_factory=list)
    last_z: int = 0

    def move(self, z: int) -> None:
        step, self.z = z - self.z, z
        forward = np.eye(8) + step * np.eye(8, k=4)
        noise = np.kron([[step**3 / 3, step**2 / 2], [step**2 / 2, step]], np.eye(4)) * ACCELERATION_STD**2
        self.state = forward @ self.state
        self.state[2:4] = np.maximum(self.state[2:4], 1)
        self.covariance = forward @ self.covariance @ forward.T + noise

    def see(self, index: int, measured: Any) -> None:
        uncertain = SEEN @ self.covariance @ SEEN.T + MEASUREMENT_STD**2 * np.eye(4)
        gain = self.covariance @ SEEN.T @ np.linalg.inv(uncertain)
        self.state = self.state + gain @ (measured - SEEN @ self.state)
        self.covariance = (np.eye(8) - gain @ SEEN) @ self.covariance
        self.boxes.append(index)
        self.last_z = self.z


def plain_link(z: Any, boxes_xyxy: Any, settings: LinkingSettings) -> set[frozenset[int]]:
    """The boxes of every tubelet, as indices."""
    done: list[Track] = []
    tracks: list[Track] = []
    for level in sorted(set(z.tolist())):
        done += [track for track in tracks if level - track.last_z - 1 > settings.max_gap]
        tracks = [track for track in tracks if level - track.last_z - 1 <= settings.max_gap]
        for track in tracks:
            track.move(level)
        here = [index for index in range(len(z)) if z[index] == level]
        gain = np.array([[_iou(_box(track.state), boxes_xyxy[index]) for index in here] for track in tracks])
        gain = np.where(gain >= settings.iou_floor, gain, 0).reshape(len(tracks), len(here))
        rows, columns = linear_sum_assignment(-gain)
        taken = set()
        for row, column in zip(rows, columns, strict=True):
            if gain[row, column] > 0:
                tracks[row].see(here[column], _centre_size(boxes_xyxy[here[column]]))
                taken.add(here[column])
        tracks += [_born(level, index, boxes_xyxy[index]) for index in here if index not in taken]
    return {frozenset(track.boxes) for track in done + tracks if len(track.boxes) >= settings.min_length}


def full_volume(boxes: int, slices: int, seed: int) -> tuple[Any, Any, Any]:
    """z (boxes,), boxes_xyxy (boxes, 4), scores (boxes,): three of five lie in lesions of 5 to 25 slices."""
    rng = np.random.default_rng(seed)
    z, found = [], []
    while len(z) < 0.6 * boxes:
        depth = int(rng.integers(5, 26))
        first, centre, radius = rng.integers(slices - depth), rng.uniform(40, 470, 2), rng.uniform(4, 20)
        for k in range(depth):
            centre = centre + rng.normal(0, 0.5, 2)
            half = radius * (1 - abs(k - depth / 2) / depth) + rng.normal(0, 0.3)
            z.append(int(first) + k)
            found.append([*(centre - half), *(centre + half)])
    while len(z) < boxes:
        centre, half = rng.uniform(40, 470, 2), rng.uniform(4, 12)
        z.append(int(rng.integers(slices)))
        found.append([*(centre - half), *(centre + half)])
    return np.array(z[:boxes]), np.array(found[:boxes]), rng.random(boxes)


def _born(z: int, index: int, box: Any) -> Track:
    covariance = np.diag([MEASUREMENT_STD**2] * 4 + [FIRST_VELOCITY_STD**2] * 4)
    return Track(z, np.concatenate([_centre_size(box), np.zeros(4)]), covariance, [index], z)


def _centre_size(box: Any) -> Any:
    x1, y1, x2, y2 = box
    return np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1 + 1, y2 - y1 + 1])


def _box(state: Any) -> list[float]:
    cx, cy, w, h = state[:4]
    return [cx - (w - 1) / 2, cy - (h - 1) / 2, cx + (w - 1) / 2, cy + (h - 1) / 2]


def _iou(a: Any, b: Any) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b))
    return float(width * height / (areas - width * height))
