"""COCO: one image per slice that has boxes, one box per lesion and slice, one track_id per lesion over its slices.

COCO's boxes are [x, y, width, height] from the outer edge of the first pixel, so that an inclusive box of one pixel
has width 1; `segmentation` is the box as a polygon, for tools that want one. Beside COCO's fields an image has
`volume_id`, `slice` and `turn`, an annotation `track_id`, `label_id`, where it comes from (selection.ORIGIN), `found`
(slice and bbox as exported) and `review`, which is empty: a reviewer puts accepted, rejected or moved there, and
harvester review reads it back.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from harvester.export.selection import ORIGIN, LabelledVolume, Row
from harvester.imaging.slice_map import SliceMap
from harvester.labels.deeplesion.volume_ids import split_id
from harvester.records import Role, boxes_of

FILE: Final = "annotations.json"
CATEGORIES: Final[dict[str, int]] = {Role.LESION: 1, Role.HARD_NEGATIVE: 2}


def write(volumes: Iterable[LabelledVolume], folder: Path, made_by: Row) -> None:
    """Write annotations.json; `made_by` becomes its `info`."""
    (folder / FILE).write_text(json.dumps(build(volumes, made_by), allow_nan=False) + "\n", encoding="utf-8")


def build(volumes: Iterable[LabelledVolume], made_by: Row) -> dict[str, Any]:
    """The file's tree. Images and annotations are empty without labels."""
    images: list[Row] = []
    annotations: list[Row] = []
    tracks = 0
    for each in volumes:
        slices = each.grid.axial()
        places: dict[int, int] = {}
        for label in each.labels:
            tracks += 1
            for k, (i1, j1, i2, j2) in slices.file_boxes(boxes_of(label)):
                if k not in places:
                    places[k] = len(images) + 1
                    images.append(_image(each.volume, slices, k, places[k]))
                bbox = [i1, j1, i2 - i1 + 1, j2 - j1 + 1]
                number = len(annotations) + 1
                annotations.append(_annotation(label, number, places[k], tracks, k, bbox))
    return {
        "info": {"description": "machine-made labels, not verified", **made_by},
        "licenses": [],
        "categories": [{"id": number, "name": name} for name, number in CATEGORIES.items()],
        "images": images,
        "annotations": annotations,
    }


def _image(volume: Row, slices: SliceMap, k: int, number: int) -> Row:
    return {
        "id": number,
        "file_name": _file(volume["volume_id"], k),
        "width": slices.shape[0],
        "height": slices.shape[1],
        **{name: volume[name] for name in ("volume_id", "patient_id", "split")},
        "slice": k,
        "turn": slices.text(),
    }


def _file(volume_id: str, k: int) -> str:
    """DeepLesion's own PNG, below Images_png; of other archives no such file exists: the id and the slice."""
    named = split_id(volume_id)
    return f"{named.folder}/{named.start + k:03d}.png" if named else f"{volume_id}/{k:04d}.png"


def _annotation(label: Row, number: int, image: int, track: int, k: int, bbox: list[float]) -> Row:
    x, y, width, height = bbox
    return {
        "id": number,
        "image_id": image,
        "category_id": CATEGORIES[label["role"]],
        "bbox": bbox,
        "segmentation": [[x, y, x + width, y, x + width, y + height, x, y + height]],
        "area": width * height,
        "iscrowd": 0,
        "track_id": track,
        **{name: label[name] for name in ("label_id", *ORIGIN)},
        "found": [k, *bbox],
        "review": "",
    }
