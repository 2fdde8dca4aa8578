"""Lesions of a structured report: measurement groups (TID 1500) with planar regions, or RECIST lines.

A group is one lesion. Points, and regions that a segmentation holds instead, give no box here.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

import numpy as np
import pydicom

from harvester.errors import LabelError
from harvester.geometry import Array
from harvester.labels.deeplesion.dl_info import PAD_PX
from harvester.labels.dicom.lesions import (
    Lesion,
    ReferredSeries,
    box_round,
    code,
    kind_of,
    lesion_of,
    names_of,
    outlined,
    within,
)
from harvester.labels.dicom.rules import MarkRules, Passed
from harvester.records import Box

GROUP: Final = "125007"
TRACKING_UID: Final = "112040"
FINDING: Final = ("121071", "363698007", "G-C0E3")
"""Concepts whose codes may name a lesion's kind: finding, and finding site (SNOMED CT, and its older id)."""
SEGMENT: Final = ("121191", "121214")
"""Referenced segment, and referenced segmentation frame."""
OBSERVER: Final = "121005"
PERSON, DEVICE = "121006", "121007"
ROUND: Final = ("CIRCLE", "ELLIPSE")
POINTS: Final = ("POINT", "MULTIPOINT")
"""Graphic types: those that two points may give, those that are no region."""
MOST_ITEMS: Final = 200_000
CORNERS: Final = np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])

Mark = tuple[int, str, Array]
"""Slice, graphic type, (m, 2) image-relative points."""


def read_sr(item: pydicom.Dataset, series: ReferredSeries, rules: MarkRules) -> list[Lesion]:
    """The lesions that a report marks on the series; none of a machine's report unless verified or wanted.

    Raises LabelError for a mark outside the series; a broken report raises what pydicom raises.
    """
    if _by_machine(item) and not rules.machine_marks:
        return []
    return [lesion for group in _groups(item) if (lesion := _lesion(group, series))]


def passed_over(
    item: pydicom.Dataset, sops: Collection[str], frame: str, rules: MarkRules, others: Collection[str] = ()
) -> Counter[Passed]:
    """Why groups of a report give no lesion on the series of these slices.

    others: frames of reference of further series that the report marks, where its other groups are read.
    """
    groups = [_why_not([*_below(group)], sops, frame, others) for group in _groups(item)]
    if _by_machine(item) and not rules.machine_marks:
        return Counter({Passed.MACHINE: sum(why is None for why in groups)})
    return Counter(why for why in groups if why)


def _groups(item: pydicom.Dataset) -> list[pydicom.Dataset]:
    """Measurement groups; of older reports the measurements; of reports without any the findings."""
    every = [*_below(item)]
    groups = [each for each in every if code(each, "ConceptNameCodeSequence") == GROUP]
    groups = groups or [each for each in every if each.get("ValueType") == "NUM"]
    return groups or [each for each in every if code(each, "ConceptNameCodeSequence") in FINDING]


def _why_not(
    items: Sequence[pydicom.Dataset], sops: Collection[str], frame: str, others: Collection[str]
) -> Passed | None:
    """None for a group that outlines or measures something here."""
    drawn = [each for each in items if each.get("ValueType") in ("SCOORD", "SCOORD3D")]
    regions = [each for each in drawn if each.get("GraphicType") not in POINTS]
    if any(_is_here(each, items, sops, frame) for each in regions):
        return None
    if regions:
        in_space = [each for each in regions if each.get("ValueType") == "SCOORD3D"]
        known = all(each.get("ReferencedFrameOfReferenceUID") in others for each in in_space)
        return Passed.ELSEWHERE if known else Passed.FRAME
    in_segment = any(code(each, "ConceptNameCodeSequence") in SEGMENT for each in items)
    return Passed.SEGMENT if in_segment and not drawn else Passed.NO_COORDINATES


def _is_here(item: pydicom.Dataset, group: Sequence[pydicom.Dataset], sops: Collection[str], frame: str) -> bool:
    """Whether a region lies on the series of these slices: by those that it names, in space by its frame of reference
    or by the slices that its group names, which exports keep where they renew frames."""
    if item.get("ValueType") == "SCOORD":
        return not {*_named(_below(item))}.isdisjoint(sops)
    return item.get("ReferencedFrameOfReferenceUID", frame) == frame or not {*_named(group)}.isdisjoint(sops)


def _named(items: Iterable[pydicom.Dataset]) -> Iterator[str]:
    for each in items:
        for reference in each.get("ReferencedSOPSequence", []):
            yield from names_of(reference)


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
    marks = [mark for each in items if (mark := _mark(each, items, series))]
    drawn = [mark for mark in marks if len(mark[2]) > 2 or mark[1] in ROUND]
    regions = [outlined(k, _outline(kind, points), series.size_px) for k, kind, points in drawn]
    if not regions:  # lines measure a region where there is one
        lines = [mark for mark in marks if mark[1] == "POLYLINE" and len(mark[2]) == 2]
        for k in sorted({mark[0] for mark in lines}):
            box = _round_lines([points for at, _, points in lines if at == k])
            regions.append((k, within(box, series.size_px), (box[2] - box[0]) * (box[3] - box[1])))
    if not regions:
        return None
    named = {code(each, "ConceptNameCodeSequence"): each for each in items}
    found = [code(named[concept], "ConceptCodeSequence") for concept in FINDING if concept in named]
    tracking = str(named[TRACKING_UID].get("UID", "")) if TRACKING_UID in named else ""
    return lesion_of(regions, kind_of(found), tracking)


def _mark(item: pydicom.Dataset, group: Sequence[pydicom.Dataset], series: ReferredSeries) -> Mark | None:
    """A region or line on a slice of the series; None for anything else, also on another series."""
    kind, value_type = str(item.get("GraphicType", "")), item.get("ValueType")
    if kind in POINTS or value_type not in ("SCOORD", "SCOORD3D"):
        return None
    if not _is_here(item, group, series.sops, series.frame):
        return None
    if value_type == "SCOORD":
        return next(series.sops[sop] for sop in _named(_below(item)) if sop in series.sops), kind, _points(item, 2)
    points = _points(item, 3)
    k = series.slice_of(points.mean(0))
    return k, kind, series.on_slice(k, points)


def _points(item: pydicom.Dataset, width: int) -> Array:
    points = np.array(list(item.GraphicData), np.float64).reshape(-1, width)
    if not len(points) or not np.isfinite(points).all():
        raise LabelError("a mark without points that are numbers")
    return points


def _outline(kind: str, points: Array) -> Array:
    """(m, 2) points whose box is the region's: circles come as centre and rim, ellipses as ends of their axes."""
    if kind == "CIRCLE":
        return np.asarray(points[0] + np.linalg.norm(points[1] - points[0]) * CORNERS)
    if kind.startswith("ELLIPS"):
        half_axes = (points[1::2] - points[::2]) / 2
        return np.asarray(points.mean(0) + np.sqrt((half_axes**2).sum(0)) * CORNERS)
    return points


def _round_lines(lines: list[Array]) -> Box:
    """Two axes: the box round their ends, padded. One axis alone: the box of the circle over it."""
    if len(lines) > 1:
        x1, y1, x2, y2 = box_round(np.concatenate(lines))
        return x1 - PAD_PX, y1 - PAD_PX, x2 + PAD_PX, y2 + PAD_PX
    middle, radius = lines[0].mean(0), float(np.linalg.norm(lines[0][1] - lines[0][0])) / 2
    return box_round(np.stack([middle - radius, middle + radius]))
