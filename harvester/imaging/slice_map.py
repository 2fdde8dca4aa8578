"""Boxes between a file's own slices and the stored volume, there and back, whatever import did to the slices.

The slices of a file lie in an even, upright grid, which its Orientation turns to the stored order. Of NIfTI files, and
of most series, they are the grid's slices. A tilted series' slices were moved in their own plane, an uneven one's
missing slices were made between their neighbours: a box on a made slice goes to the nearest slice of the file, one on
a moved slice back by its shift.
"""

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from typing import Final

from harvester.errors import LabelError
from harvester.imaging.orientation import Orientation
from harvester.records import Box, Placed

STEPS: Final = re.compile(r"(-?\d{1,6}(?:\.\d{1,3})?)(?:\*(\d{1,6}))?")
TEXT: Final = re.compile(
    r"([+-])([012])([+-])([012])([+-])([012]) (\d{1,6})x(\d{1,6})x(\d{1,6})"
    r"(?: (\d{1,6})x(\d{1,6}) ([\d.,*]+) ([-\d,*]+) ([-\d,*]+))?"
)
MOST_SLICES: Final = 1 << 16
"""Of a file that a text may claim."""


@dataclass(frozen=True)
class SliceMap:
    """Where the n slices of a file, (columns, rows) each, lie in the grid that is stored.

    orientation  how the grid's (i, j, k) became the stored (x, y, z)
    size_px      columns and rows of the file's slices; the grid's are more where slices are moved
    places       (n) ascending, in slices of the grid: whole numbers but for uneven series
    shift_ij     (n, 2) columns and rows by which each slice is moved
    """

    orientation: Orientation
    size_px: tuple[int, int]
    places: tuple[float, ...]
    shift_ij: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, orientation: Orientation) -> "SliceMap":
        """Of a file whose slices are the grid's."""
        columns, rows, depth = orientation.shape
        return cls(orientation, (columns, rows), tuple(map(float, range(depth))), ((0, 0),) * depth)

    @classmethod
    def stored(cls, width: int, height: int, depth: int) -> "SliceMap":
        """The stored order itself, as a file's."""
        return cls.of(Orientation((0, 1, 2), (False, False, False), (width, height, depth)))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows and slices of the file, in which marks are given."""
        return (*self.size_px, len(self.places))

    def box(self, k: int, box_ij: Box) -> tuple[int, float, float, float, float]:
        """(z, x1, y1, x2, y2) of the inclusive box (i1, j1, i2, j2) on slice k of the file.

        Raises VolumeError, not_axial, as Orientation.box does.
        """
        (i, j), (i1, j1, i2, j2) = self.shift_ij[k], box_ij
        return self.orientation.box(round(self.places[k]), (i1 + i, j1 + j, i2 + i, j2 + j))

    def file_boxes(self, placed: Sequence[Placed]) -> list[Placed]:
        """(k, (i1, j1, i2, j2)) on the file's slices, one each, of (z, (x1, y1, x2, y2)) on stored ones.

        Where several stored slices come from one of the file, the box of the one that lies closest to it is taken: a
        made slice speaks only where the file's own has no box. Raises VolumeError, not_axial.
        """
        found: dict[int, tuple[float, Box]] = {}
        for z, box in placed:
            k, i1, j1, i2, j2 = self.orientation.file_box(z, box)
            n = self._nearest(k)
            (i, j), off = self.shift_ij[n], abs(self.places[n] - k)
            if n not in found or off < found[n][0]:
                found[n] = off, (i1 - i, j1 - j, i2 - i, j2 - j)
        return [(n, box) for n, (_, box) in found.items()]

    def stored_boxes(self, k: int, box_ij: Box) -> list[Placed]:
        """(z, box) on every stored slice that `file_boxes` sends to slice k of the file, its own first.

        Raises VolumeError, not_axial.
        """
        own, (z, x1, y1, x2, y2) = round(self.places[k]), self.box(k, box_ij)
        around = self.places[max(0, k - 1) : k + 2]
        between = range(round(around[0]), round(around[-1]) + 1)
        made = [at for at in between if at != own and self._nearest(at) == k]
        up = -1 if self.orientation.flips[2] else 1
        return [(z + up * (at - own), (x1, y1, x2, y2)) for at in (own, *made)]

    def _nearest(self, k: int) -> int:
        """The file's slice that lies closest to the grid's slice k, the lower of equals."""
        above = bisect_left(self.places, k)
        beside = [n for n in (above - 1, above) if 0 <= n < len(self.places)]
        return min(beside, key=lambda n: abs(self.places[n] - k))

    def text(self) -> str:
        """Itself in one cell of a table: the grid's axis of stored x, y and z with its sign, and the grid's shape.

        Of tilted and uneven series then a slice's sides, and places and both shifts, each as the steps from slice to
        slice from 0 on: `2,1*3` for 2, 3, 4, 5.
        """
        turned = zip(self.orientation.axes, self.orientation.flips, strict=True)
        axes = "".join(f"{'-' if flip else '+'}{axis}" for axis, flip in turned)
        words = [axes, "x".join(map(str, self.orientation.shape))]
        if self != SliceMap.of(self.orientation):
            words += ["x".join(map(str, self.size_px)), _steps(self.places)]
            words += [_steps(shift) for shift in zip(*self.shift_ij, strict=True)]
        return " ".join(words)

    @classmethod
    def of_text(cls, text: str) -> "SliceMap":
        """What `text` wrote. Raises LabelError."""
        found = TEXT.fullmatch(text.strip())
        if not found or sorted(found.group(2, 4, 6)) != ["0", "1", "2"] or int(found.group(9)) > MOST_SLICES:
            raise _not_as_exported()
        a, b, c, i, j, depth = (int(found.group(at)) for at in (2, 4, 6, 7, 8, 9))
        signs = [found.group(at) == "-" for at in (1, 3, 5)]
        orientation = Orientation((a, b, c), (signs[0], signs[1], signs[2]), (i, j, depth))
        if not found.group(10):
            return cls.of(orientation)
        places, columns, rows = (_values(found.group(at)) for at in (12, 13, 14))
        if not len(places) == len(columns) == len(rows) or places != sorted(places) or places[-1] >= depth:
            raise _not_as_exported()
        shifts = zip(map(int, columns), map(int, rows), strict=True)
        return cls(orientation, (int(found.group(10)), int(found.group(11))), tuple(places), tuple(shifts))


def _steps(values: Sequence[float]) -> str:
    """Steps in thousandths, so that no error adds up."""
    thousandths = [round(1000 * value) for value in values]
    steps = [b - a for a, b in pairwise([0, *thousandths])]
    runs = [(step, len(list(run))) for step, run in groupby(steps)]
    return ",".join(f"{step / 1000:g}" + (f"*{count}" if count > 1 else "") for step, count in runs)


def _values(text: str) -> list[float]:
    found = [STEPS.fullmatch(run) for run in text.split(",")]
    runs = [(round(1000 * float(run.group(1))), int(run.group(2) or 1)) for run in found if run]
    if not all(found) or sum(count for _, count in runs) > MOST_SLICES:
        raise _not_as_exported()
    return [value / 1000 for value in accumulate(step for step, count in runs for _ in range(count))]


def _not_as_exported() -> LabelError:
    return LabelError("`turn` is not as it was exported; want such as +0+1+2 512x512x64")
