"""Which tubelet lies on which mark: worked out once, scored by every metric.

The visit by descending score (`hits`) is the same for tubelets and for the 3D boxes of boxes3d.py.

The overlap of a tubelet with a mark is their P3D IoU: the 2D IoU (inclusive ends) of the mark with the
tubelet's box on the mark's slice, 0 if the tubelet has no box there. Source: the evaluator published with
Lesion Harvester.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from harvester.errors import LabelError, SettingsError
from harvester.geometry import Array, box_areas, intersections, paired_iou
from harvester.records import SIDES, Column

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Overlaps:
    """Every pair that overlaps, sorted by tubelet row, then mark row.

    tubelet  (k,) int64 rows of the tubelets table
    mark     (k,) int64 rows of the marks table
    iou      (k,) float64 in (0, 1]: P3D IoU, of two tubelets their 3D IoU, the chosen metric for 3D boxes (boxes3d.py)
    """

    tubelet: NDArray[np.int64]
    mark: NDArray[np.int64]
    iou: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Hits:
    """What each of n tubelets hits when they are visited by descending score (ties: by row).

    scores       (n,) float64 as given
    order        (n,) int64 rows in the order of the visit
    correct      (n,) bool: hits at least one mark that none before it hit
    new_hits     (n,) int64: marks it is the first to hit
    repeat_hits  (n,) int64: marks it hits that were hit before
    mark_hit_by  (num_marks,) int64: row of the tubelet that hit the mark first, -1 if none
    """

    scores: NDArray[np.float64]
    order: NDArray[np.int64]
    correct: NDArray[np.bool_]
    new_hits: NDArray[np.int64]
    repeat_hits: NDArray[np.int64]
    mark_hit_by: NDArray[np.int64]


def overlaps(tubelets: pa.Table, marks: pa.Table) -> Overlaps:
    """Pairs of a tubelet (records.TUBELETS) and a mark (records.MARKS) with P3D IoU > 0; none without rows.

    A tubelet has at most one box per slice. Volumes known to one table only have no pairs.
    """
    volume_ids = pc.unique(marks["volume_id"])
    mark_slice = _slice_key(codes(marks["volume_id"], volume_ids), numbers(marks["z"]))
    by_slice = np.argsort(mark_slice, kind="stable")
    tubelet, box_slice, box = _boxes(tubelets, volume_ids)
    pair, place = join(box_slice, mark_slice[by_slice])
    mark = by_slice[place]
    iou = paired_iou(_corners(tubelets, box[pair]), _corners(marks, mark))
    return in_order(tubelet[pair], mark, iou)


def tubelet_overlaps(tubelets: pa.Table, others: pa.Table) -> Overlaps:
    """Pairs of two tubelets (records.TUBELETS) of one volume with 3D IoU > 0; `mark` is the row of the other one.

    3D IoU: intersection areas summed over shared slices / (all areas of both - intersections), as in linking.suppress.
    """
    volume_ids = pc.unique(others["volume_id"])
    (mine, my_slice, my_box), (other, slices, box) = (_boxes(table, volume_ids) for table in (tubelets, others))
    by_slice = np.argsort(slices, kind="stable")
    pair, place = join(my_slice, slices[by_slice])
    at = by_slice[place]
    shared = intersections(_corners(tubelets, my_box[pair]), _corners(others, box[at]))
    pairs, inverse = np.unique(mine[pair] * len(others) + other[at], return_inverse=True)
    common = np.bincount(inverse, shared, len(pairs))
    rows, columns = np.divmod(pairs, max(len(others), 1))
    return in_order(rows, columns, common / (_areas(tubelets)[rows] + _areas(others)[columns] - common))


def hits(found: Overlaps, scores: Floats, num_marks: int, threshold: float = 0.5) -> Hits:
    """Visit n tubelets by descending score, ties by row; a mark is hit at an overlap >= `threshold`, in (0, 1].

    scores (n,) one per row of the tubelets table; without tubelets every array is empty and no mark is hit.
    """
    if not 0 < threshold <= 1:
        raise SettingsError(f"match_iou = {threshold}: want an overlap in (0, 1]")
    order, rank = ranking(scores)
    enough = found.iou >= threshold
    tubelet, mark = found.tubelet[enough], found.mark[enough]
    visited = np.argsort(rank[tubelet], kind="stable")
    tubelet, mark = tubelet[visited], mark[visited]
    marks_hit, first_pair = np.unique(mark, return_index=True)
    first = np.full(num_marks, -1, dtype=np.int64)
    first[marks_hit] = tubelet[first_pair]
    new = np.bincount(tubelet[first_pair], minlength=len(order))
    repeat = np.bincount(tubelet, minlength=len(order)) - new
    return Hits(np.asarray(scores, dtype=np.float64), order, new > 0, new, repeat, first)


def ranking(scores: Floats) -> tuple[Integers, Integers]:
    """(n,) rows by descending score, ties by row, and (n,) place of each row in that order."""
    unordered = int(np.isnan(scores).sum())
    if unordered:
        raise LabelError(f"{unordered} of {len(scores)} scores are not a number; a tubelet needs a score to be ranked")
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return order, rank


def in_order(tubelet: Integers, mark: Integers, iou: Floats) -> Overlaps:
    """The pairs that touch (overlap > 0), sorted as Overlaps wants them."""
    touching = np.flatnonzero(iou > 0)
    order = touching[np.lexsort((mark[touching], tubelet[touching]))]
    return Overlaps(tubelet[order], mark[order], iou[order])


def _boxes(tubelets: pa.Table, volume_ids: Column) -> tuple[Integers, Integers, Integers]:
    """Boxes in volumes that have marks: their tubelet's row, slice key and place in the flattened columns."""
    volume = codes(tubelets["volume_id"], volume_ids)
    lengths = list_lengths(tubelets["z"])
    row = np.repeat(np.arange(len(lengths)), lengths)
    box = np.flatnonzero(np.repeat(volume >= 0, lengths))
    row = row[box]
    return row, _slice_key(volume[row], _flat(tubelets["z"])[box]), box


def join(keys: Integers, sorted_keys: Integers) -> tuple[Integers, Integers]:
    """All pairs (i, j) with keys[i] == sorted_keys[j] as two (k,) arrays, i ascending; none without keys."""
    values, start, size = np.unique(sorted_keys, return_index=True, return_counts=True)
    if not len(values):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    value = np.minimum(np.searchsorted(values, keys), len(values) - 1)
    known = np.flatnonzero(values[value] == keys)
    count, start = size[value[known]], start[value[known]]
    # The run start .. start + count of each key, laid end to end.
    place = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count - start, count)
    return np.repeat(known, count), place


def _slice_key(volume: Integers, z: Array) -> Integers:
    """One int64 per (volume, slice)."""
    return (volume << 32) + z


def codes(column: Column, volume_ids: Column) -> Integers:
    """(n,) place of each id in `volume_ids`, -1 where it is not there."""
    return numbers(pc.index_in(column, value_set=volume_ids).fill_null(-1)).astype(np.int64)


def _areas(tubelets: pa.Table) -> Floats:
    """(n,) area of all boxes of each tubelet."""
    lengths = list_lengths(tubelets["z"])
    row = np.repeat(np.arange(len(lengths)), lengths)
    areas: Floats = box_areas(_corners(tubelets, np.arange(len(row))))
    return np.bincount(row, areas, len(lengths)).astype(np.float64)


def _corners(table: pa.Table, rows: Integers) -> Floats:
    """(k, 4) float64 boxes at `rows` of the side columns, flattened where they are lists."""
    return np.stack([_flat(table[side])[rows] for side in SIDES], axis=-1).astype(np.float64)


def _flat(column: Column) -> Array:
    return numbers(pc.list_flatten(column) if pa.types.is_list(column.type) else column)


def list_lengths(column: Column) -> Integers:
    """(n,) values in each list of a column, -1 where it has none."""
    return numbers(pc.list_value_length(column).fill_null(-1)).astype(np.int64)


def numbers(column: Column) -> Array:
    """An Arrow column of numbers as numpy's."""
    return column.to_numpy(zero_copy_only=False)
