"""Boxes on slices of a grid: the form in which every kind of label comes."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from harvester.geometry import Array


@dataclass(frozen=True, eq=False)
class SliceBoxes:
    """n boxes, each on one slice.

    z           (n,) int slice indices; a slice may occur more than once
    boxes_xyxy  (n, 4) in grid pixels, inclusive ends
    weight      (n,) how much each teaches, 0 to 1; None: all of them fully
    """

    z: Array
    boxes_xyxy: Array
    weight: Array | None = None

    @classmethod
    def of(cls, placed: Iterable[tuple[int, Array]] = (), weight: Array | None = None) -> "SliceBoxes":
        """From (slice, box) pairs; none give arrays of shapes (0,) and (0, 4)."""
        pairs = list(placed)
        z = np.array([z for z, _ in pairs], np.int64)
        return cls(z, np.array([box for _, box in pairs], np.float64).reshape(-1, 4), weight)

    @property
    def weights(self) -> Array:
        """(n,) float64: the weight, 1 where none is given."""
        return np.ones(len(self)) if self.weight is None else self.weight

    def __len__(self) -> int:
        return len(self.z)

    def __iter__(self) -> Iterator[tuple[int, Array]]:
        """(slice, box) pairs."""
        return zip(self.z.tolist(), self.boxes_xyxy, strict=True)

    def between(self, z_start: int, depth: int) -> "SliceBoxes":
        """Those on slices [z_start, z_start + depth), counted from z_start."""
        inside = (self.z >= z_start) & (self.z < z_start + depth)
        return SliceBoxes(self.z[inside] - z_start, self.boxes_xyxy[inside], self.weights[inside])

    def moved(self, move: Callable[[Array], Array]) -> "SliceBoxes":
        """The same slices, the boxes (n, 4) through `move`."""
        return SliceBoxes(self.z, move(self.boxes_xyxy), self.weight)

    def joined(self, *others: "SliceBoxes") -> "SliceBoxes":
        """These, then the others."""
        every = (self, *others)
        weights = np.concatenate([part.weights for part in every])
        return SliceBoxes.of((pair for part in every for pair in part), weights)
