"""Lesions of a radiotherapy structure set: gross tumour volumes, by their closed contours.

A structure set holds organs and margins too. What counts is RTROIInterpretedType GTV, or, where that is empty or the
planning system's own ORGAN, a name that tells (rules.py).
"""

from collections import Counter
from collections.abc import Collection
from typing import Final

import numpy as np
import pydicom

from harvester.labels.dicom.lesions import Lesion, ReferredSeries, Region, files_of, lesion_of, outlined
from harvester.labels.dicom.rules import MarkRules, Passed

CLOSED: Final = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
TARGETS: Final = ("CTV", "PTV", "TREATED_VOLUME", "IRRADIATED_VOLUME")
UNSAID: Final = ("", "ORGAN", "CONTROL")
"""Types that a name may deny."""


def read_rtstruct(item: pydicom.Dataset, series: ReferredSeries, rules: MarkRules) -> list[Lesion]:
    """The lesions that a structure set outlines on the series.

    Raises LabelError for a contour outside the series; a broken object raises what pydicom raises.
    """
    tumours, found = sorted_regions(item, series.sops, series.frame, rules)[0], []
    for roi in item.get("ROIContourSequence") or ():
        if int(roi.ReferencedROINumber) in tumours:
            contours = [_contour(each, series) for each in _closed(roi)]
            found += [lesion_of(sorted(group)) for group in _hanging_together(contours)]
    return found


def sorted_regions(
    item: pydicom.Dataset, sops: Collection[str], frame: str, rules: MarkRules, others: Collection[str] = ()
) -> tuple[set[int], Counter[Passed]]:
    """The numbers of the regions that are lesions on the series of these slices, and why others are passed over.

    Where a region's frame of reference is another one, its contours' slices count: exports renew frames and keep those.
    others: frames of reference of further series that the set marks, where its other regions are read.
    """
    types = {
        int(each.ReferencedROINumber): str(each.get("RTROIInterpretedType") or "").upper()
        for each in item.get("RTROIObservationsSequence") or ()
    }
    outlines = {int(each.ReferencedROINumber): each for each in item.get("ROIContourSequence") or ()}
    tumours: set[int] = set()
    passed: Counter[Passed] = Counter()
    for roi in item.get("StructureSetROISequence") or ():
        number, outline = int(roi.ROINumber), outlines.get(int(roi.ROINumber))
        why = _why_not(types.get(number, ""), str(roi.get("ROIName", "")), rules)
        if why is None and roi.get("ROIGenerationAlgorithm") == "AUTOMATIC" and not rules.machine_marks:
            why = Passed.MACHINE
        if why is None and (outline is None or not _closed(outline)):
            why = Passed.NO_COORDINATES
        if why is None and not _is_here(item, roi, outline, sops, frame):
            why = Passed.ELSEWHERE if roi.get("ReferencedFrameOfReferenceUID") in others else Passed.FRAME
        if why is None:
            tumours.add(number)
        else:
            passed[why] += 1
    if tumours:
        passed.pop(Passed.TARGET, None)  # they go round what is a lesion here
    return tumours, passed


def _why_not(kind: str, name: str, rules: MarkRules) -> Passed | None:
    """None for a lesion."""
    if kind == "GTV":
        return None
    if kind in TARGETS:
        return Passed.TARGET
    told = rules.tell(name)
    if kind not in UNSAID:
        return Passed.TYPE if told else Passed.ORGAN
    if told:
        return None
    return Passed.ORGAN if kind or told is False else Passed.NAME


def _is_here(
    item: pydicom.Dataset, roi: pydicom.Dataset, outline: pydicom.Dataset | None, sops: Collection[str], frame: str
) -> bool:
    own = roi.get("ReferencedFrameOfReferenceUID", frame)
    if own == frame:
        return True
    of_frame = [
        each for each in item.get("ReferencedFrameOfReferenceSequence") or () if each.get("FrameOfReferenceUID") == own
    ]
    named, files = [part for part in (outline, *of_frame) if part is not None], files_of(sops)
    return any(
        str(element.value) in files
        for part in named
        for element in part.iterall()
        if element.keyword == "ReferencedSOPInstanceUID"
    )


def _closed(outline: pydicom.Dataset) -> list[pydicom.Dataset]:
    return [each for each in outline.get("ContourSequence") or () if each.get("ContourGeometricType") in CLOSED]


def _contour(item: pydicom.Dataset, series: ReferredSeries) -> Region:
    points_mm = np.array(list(item.ContourData), np.float64).reshape(-1, 3)
    k = series.slice_of(points_mm.mean(0))
    return outlined(k, series.on_slice(k, points_mm), series.size_px)


def _hanging_together(contours: list[Region]) -> list[list[Region]]:
    """Contours of one ROI as lesions: those hang together whose boxes meet on one slice or on neighbours."""
    groups: list[list[Region]] = []
    for contour in contours:
        touching = [group for group in groups if any(_meet(contour, other) for other in group)]
        groups = [group for group in groups if not any(group is other for other in touching)]
        groups.append([contour, *(each for group in touching for each in group)])
    return groups


def _meet(one: Region, other: Region) -> bool:
    (k, a, _), (n, b, _) = one, other
    return abs(k - n) <= 1 and a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]
