"""Lesions of a radiotherapy structure set: gross tumour volumes, by their closed contours.

A structure set holds organs and margins too. What counts is RTROIInterpretedType GTV, or, where that is empty, a name
that begins as names of tumours do. Names are compared, never kept.
"""

import re
from typing import Final

import numpy as np
import pydicom

from harvester.labels.dicom.lesions import Lesion, ReferredSeries, Region, lesion_of, outlined

TUMOUR: Final = re.compile(r"\W*(i?gtv|lesion|tumou?r|nodule|mass|metasta)", re.IGNORECASE)
CLOSED: Final = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")


def read_rtstruct(item: pydicom.Dataset, series: ReferredSeries, machine_marks: bool) -> list[Lesion]:
    """The lesions that a structure set outlines on the series; automatic ones only if wanted.

    Raises LabelError for a contour outside the series; a broken object raises what pydicom raises.
    """
    tumours = _tumours(item, machine_marks, series.frame)
    found = []
    for roi in item.get("ROIContourSequence") or ():
        if int(roi.ReferencedROINumber) in tumours:
            closed = [each for each in roi.get("ContourSequence") or () if each.get("ContourGeometricType") in CLOSED]
            contours = [_contour(each, series) for each in closed]
            found += [lesion_of(sorted(group)) for group in _hanging_together(contours)]
    return found


def _tumours(item: pydicom.Dataset, machine_marks: bool, frame: str) -> set[int]:
    types = {
        int(each.ReferencedROINumber): str(each.get("RTROIInterpretedType") or "")
        for each in item.get("RTROIObservationsSequence") or ()
    }
    return {
        int(roi.ROINumber)
        for roi in item.get("StructureSetROISequence") or ()
        if (machine_marks or roi.get("ROIGenerationAlgorithm") != "AUTOMATIC")
        and roi.get("ReferencedFrameOfReferenceUID", frame) == frame
        and _is_tumour(types.get(int(roi.ROINumber), ""), str(roi.get("ROIName", "")))
    }


def _is_tumour(kind: str, name: str) -> bool:
    return kind.upper() == "GTV" if kind else TUMOUR.match(name) is not None


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
