"""Lesions of a structured report: measurement groups (TID 1500) with planar regions, or RECIST lines.

A group is one lesion. Points, and regions that a segmentation holds instead, give no box here.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import pydicom

from harvester.errors import LabelError
from harvester.labels.dicom.lesions import Floats, Lesion, ReferredSeries, Regions, box_round, code, kind_of, within
from harvester.records import Box

GROUP: Final = "125007"
TRACKING_UID: Final = "112040"
FINDING: Final = ("121071", "363698007", "G-C0E3")
"""Concepts whose codes may name a lesion's kind: finding, and finding site (SNOMED CT, and its older id)."""
OBSERVER: Final = "121005"
PERSON, DEVICE = "121006", "121007"
MOST_ITEMS: Final = 200_000
RECIST_PAD_PX: Final = 5.0
"""Boxes round RECIST end points are padded as DeepLesion's are."""

Mark = tuple[int, str, Floats]
"""Slice, graphic type, (m, 2) image-relative points."""


def read_sr(item: pydicom.Dataset, series: ReferredSeries, machine_marks: bool) -> list[Lesion]:
    """The lesions that a report marks on the series; none of a machine's report unless verified or wanted.

    Raises LabelError for a mark outside the series; a broken report raises what pydicom raises.
    """
    if _by_machine(item) and not machine_marks:
        return []
    groups = [each for each in _below(item) if code(each, "ConceptNameCodeSequence") == GROUP]
    if not groups:  # older reports: measurements without groups
        groups = [each for each in _below(item) if each.get("ValueType") == "NUM"]
    return [lesion for group in groups if (lesion := _lesion(group, series))]


def _by_machine(item: pydicom.Dataset) -> bool:
    types = {
        code(each, "ConceptCodeSequence") for each in _below(item) if code(each, "ConceptNameCodeSequence") == OBSERVER
    }
    return DEVICE in types and PERSON not in types and item.get("VerificationFlag") != "VERIFIED"


def _below(item: pydicom.Dataset) -> Iterator[pydicom.Dataset]:
    """All content items below one, in order; without recursion, so depth does no harm."""
    waiting, seen = list(reversed(item.get("ContentSequence") or [])), 0
    while waiting:
        each = waiting.pop()
        seen += 1
        if seen > MOST_ITEMS:
            raise ValueError("a report of too many items")
        yield each
        waiting.extend(reversed(each.get("ContentSequence") or []))


def _lesion(group: pydicom.Dataset, series: ReferredSeries) -> Lesion | None:
    items = list(_below(group))
    marks = [mark for each in items if (mark := _mark(each, series))]
    lines = [mark for mark in marks if mark[1] == "POLYLINE" and len(mark[2]) == 2]
    regions = Regions()
    for k, kind, points in marks:
        if len(points) > 2 or kind in ("CIRCLE", "ELLIPSE"):
            hull = _outline(kind, points)
            regions.add(k, within(box_round(hull), series.size_px), _area(hull))
    if not regions.boxes:  # lines measure a region where there is one
        for k in sorted({mark[0] for mark in lines}):
            box = _round_lines([points for at, _, points in lines if at == k])
            regions.add(k, within(box, series.size_px), (box[2] - box[0]) * (box[3] - box[1]))
    if not regions.boxes:
        return None
    named = {code(each, "ConceptNameCodeSequence"): each for each in items}
    found = [code(named[concept], "ConceptCodeSequence") for concept in FINDING if concept in named]
    tracking = str(named[TRACKING_UID].get("UID", "")) if TRACKING_UID in named else ""
    return regions.lesion(kind_of(found), tracking)


def _mark(item: pydicom.Dataset, series: ReferredSeries) -> Mark | None:
    """A region or line on a slice of the series; None for anything else, also on another series."""
    kind = str(item.get("GraphicType", ""))
    if item.get("ValueType") == "SCOORD" and kind not in ("POINT", "MULTIPOINT"):
        sops = [
            str(ref.ReferencedSOPInstanceUID) for each in _below(item) for ref in each.get("ReferencedSOPSequence", [])
        ]
        slices = [series.sops[sop] for sop in sops if sop in series.sops]
        return (slices[0], kind, _points(item, 2)) if slices else None
    if item.get("ValueType") == "SCOORD3D" and kind not in ("POINT", "MULTIPOINT"):
        if item.get("ReferencedFrameOfReferenceUID", series.frame) != series.frame:
            return None
        points = _points(item, 3)
        k = series.slice_of(points.mean(0))
        return k, kind, series.on_slice(k, points)
    return None


def _points(item: pydicom.Dataset, width: int) -> Floats:
    points = np.array(list(item.GraphicData), np.float64).reshape(-1, width)
    if not len(points) or not np.isfinite(points).all():
        raise LabelError("a mark without points that are numbers")
    return points


def _outline(kind: str, points: Floats) -> Floats:
    """(m, 2) points whose box is the region's: circles come as centre and rim, ellipses as ends of their axes."""
    outline = points
    if kind == "CIRCLE":
        radius = float(np.linalg.norm(points[1] - points[0]))
        outline = points[0] + radius * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    elif kind.startswith("ELLIPS"):
        axes = (points[1::2] - points[::2]) / 2
        half = np.sqrt((axes**2).sum(0))
        outline = points.mean(0) + half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    return outline


def _area(points: Floats) -> float:
    """Of a polygon, in pixels."""
    x, y = points.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def _round_lines(lines: list[Floats]) -> Box:
    """Two axes: the box round their ends, padded. One axis alone: the box of the circle over it."""
    if len(lines) > 1:
        x1, y1, x2, y2 = box_round(np.concatenate(lines))
        return x1 - RECIST_PAD_PX, y1 - RECIST_PAD_PX, x2 + RECIST_PAD_PX, y2 + RECIST_PAD_PX
    middle, radius = lines[0].mean(0), float(np.linalg.norm(lines[0][1] - lines[0][0])) / 2
    return box_round(np.stack([middle - radius, middle + radius]))
