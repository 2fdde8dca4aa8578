"""Reviewed exports on their way back: DL_info.csv and annotations.json with `review` filled in, as verdicts.

A box comes back on every stored slice that its file's slice stands for: on its own, and on made ones (in gaps) that it
is the nearest to. Rows without a review are passed over. In the CSV a moved lesion's new box is Bounding_boxes on
Key_slice_index; in COCO it is what its annotations have now. Messages name rows, never what stands in them but our
own ids.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Final

from harvester.errors import LabelError, VolumeError
from harvester.export.coco import CATEGORIES
from harvester.export.dl_info import first_slice
from harvester.imaging.slice_map import SliceMap
from harvester.labels.columns import refuse_columns
from harvester.labels.reviewed import VERDICTS, Verdict
from harvester.labels.sheets import read_sheet, text_of
from harvester.records import Placed, Source

NEEDED: Final = (
    "volume_id", "label_id", "role", "source", "turn", "boxes", "review", "Key_slice_index", "Bounding_boxes",
)  # fmt: skip
HASH: Final = re.compile(r"[0-9a-f]{12}")
SAME_PX: Final = 0.01
"""A box that came back this near to the exported one was not moved: tools round."""


def read_review(file: Path) -> list[Verdict]:
    """The verdicts in a reviewed DL_info.csv or annotations.json. Raises LabelError with the row at fault."""
    try:
        if file.suffix.lower() == ".json":
            return _from_coco(json.loads(text_of(file)), file.name)
        return _from_csv(file)
    except json.JSONDecodeError as error:
        raise LabelError(f"{file.name}: is neither CSV nor JSON ({type(error).__name__})") from None


def _from_csv(file: Path) -> list[Verdict]:
    names, rows = read_sheet(file, NEEDED)
    lacking = [column for column in NEEDED if column not in names]
    if lacking:
        raise LabelError(
            f"{file.name}: lacks the columns {', '.join(lacking)}; want the table of harvester export --to csv"
        )
    refuse_columns(file.name, names, NEEDED, others=True)
    whole = dict.fromkeys(names, "")
    return [each for line, row in rows if (each := _row_verdict(whole | row, f"{file.name} line {line}"))]


def _row_verdict(row: Mapping[str, str], where: str) -> Verdict | None:
    with _naming(where):
        word = _word(row["review"])
        if not word:
            return None
        slices, first = SliceMap.of_text(row["turn"]), first_slice(row["volume_id"])
        drawn = [_numbers(part, 5) for part in row["boxes"].split(";") if part.strip()]
        found = [_stored(slices, k - first, box) for k, *box in drawn]
        box = _numbers(row["Bounding_boxes"].replace(",", " "), 4)
        key = _stored(slices, _numbers(row["Key_slice_index"], 1)[0] - first, box)
        _check_moved(word, not any(_same(key, each) for each in found))
        now = [key] if word == "moved" else found
        return Verdict(where, word, _label(row), list(chain(*found)), list(chain(*now)))


def _from_coco(tree: Any, name: str) -> list[Verdict]:
    try:
        images = {image["id"]: image for image in tree["images"]}
        groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
        for annotation in tree["annotations"]:
            image = images[annotation["image_id"]]
            which = (image["volume_id"], annotation["label_id"], annotation["run_id"])
            groups.setdefault(which, []).append(annotation)
        verdicts = [_track_verdict(which[0], group, images, name) for which, group in groups.items()]
        return [verdict for verdict in verdicts if verdict]
    except (AttributeError, IndexError, KeyError, TypeError):
        raise LabelError(
            f"{name}: an image or an annotation lacks a field that harvester export --to coco wrote; keep them (new "
            "lesions belong into the archive's marks)"
        ) from None


def _track_verdict(
    volume_id: str, group: list[Mapping[str, Any]], images: Mapping[Any, Mapping[str, Any]], name: str
) -> Verdict | None:
    where = f"{name} annotation {group[0]['id']}"
    with _naming(where):
        words = {_word(annotation.get("review") or "") for annotation in group} - {""}
        if not words:
            return None
        if len(words) > 1:
            raise LabelError(f"its lesion was both {' and '.join(sorted(words))}; want one review per lesion")
        word = words.pop()
        now, found = [], []
        for annotation in group:
            image = images[annotation["image_id"]]
            slices = SliceMap.of_text(image["turn"])
            now.append(_coco_box(slices, image["slice"], annotation["bbox"]))
            found.append(_coco_box(slices, annotation["found"][0], annotation["found"][1:]))
        _check_moved(word, not all(_same(a, b) for a, b in zip(now, found, strict=True)))
        names = {number: role for role, number in CATEGORIES.items()}
        row = dict(group[0]) | {"volume_id": volume_id, "role": names[group[0]["category_id"]]}
        return Verdict(where, word, _label(row), list(chain(*found)), list(chain(*now)))


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Within it errors begin with the row at fault."""
    try:
        yield
    except (LabelError, VolumeError) as error:
        raise LabelError(f"{where}: {error}") from None


def _word(text: str) -> str:
    word = text.strip().lower()
    if word and word not in VERDICTS:
        raise LabelError(f"review must be empty or one of {', '.join(VERDICTS)}")
    return word


def _check_moved(word: str, moved: bool) -> None:
    if moved and word != "moved":
        raise LabelError(f"was {word}, but its box is another one than exported; write moved")
    if word == "moved" and not moved:
        raise LabelError("was moved, but its box is as exported; write accepted, or give the new box")


def _label(row: Mapping[str, Any]) -> dict[str, Any]:
    label = {name: row[name] for name in ("volume_id", "label_id", "role", "source")}
    if label["role"] not in CATEGORIES:
        raise LabelError(f"role must be one of {', '.join(CATEGORIES)}")
    run, model = str(row.get("run_id") or ""), str(row.get("model_hash") or "")
    if label["source"] not in (Source.CLINICAL, Source.ANNOTATED) and not HASH.fullmatch(run):
        raise LabelError("run_id is not as it was exported (12 hex digits); did a spreadsheet turn it into a number?")
    score, number = _optional(row.get("score")), _optional(row.get("round"))
    return label | {"run_id": run, "model_hash": model, "score": score, "round": -1 if number is None else int(number)}


def _optional(cell: Any) -> float | None:
    return None if cell in (None, "") else _numbers(str(cell), 1)[0]


def _coco_box(slices: SliceMap, k: Any, bbox: Iterable[Any]) -> list[Placed]:
    x, y, width, height = _numbers(" ".join(map(str, bbox)), 4)
    return _stored(slices, float(k), [x, y, x + width - 1, y + height - 1])


def _stored(slices: SliceMap, k: float, box: list[float]) -> list[Placed]:
    """On the stored slices that the file's slice stands for, its own first."""
    if k != int(k):
        raise LabelError("the slice must be a whole number")
    if not 0 <= k < slices.shape[2]:
        raise LabelError(f"a box lies outside its volume of {slices.shape[2]} slices")
    if box[0] > box[2] or box[1] > box[3]:
        raise LabelError("the ends of a box are out of order; want x1 <= x2 and y1 <= y2")
    return slices.stored_boxes(int(k), (box[0], box[1], box[2], box[3]))


def _numbers(text: str, count: int) -> list[float]:
    try:
        values = [float(part) for part in text.split()]
    except ValueError:
        values = []
    if len(values) != count or not all(map(math.isfinite, values)):
        raise LabelError(f"a box or a slice is not {count} number{'s' * (count > 1)}")
    return values


def _same(a: Sequence[Placed], b: Sequence[Placed]) -> bool:
    """Of boxes of one slice of the file each."""
    (z, one), (other_z, other) = a[0], b[0]
    return z == other_z and all(abs(p - q) <= SAME_PX for p, q in zip(one, other, strict=True))
