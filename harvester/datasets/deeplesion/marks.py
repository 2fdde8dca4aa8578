"""The marks of DeepLesion's volumes: the archive's own, and full annotations apart from them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

from harvester.config.data import DeepLesionSettings
from harvester.labels.deeplesion.clinical import match_marks
from harvester.labels.deeplesion.dl_info import DECIMALS, InfoRow
from harvester.labels.deeplesion.published_marks import PublishedMarks
from harvester.records import SIDES, Placed


class MarkRow(TypedDict):
    """One lesion's box on its key slice, in plain values (JSON)."""

    z: int
    box_xyxy: list[float]
    clinical: bool
    kind: str


def clinical_marks(
    rows: Mapping[str, Sequence[InfoRow]], given: Sequence[PublishedMarks], settings: DeepLesionSettings
) -> dict[str, list[MarkRow]]:
    """What the archive shows of each volume of `rows` (the lines of DL_info.csv, by volume).

    The boxes of the table without the noisy ones (kept with `keep_noisy`); for a volume that a file of `given` names,
    that file's boxes, with the kind of the table's box that is the same mark.
    """
    marks = {volume: _rows(each for each in of if settings.keep_noisy or not each.noisy) for volume, of in rows.items()}
    for published in given:
        boxes = published_marks(published)
        for volume in set(published.volume_ids) & rows.keys():
            pairs = _matched(boxes.get(volume, []), _rows(rows[volume]), settings.match_iou)
            marks[volume] = [{**box, "clinical": True, "kind": (listed or box)["kind"]} for box, listed in pairs]
    return marks


def _rows(lines: Iterable[InfoRow]) -> list[MarkRow]:
    return [_row(each.z, each.box_xyxy, True, each.kind) for each in lines]


def annotated_marks(
    annotated: PublishedMarks, clinical: Mapping[str, Sequence[MarkRow]], iou_at_least: float
) -> dict[str, list[MarkRow]]:
    """The full annotation of each of its volumes; none for a volume without a lesion.

    A box is clinical if a box of the archive is the same mark (one of the slice, IoU from `iou_at_least`), or if the
    annotation itself says so; its kind is then the archive's. The archive's boxes that the annotation lacks are gone:
    who annotated everything has moved or withdrawn them.
    """
    boxes, marks = published_marks(annotated), {}
    for volume in annotated.volume_ids:
        marks[volume] = boxes.get(volume, [])
        for box, same in _matched(marks[volume], clinical.get(volume, []), iou_at_least):
            box["clinical"] = box["clinical"] if annotated.knows_clinical else same is not None
            box["kind"] = box["kind"] or (same or box)["kind"]
    return marks


def _matched(
    boxes: Sequence[MarkRow], others: Sequence[MarkRow], iou_at_least: float
) -> list[tuple[MarkRow, MarkRow | None]]:
    """Each box with that of the others that is the same mark, None where there is none."""
    same = match_marks(_placed(boxes), _placed(others), iou_at_least)
    return [(box, others[same[i]] if i in same else None) for i, box in enumerate(boxes)]


def published_marks(published: PublishedMarks) -> dict[str, list[MarkRow]]:
    """The marks of a file by volume, rounded as DL_info's are; no entry for a volume without a mark."""
    marks: dict[str, list[MarkRow]] = {}
    for mark in published.marks.to_pylist():
        row = _row(mark["z"], [mark[side] for side in SIDES], mark["clinical"], mark["kind"])
        marks.setdefault(mark["volume_id"], []).append(row)
    return marks


def _row(z: int, box_xyxy: Sequence[float], clinical: bool, kind: str) -> MarkRow:
    return MarkRow(z=z, box_xyxy=[round(end, DECIMALS) for end in box_xyxy], clinical=clinical, kind=kind)


def _placed(marks: Sequence[MarkRow]) -> list[Placed]:
    sides = ((mark["z"], *mark["box_xyxy"]) for mark in marks)
    return [(int(z), (x1, y1, x2, y2)) for z, x1, y1, x2, y2 in sides]
