"""Strata of marks: by size, or by any column of the marks.

A mark of another stratum is neither found nor false: detections that hit only such marks are left out. Volumes
all count in each stratum, so that its false positives per volume are those of the whole.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harvester.errors import SettingsError
from harvester.evaluation.inputs.annotations import SPACINGS
from harvester.evaluation.matching import Floats, Integers, Overlaps, numbers

SIZES: Final = {"mm": (10.0, 30.0), "px": (20.0, 40.0)}
"""Where size changes its stratum; both belong to the middle one. In mm as the DeepLesion literature cuts; in pixels
at about its lower and upper fifth of the longer side of boxes padded by 5 px."""
MOST: Final = 30
"""Strata of one column; with more, the column is a number or an id and needs bins first."""


@dataclass(frozen=True, eq=False)
class Strata:
    """m marks in named strata: `of_mark` (m,) int64 places in `labels`; unit is "" or that of a size."""

    name: str
    unit: str
    labels: tuple[str, ...]
    of_mark: Integers


def strata(marks: pa.Table, by: str) -> Strata:
    """Strata by `size` or by the column `by`; every stratum has a mark. Raises SettingsError for other columns."""
    return _by_size(marks) if by == "size" else _by_column(marks, by)


def longer_sides(marks: pa.Table) -> tuple[Floats, str]:
    """(m,) longer in-plane side of each box, ends inclusive, and its unit: mm where the spacing is known, else px."""
    width, height = (numbers(marks[f"{axis}2"]) - numbers(marks[f"{axis}1"]) + 1 for axis in "xy")
    if not set(SPACINGS) <= set(marks.column_names):
        return np.maximum(width, height), "px"
    spacing_x_mm, spacing_y_mm = (numbers(marks[name].cast(pa.float64())) for name in SPACINGS)
    wrong = np.flatnonzero(~((spacing_x_mm > 0) & (spacing_y_mm > 0)))
    if len(wrong):
        raise SettingsError(
            f"--by size: {len(wrong)} marks have no spacing, the first is row {wrong[0] + 1}; "
            f"fill {', '.join(SPACINGS)} or leave both columns out (sizes are then in pixels)"
        )
    return np.maximum(width * spacing_x_mm, height * spacing_y_mm), "mm"


def _by_size(marks: pa.Table) -> Strata:
    side, unit = longer_sides(marks)
    low, high = SIZES[unit]
    labels = (f"< {low:g} {unit}", f"{low:g} to {high:g} {unit}", f"> {high:g} {unit}")
    used, of_mark = np.unique((side >= low).astype(np.int64) + (side > high), return_inverse=True)
    return Strata("size", unit, tuple(labels[code] for code in used), of_mark.astype(np.int64))


def _by_column(marks: pa.Table, by: str) -> Strata:
    if by not in marks.column_names:
        others = ", ".join(name for name in marks.column_names if name not in ("volume_id", "mark_id"))
        raise SettingsError(f"--by {by}: the marks have no such column; want size or one of {others}")
    words = ["(none)" if word is None else word or "(empty)" for word in marks[by].cast(pa.string()).to_pylist()]
    labels, of_mark = np.unique(np.array(words), return_inverse=True)
    if len(labels) > MOST:
        raise SettingsError(f"--by {by}: {len(labels)} values make {len(labels)} strata; want at most {MOST}: bin them")
    return Strata(by, "", tuple(labels.tolist()), of_mark.astype(np.int64))


def within(
    found: Overlaps, marks: NDArray[np.bool_], num_detections: int, threshold: float
) -> tuple[Overlaps, Integers]:
    """Overlaps with the `marks` (m,) bool of one stratum, and the rows of the detections that stay, (k,) ascending.

    Detections that reach `threshold` on other marks alone go. Rows of the answer count the kept detections and
    the stratum's marks from 0.
    """
    enough, inside = found.iou >= threshold, marks[found.mark]
    stays = np.ones(num_detections, dtype=bool)
    stays[found.tubelet[enough]] = False
    stays[found.tubelet[enough & inside]] = True
    pairs = np.flatnonzero(inside & stays[found.tubelet])
    new_row, new_mark = np.cumsum(stays) - 1, np.cumsum(marks) - 1
    kept = Overlaps(new_row[found.tubelet[pairs]], new_mark[found.mark[pairs]], found.iou[pairs])
    return kept, np.flatnonzero(stays)
