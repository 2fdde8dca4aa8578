"""The lesions of an SR, SEG or RTSTRUCT object, whichever it is."""

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Final

import pydicom
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    ExtensibleSRStorage,
    RTStructureSetStorage,
    SegmentationStorage,
)

from harvester.geometry import Array
from harvester.labels.dicom import sr
from harvester.labels.dicom.lesions import Lesion, ReferredSeries
from harvester.labels.dicom.rtstruct import read_rtstruct, sorted_regions
from harvester.labels.dicom.rules import MarkRules, Passed
from harvester.labels.dicom.seg import read_seg, sorted_segments
from harvester.labels.dicom.sr import read_sr

LABEL_MAP: Final = UID("1.2.840.10008.5.1.4.1.1.66.7")
"""Label Map Segmentation Storage, newer than pydicom's list."""
REPORTS: Final = (EnhancedSRStorage, ComprehensiveSRStorage, Comprehensive3DSRStorage, ExtensibleSRStorage)
WITH_PIXELS: Final = (SegmentationStorage, LABEL_MAP)
"""Classes of objects whose stored values `read_lesions` needs."""


def read_lesions(
    item: pydicom.Dataset, frames: Iterable[Array], series: ReferredSeries, rules: MarkRules
) -> list[Lesion]:
    """The lesions that one object marks on the series, in no particular order; none that concern another series.

    `frames` are a segmentation's stored values, (rows, columns) each, of anything else none. Raises LabelError,
    or what pydicom raises.
    """
    if item.SOPClassUID in WITH_PIXELS:
        return read_seg(item, frames, series, rules)
    if item.SOPClassUID == RTStructureSetStorage:
        return read_rtstruct(item, series, rules)
    return read_sr(item, series, rules)


def passed_over(
    item: pydicom.Dataset, sops: Collection[str], frame: str, rules: MarkRules, others: Collection[str] = ()
) -> Counter[Passed]:
    """What of an object, whose pixels are not needed, `read_lesions` gives no lesion for on the series of these slices.

    others: frames of reference of further series that it marks. Raises what pydicom raises.
    """
    if item.SOPClassUID in WITH_PIXELS:
        return sorted_segments(item, rules)[1]
    if item.SOPClassUID == RTStructureSetStorage:
        return sorted_regions(item, sops, frame, rules, others)[1]
    if item.SOPClassUID in REPORTS:
        return sr.passed_over(item, sops, frame, rules, others)
    return Counter({Passed.OBJECT: _drawn(item)})


def _drawn(item: pydicom.Dataset) -> int:
    """How many things are drawn in a presentation state; 1 for an object of another kind."""
    if item.get("Modality") != "PR":
        return 1
    layers = item.get("GraphicAnnotationSequence") or ()
    return sum(
        len(layer.get(part) or ()) for layer in layers for part in ("GraphicObjectSequence", "TextObjectSequence")
    )
