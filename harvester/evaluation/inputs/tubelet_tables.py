"""Tubelets in the two layouts they come in, turned into the one that `matching.overlaps` reads.

The answer is a table with volume_id and lists z, x1, y1, x2, y2, one row per tubelet, and (n,) float64 scores.
"""

from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.errors import LabelError
from harvester.evaluation.inputs.read_table import Ids, floats, ids, integers, names, require
from harvester.evaluation.inputs.validate import refuse_boxes, refuse_duplicates, refuse_rows
from harvester.evaluation.matching import Floats, Integers, list_lengths, numbers
from harvester.geometry import Array
from harvester.records import SIDES, Column

Ranked = tuple[pa.Table, Floats]
IN_PLANE: Final = (("x1", "x2"), ("y1", "y2"))
LAYOUTS: Final = (
    "one row per slice (volume_id, tubelet_id, z, x1, y1, x2, y2, score) "
    "or one row per tubelet (volume_id, lists z, x1, y1, x2, y2, slice_score)"
)


def from_slices(table: pa.Table, volume: Ids, score: str | None, file: Path) -> Ranked:
    """Tubelets of a table with one row per slice, in the order of their first rows; `score`: of the slice."""
    require(table, ("tubelet_id", score or "score"), file, LAYOUTS)
    sides = {side: floats(table[side], side, file) for side in SIDES}
    z = integers(table["z"], "z", file)
    slice_score = floats(table[score or "score"], score or "score", file)
    rows = table.select(["volume_id", "tubelet_id", "z", *SIDES])
    refuse_boxes(IN_PLANE, sides, rows, file)
    refuse_rows(np.isnan(slice_score), rows, "no score", file)
    key = _tubelet_keys(volume, table["tubelet_id"], file)
    if not _stands_together(key, z):
        # Tubelets keep the order of their first rows.
        _, first, group = np.unique(key, return_index=True, return_inverse=True)
        order = np.lexsort((z, first[group]))
        _refuse_repeated_slices(key, z, order, rows, file)
        volume, key, z, slice_score = volume.take(order), key[order], z[order], slice_score[order]
        sides = {side: values[order] for side, values in sides.items()}
    start = _starts(key)
    best = np.maximum.reduceat(slice_score, start) if len(start) else slice_score
    return _listed(volume.take(start), np.append(start, len(z)), z, sides), best.astype(np.float64)


def from_lists(table: pa.Table, volume: Ids, score: str | None, file: Path) -> Ranked:
    """Tubelets of a table with one row per tubelet, in its order; score: the named column, else the best slice's."""
    lengths = _lengths(table, file)
    row = np.repeat(np.arange(len(table)), lengths)
    known = [name for name in ("volume_id", "tubelet_id", "lesion_id") if name in table.column_names]
    flat: dict[str, Column] = {name: pc.list_flatten(table[name]) for name in ("z", *SIDES)}
    rows = pa.table({name: table[name].take(row) for name in known} | flat)
    sides = {side: floats(flat[side], side, file) for side in SIDES}
    z = integers(flat["z"], "z", file)
    refuse_boxes(IN_PLANE, sides, rows, file)
    order = np.lexsort((z, row))
    _refuse_repeated_slices(row, z, order, rows, file)
    if len(known) > 1:
        refuse_duplicates(table.select(known[:2]), file)
    scores = _list_scores(table, lengths, score, file)
    return _listed(volume, np.append(0, np.cumsum(lengths)), z, sides), scores


def _listed(volume: Ids, ends: Integers, z: Integers, sides: dict[str, Array]) -> pa.Table:
    """n tubelets whose boxes lie one after another, cut at the n + 1 `ends`."""
    flat = {"z": z.astype(np.int32)} | sides
    cuts = pa.array(ends, pa.int32())
    lists = {name: pa.ListArray.from_arrays(cuts, pa.array(values)) for name, values in flat.items()}
    return pa.table({"volume_id": names(volume), **lists})


def _tubelet_keys(volume: Ids, tubelet_id: Column, file: Path) -> Integers:
    """(rows,) int64, one value per tubelet of a volume."""
    if tubelet_id.null_count:
        raise LabelError(f"{file.name}: {tubelet_id.null_count} rows have no tubelet_id")
    whole = pa.types.is_integer(tubelet_id.type)
    number = numbers(tubelet_id if whole else ids(tubelet_id, "tubelet_id", file).indices).astype(np.int64)
    if not len(number):
        return number
    low, span = int(number.min()), int(number.max()) - int(number.min()) + 1
    place = numbers(volume.indices).astype(np.int64)
    if span * (int(place.max()) + 1) >= 2**62:  # ids that are hashes: count them instead
        _, number = np.unique(number, return_inverse=True)
        low, span = 0, len(number)
    return place * span + (number - low)


def _starts(key: Integers) -> Integers:
    """(n,) places at which another tubelet begins."""
    return np.flatnonzero(np.append(True, key[1:] != key[:-1])[: len(key)])


def _stands_together(key: Integers, z: Integers) -> bool:
    """Whether each tubelet's slices already follow each other, z ascending: most files, and nothing to sort."""
    same_tubelet = key[1:] == key[:-1]
    if np.any(same_tubelet & (z[1:] <= z[:-1])):
        return False
    begun = np.sort(key[_starts(key)], kind="stable")
    return not np.any(begun[1:] == begun[:-1])


def _refuse_repeated_slices(key: Integers, z: Integers, order: Integers, rows: pa.Table, file: Path) -> None:
    """`order` puts the slices of each tubelet (`key`) side by side, z ascending."""
    again = (np.diff(key[order]) == 0) & (np.diff(z[order]) == 0)
    wrong = np.zeros(len(order), dtype=bool)
    wrong[order[1:][again]] = True
    refuse_rows(wrong, rows, "a slice that its tubelet already has", file, "a tubelet has one box per slice")


def _lengths(table: pa.Table, file: Path) -> Integers:
    """(n,) slices of each tubelet, at least one, the same in every list."""
    rows = table.select([name for name in ("volume_id", "tubelet_id") if name in table.column_names])
    columns = [name for name in ("z", *SIDES, "slice_score") if name in table.column_names]
    counts = [list_lengths(table[name]) for name in columns]
    refuse_rows(counts[0] < 1, rows, "no slice", file)
    for count in counts[1:]:
        refuse_rows(count != counts[0], rows, "lists of different lengths", file)
    return counts[0]


def _list_scores(table: pa.Table, lengths: Integers, score: str | None, file: Path) -> Floats:
    """(n,) the named column, else the highest slice score, else the column `score`."""
    if score is None and "slice_score" in table.column_names:
        values = floats(pc.list_flatten(table["slice_score"]), "slice_score", file)
        starts = np.cumsum(lengths) - lengths
        scores = np.maximum.reduceat(values, starts) if len(starts) else values
    else:
        require(table, (score or "score",), file, "slice_score or a score column")
        scores = floats(table[score or "score"], score or "score", file)
    refuse_rows(np.isnan(scores), table.select(["volume_id"]), "no score", file)
    return scores.astype(np.float64)
