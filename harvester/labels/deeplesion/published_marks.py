"""The marks published with Lesion Harvester: pickles, read through an allow-list (safe_pickle.py).

    marks      Revised-*, RECIST-Box-*: {volume_id: {z: [[x1, y1, x2, y2, z, z], ...]}}
    tubelets   MinedLesions, HardNegatives (published_tubelets.py): a mark is a tubelet's best-scored box

Ids come with and without ".annot" and with "_" or "-" before the range: volume_ids.plain_id makes them one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from harvester.errors import LabelError
from harvester.labels.deeplesion.published_tubelets import holds_boxes3d, numbers, read_rows, tubelet_rows
from harvester.labels.deeplesion.safe_pickle import plain
from harvester.records import MARKS, SIDES, MarkTable


@dataclass(frozen=True)
class PublishedMarks:
    """One file of marks: every volume it annotates, those without a mark too, and its marks.

    The marks of a pickle have clinical=False and kind "": pickles do not say which marks are the archive's own.
    A table (mark_tables.py) may, and then `knows_clinical` is True.
    """

    volume_ids: tuple[str, ...]
    marks: MarkTable
    knows_clinical: bool = False


def read_published(file: Path) -> PublishedMarks:
    """Read a published pickle of marks or tubelets; rows in the file's order. Boxes have inclusive pixel ends.

    Raises LabelError where the file is missing, cut short, names a foreign global or has another layout.
    """
    volume_ids, rows = read_rows(file, _rows)
    return PublishedMarks(volume_ids, MarkTable(pa.Table.from_pylist(rows, MARKS)))


def _rows(volume_id: str, held: object, name: str) -> Iterator[dict[str, Any]]:
    boxes = _slice_boxes(volume_id, held, name) if isinstance(held, dict) else _best(volume_id, held, name)
    for index, (z, box) in enumerate(boxes):
        mark = {"volume_id": volume_id, "mark_id": f"{volume_id}-{index}", "z": z, "clinical": False, "kind": ""}
        yield mark | dict(zip(SIDES, map(float, box[:4]), strict=True))


def _slice_boxes(volume_id: str, slices: dict[Any, Any], name: str) -> Iterator[tuple[int, list[float]]]:
    for z, boxes in slices.items():
        inner = plain(boxes)  # a list of lists or arrays, or one array
        for row in inner if isinstance(inner, list) else [inner]:
            box = plain(row)
            _check(z, box, f"{name}: volume {volume_id}")
            yield z, box


def _best(volume_id: str, held: object, name: str) -> Iterator[tuple[int, list[float]]]:
    """Slice and box of each tubelet where it scores highest, the first of equals."""
    if holds_boxes3d(held) or not isinstance(held, list | tuple):
        raise LabelError(
            f"{name}: volume {volume_id!r} holds a {type(held).__name__} of no marks; want {{z: boxes}} or tubelets "
            "(3D boxes are for --boxes3d)"
        )
    for row in tubelet_rows(volume_id, held, name):
        best = row["slice_score"].index(max(row["slice_score"]))
        yield row["z"][best], [row[side][best] for side in SIDES]


def _check(z: Any, box: Any, where: str) -> None:
    if not numbers(box, 6) or type(z) is not int or z < 0:
        raise LabelError(f"{where}: slice {z!r} holds {box!r}; want [x1, y1, x2, y2, z, z] on a slice from 0")
    x1, y1, x2, y2, z_first, z_last = box
    if not (x1 <= x2 and y1 <= y2 and z_first == z_last == z):
        raise LabelError(f"{where}: slice {z}: box {box} has ends out of order or lies on another slice")
