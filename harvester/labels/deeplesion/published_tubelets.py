"""Published files that hold tubelets or 3D boxes (published_marks.py reads those that hold marks).

    tubelets   MinedLesions, HardNegatives: {volume_id: [[(z, [x1, y1, x2, y2, score]), ...], ...]}
    3D boxes   3D-Box: {volume_id: [[x1, y1, x2, y2, z1, z2], ...]}

Slices count from the sub-volume's first, boxes have inclusive pixel ends. 3D boxes are not padded; of those on one
slice z, some go from z - 0.5 to z + 0.5, at the first and last slice beyond the sub-volume.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from harvester.errors import LabelError
from harvester.labels.deeplesion.safe_pickle import load_numbers, plain
from harvester.labels.deeplesion.volume_ids import plain_id
from harvester.records import SIDES, schema_of

Row = dict[str, Any]
RowsOf = Callable[[str, object, str], Iterator[Row]]
"""Rows of a volume, by its id, what the file holds of it, and the file's name."""
TUBELETS: Final = schema_of(
    ("volume_id", pa.string()),
    ("tubelet_id", pa.int32()),
    ("z", pa.list_(pa.int32())),
    *[(name, pa.list_(pa.float64())) for name in (*SIDES, "slice_score")],
)
"""One row per tubelet, z ascending; ids count from 0 in each volume."""
SIDES_3D: Final = ("x1", "y1", "z1", "x2", "y2", "z2")
BOXES_3D: Final = schema_of(("volume_id", pa.string()), *[(name, pa.float64()) for name in SIDES_3D])
"""One row per 3D box."""


@dataclass(frozen=True)
class Published:
    """One published file: every volume it names, those with nothing in them too, and its rows."""

    volume_ids: tuple[str, ...]
    table: pa.Table


def read_published_tubelets(file: Path) -> Published:
    """The tubelets (TUBELETS) of a file like MinedLesions or HardNegatives, in its order.

    Raises LabelError where the file cannot be read or has another layout, or a tubelet has two boxes on a slice.
    """
    volume_ids, rows = read_rows(file, tubelet_rows)
    return Published(volume_ids, pa.Table.from_pylist(rows, TUBELETS))


def read_published_boxes3d(file: Path) -> Published:
    """The 3D boxes (BOXES_3D) of a file like 3D-Box. Raises LabelError: unreadable, or another layout."""
    volume_ids, rows = read_rows(file, _box_rows)
    return Published(volume_ids, pa.Table.from_pylist(rows, BOXES_3D))


def holds_boxes3d(held: object) -> bool:
    """Whether what a file holds of a volume looks like 3D boxes: a list of lists of six numbers."""
    boxes = plain(held)
    return isinstance(boxes, list) and any(numbers(plain(box), 6) for box in boxes)


def numbers(values: object, count: int) -> bool:
    """Whether this is a list or tuple of so many plain, finite numbers."""
    if not isinstance(values, list | tuple) or len(values) != count:
        return False
    return all(type(value) in (int, float) and math.isfinite(value) for value in values)


def tubelet_rows(volume_id: str, held: object, name: str) -> Iterator[Row]:
    """A row (TUBELETS) for each tubelet of a volume. Raises LabelError."""
    if not isinstance(held, list | tuple):
        raise LabelError(f"{name}: volume {volume_id} holds a {type(held).__name__}; want a list of tubelets")
    for index, tubelet in enumerate(held):
        where = f"{name}: volume {volume_id}: tubelet {index}"
        if not isinstance(tubelet, list | tuple) or not tubelet:
            raise LabelError(f"{where} is no list of (z, [x1, y1, x2, y2, score]) with at least one slice")
        slices = sorted(_slice(place, where) for place in tubelet)
        z, boxes = [at for at, _ in slices], np.array([box for _, box in slices])
        if len(set(z)) < len(z):
            raise LabelError(f"{where} has two boxes on one slice; want one")
        columns = dict(zip((*SIDES, "slice_score"), boxes.T.tolist(), strict=True))
        yield {"volume_id": volume_id, "tubelet_id": index, "z": z, **columns}


def _slice(place: object, where: str) -> tuple[int, list[float]]:
    """Slice, and box with score."""
    if not isinstance(place, list | tuple) or len(place) != 2:
        raise LabelError(f"{where} holds {place!r}; want (z, [x1, y1, x2, y2, score])")
    z, box = place[0], plain(place[1])
    if not numbers([z], 1) or z < 0 or z != int(z) or not numbers(box, 5):
        raise LabelError(f"{where} holds {(z, box)!r}; want a slice from 0 and [x1, y1, x2, y2, score], finite numbers")
    if not (box[0] <= box[2] and box[1] <= box[3]):
        raise LabelError(f"{where}: slice {z}: box {box[:4]} has ends out of order; want low first")
    return int(z), [float(value) for value in box]


def _box_rows(volume_id: str, held: object, name: str) -> Iterator[Row]:
    boxes = plain(held)
    if not isinstance(boxes, list | tuple):
        raise LabelError(f"{name}: volume {volume_id} holds a {type(held).__name__}; want a list of 3D boxes")
    for index, each in enumerate(boxes):
        box = plain(each)
        if not numbers(box, 6) or not (box[0] <= box[2] and box[1] <= box[3] and box[4] <= box[5]):
            raise LabelError(
                f"{name}: volume {volume_id}: box {index} is {box!r}; want [x1, y1, x2, y2, z1, z2], low ends first"
            )
        yield {"volume_id": volume_id, **dict(zip((*SIDES, "z1", "z2"), map(float, box), strict=True))}


def read_rows(file: Path, rows_of: RowsOf) -> tuple[tuple[str, ...], list[Row]]:
    """The plain ids of the file's volumes and `rows_of` them, in the file's order; none for an empty dictionary.

    Raises LabelError where the file is missing, cut short, names a foreign global, is no dictionary of volumes, or
    has a volume twice (with and without .annot, say).
    """
    tree = load_numbers(file)
    if not isinstance(tree, dict):
        raise LabelError(f"{file.name}: want {{volume_id: {{z: boxes}}}}, got a {type(tree).__name__}")
    volumes: dict[str, Any] = {}
    for volume_id, held in tree.items():
        if not isinstance(volume_id, str):
            raise LabelError(f"{file.name}: volume {volume_id!r} holds a {type(held).__name__}; want text as its id")
        if plain_id(volume_id) in volumes:
            raise LabelError(f"{file.name}: has volume {plain_id(volume_id)} twice; want each once")
        volumes[plain_id(volume_id)] = held
    return tuple(volumes), [row for name, held in volumes.items() for row in rows_of(name, held, file.name)]
