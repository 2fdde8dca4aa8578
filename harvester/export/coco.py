"""COCO: an image a slice that has boxes, a box a slice, one track_id a lesion over its slices.

COCO's boxes are [x, y, width, height] from the outer edge of the first pixel, so that an inclusive box of one pixel
has width 1. Beside COCO's fields an image has `volume_id`, `slice` and `turn`, an annotation `track_id`, `label_id`,
where it comes from (labels.ORIGIN), `found` (slice and bbox as exported) and `review`, which is empty: a reviewer
puts accepted, rejected or moved there, and harvester review reads it back.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from harvester.export.file_grid import turn_text
from harvester.export.selection import ORIGIN, Case, Row, boxes
from harvester.imaging.orientation import Turn

FILE: Final = "annotations.json"
CATEGORIES: Final = {"lesion": 1, "hard_negative": 2}


def write(cases: Iterable[Case], folder: Path, made_by: Row) -> None:
    """Write annotations.json; `made_by` becomes its `info`."""
    tree = build(cases, made_by)
    (folder / FILE).write_text(json.dumps(tree, allow_nan=False) + "\n", encoding="utf-8")


def build(cases: Iterable[Case], made_by: Row) -> dict[str, Any]:
    """The file's tree. Images and annotations are empty without labels."""
    images: list[Row] = []
    annotations: list[Row] = []
    tracks = 0
    for case in cases:
        turn = case.grid.axial().turn
        places: dict[int, int] = {}
        for label in case.labels:
            tracks += 1
            for z, box in boxes(label):
                k, i1, j1, i2, j2 = turn.file_box(z, box)
                if k not in places:
                    places[k] = len(images) + 1
                    images.append(_image(case, turn, k, places[k]))
                bbox = [i1, j1, i2 - i1 + 1, j2 - j1 + 1]
                number = len(annotations) + 1
                annotations.append(_annotation(label, number, places[k], tracks, k, bbox))
    categories = [{"id": number, "name": name} for name, number in CATEGORIES.items()]
    return {
        "info": {"description": "machine-made labels, not verified", **made_by},
        "licenses": [],
        "categories": categories,
        "images": images,
        "annotations": annotations,
    }


def _image(case: Case, turn: Turn, k: int, number: int) -> Row:
    volume = case.volume
    return {
        "id": number,
        "file_name": f"{volume['volume_id']}/{k:04d}.png",
        "width": turn.shape[0],
        "height": turn.shape[1],
        **{name: volume[name] for name in ("volume_id", "patient_id", "split")},
        "slice": k,
        "turn": turn_text(turn),
    }


def _annotation(label: Row, number: int, image: int, track: int, k: int, bbox: list[float]) -> Row:
    return {
        "id": number,
        "image_id": image,
        "category_id": CATEGORIES[label["role"]],
        "bbox": bbox,
        "area": bbox[2] * bbox[3],
        "iscrowd": 0,
        "track_id": track,
        "label_id": label["label_id"],
        **{name: label[name] for name in ORIGIN},
        "found": [k, *bbox],
        "review": "",
    }
