"""Marks of somebody's archive as COCO: marks.json or annotations.json in its root.

images        `id`, `file_name` (a scan's path in the archive) and the slice, counted from 0 along the file's third
              axis: a field `slice`, `z` or `frame`, or at the end of file_name: scan.nii.gz#12. Of a DICOM series
              file_name may be a slice's own file
annotations   `image_id`, `bbox` [x, y, width, height] in the file's own voxels from their outer edge: a box of one
              voxel has width 1; without it `segmentation` as polygons, whose box counts. Optional: `category_id`;
              `track_id` or `lesion_id` (boxes of a scan with the same one are one lesion on several slices);
              `clinical` (1 or 0; 1 where absent, if any annotation has it).
categories    `id` and `name`, which becomes the kind
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from harvester.datasets.archive.tables import Known, MarkRow, ScanNames, kind_of, table_file
from harvester.errors import LabelError
from harvester.labels.columns import refuse_columns

FILES: Final = ("marks.json", "annotations.json")
SLICE: Final = ("slice", "z", "frame")
SLICE_TEXT: Final = re.compile("[0-9]{1,6}")
LESION: Final = ("track_id", "lesion_id")
MOST_PX: Final = 1e6
"""No image is that wide; NaN and infinite numbers, which JSON knows here, are not below it either."""

Item = dict[str, Any]


def read_coco(root: Path, names: ScanNames, known: dict[str, Known]) -> None:
    """Put the marks of a COCO file, where there is one, to what is `known`.

    Raises LabelError, naming the file and the place of the entry and never what stands there.
    """
    files = [file for name in FILES if (file := table_file(root, name))]
    if len(files) > 1:
        raise LabelError(f"both {' and '.join(FILES)} are in the archive; keep one")
    for file in files:
        tree = _tree(file)
        images, kinds = _by_id(tree, "images", file.name), _by_id(tree, "categories", file.name)
        annotations = _listed(tree, "annotations", file.name)
        flagged = any("clinical" in item for item in annotations)
        for number, item in enumerate(annotations):
            where = f"annotation {number} (from 0) of {file.name}"
            image = images.get(_id(item.get("image_id")))
            if image is None:
                raise LabelError(f"{where}: image_id names no image of the file")
            key, z = _slice(image, names, where)
            scan = known.setdefault(key, Known())
            row = _mark_row(item, z, kinds, where)
            scan.marks.append(row if flagged else {**row, "clinical": None})
            scan.tables.add(file.name)


def _tree(file: Path) -> Item:
    try:
        tree = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise LabelError(f"{file.name}: cannot be read as JSON ({type(error).__name__}); write it anew") from None
    if not isinstance(tree, dict):
        raise LabelError(f"{file.name}: want an object with images, annotations and categories")
    return tree


def _listed(tree: Item, name: str, file: str) -> list[Item]:
    items = tree.get(name, [])
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise LabelError(f"{file}: `{name}` must be a list of objects")
    return items


def _by_id(tree: Item, name: str, file: str) -> dict[str, Item]:
    items = {_id(item.get("id")): item for item in _listed(tree, name, file)}
    if len(items) < len(tree.get(name, [])) or "" in items:
        raise LabelError(f"{file}: each of `{name}` needs an `id` of its own")
    return items


def _id(value: Any) -> str:
    """An id as text, as some tools write "7" in one place and 7 in the other; "" for none."""
    return str(value) if isinstance(value, int | str) else ""


def _slice(image: Item, names: ScanNames, where: str) -> tuple[str, int]:
    """The key of the scan and the slice that an image is."""
    name, hash_sign, last = str(image.get("file_name", "")).rpartition("#")
    if not (hash_sign and SLICE_TEXT.fullmatch(last)):
        name, last = str(image.get("file_name", "")), ""
    key, named_slice = names.find(name, where)
    said = {str(image[field]) for field in SLICE if image.get(field) is not None} | ({last} - {""})
    said |= {str(named_slice)} - {"None"}
    slices = {int(text) for text in said if SLICE_TEXT.fullmatch(text)}
    if len(slices) != 1 or not all(SLICE_TEXT.fullmatch(text) for text in said):
        raise LabelError(
            f"{where}: want one slice of its image, a whole number from 0 as `slice`, `z` or `frame`, or as "
            f"file_name#slice; got {len(said)}"
        )
    return key, slices.pop()


def _mark_row(item: Item, z: int, kinds: Mapping[str, Item], where: str) -> MarkRow:
    refuse_columns(where, [*item], ("clinical",), others=True)
    box = item["bbox"] if item.get("bbox") is not None else _round_polygons(item.get("segmentation"))
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(side) for side in box):
        raise LabelError(f"{where}: want bbox as [x, y, width, height], four finite numbers, or polygons")
    if item.get("iscrowd"):
        raise LabelError(f"{where}: iscrowd is a region of several; give each lesion a box, or leave it out")
    if item.get("clinical", 1) not in (0, 1):
        raise LabelError(f"{where}: clinical must be 1 or 0")
    x, y, width, height = (float(side) for side in box)
    return MarkRow(
        where=where,
        z=z,
        box_xyxy=[x, y, x + width - 1, y + height - 1],
        clinical=bool(item.get("clinical", 1)),
        kind=_kind(item, kinds, where),
        lesion=next((_id(item[field]) for field in LESION if item.get(field) is not None), ""),
    )


def _kind(item: Item, kinds: Mapping[str, Item], where: str) -> str:
    category = item.get("category_id")
    if category is None:
        return ""
    if _id(category) not in kinds:
        raise LabelError(f"{where}: category_id names no category of the file")
    return kind_of(str(kinds[_id(category)].get("name", "")))


def _round_polygons(polygons: Any) -> list[float] | None:
    """The bbox round an annotation's polygons, each [x, y, x, y, ...]; None for anything else."""
    flat = isinstance(polygons, list) and all(isinstance(each, list) and len(each) % 2 == 0 for each in polygons)
    if not flat or not any(polygons) or not all(_is_number(part) for each in polygons for part in each):
        return None
    xs, ys = ([part for each in polygons for part in each[at::2]] for at in (0, 1))
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MOST_PX
