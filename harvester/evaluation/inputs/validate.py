"""Refusals: tables with rows at fault end in one error that names the first few, never in a silent number."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harvester.errors import LabelError
from harvester.geometry import Array

logger = logging.getLogger(__name__)

NAMED: Final = 3
"""How many of the rows or ids at fault an error names."""


def refuse_rows(wrong: NDArray[np.bool_], rows: pa.Table, fault: str, file: Path, wanted: str = "") -> None:
    """Raise LabelError if any of the n `rows` is `wrong` (n,): the fault and the first few with their values."""
    places = np.flatnonzero(wrong)
    if not len(places):
        return
    first = rows.take(places[:NAMED]).to_pylist()
    named = "; ".join(f"row {row + 1} ({_words(values)})" for row, values in zip(places, first, strict=False))
    more = ", ..." if len(places) > NAMED else ""
    where = "1 row" if len(places) == 1 else f"{len(places)} rows"
    raise LabelError(f"{file.name}: {fault} in {where}: {named}{more}{wanted and '; ' + wanted}")


def refuse_boxes(lows_highs: Sequence[tuple[str, str]], columns: dict[str, Array], rows: pa.Table, file: Path) -> None:
    """Raise LabelError where a box has an end that is no finite number, or a high end below its low end."""
    wrong = np.zeros(len(rows), dtype=bool)
    for names in lows_highs:
        for name in names:
            wrong |= ~np.isfinite(columns[name])
    refuse_rows(wrong, rows, "a box end that is no finite number", file)
    for low, high in lows_highs:
        refuse_rows(columns[high] < columns[low], rows, f"{high} < {low}", file, "ends are inclusive, low first")


def refuse_duplicates(rows: pa.Table, file: Path) -> None:
    """Raise LabelError where two rows are equal in every column."""
    refuse_rows(repeats(rows), rows, "a repeat of an earlier row", file, "each may appear once")


def warn_of_duplicates(rows: pa.Table, file: Path) -> None:
    """A warning there: a published test set holds some marks twice, and its evaluator counts each."""
    if count := int(repeats(rows).sum()):
        logger.warning("%s: %d rows repeat earlier ones; each counts as a lesion of its own", file.name, count)


def repeats(rows: pa.Table) -> Array:
    """(n,) bool: which rows are equal to an earlier one in every column."""
    names = rows.column_names
    coded = [name for name in names if pa.types.is_dictionary(rows[name].type)]  # which cannot be grouped by
    plain = pa.table({name: rows[name].cast(pa.string()) if name in coded else rows[name] for name in names})
    if plain.group_by(names, use_threads=False).aggregate([]).num_rows == len(plain):
        return np.zeros(len(plain), dtype=bool)
    numbered = plain.append_column("row", pa.array(np.arange(len(plain))))
    firsts = numbered.group_by(names, use_threads=False).aggregate([("row", "min")])["row_min"].to_numpy()
    wrong = np.ones(len(plain), dtype=bool)
    wrong[firsts] = False
    return wrong


def first_few(names: Sequence[str]) -> str:
    """The first few names and, if there are more, three dots."""
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def _words(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {'missing' if value is None else value}" for name, value in values.items())
