"""The lesions of an SR, SEG or RTSTRUCT object, whichever it is."""

from collections.abc import Iterable
from typing import Final

import pydicom
from pydicom.uid import UID, RTStructureSetStorage, SegmentationStorage

from harvester.geometry import Array
from harvester.labels.dicom.lesions import Lesion, ReferredSeries
from harvester.labels.dicom.rtstruct import read_rtstruct
from harvester.labels.dicom.seg import read_seg
from harvester.labels.dicom.sr import read_sr

LABEL_MAP: Final = UID("1.2.840.10008.5.1.4.1.1.66.7")
"""Label Map Segmentation Storage, newer than pydicom's list."""
WITH_PIXELS: Final = (SegmentationStorage, LABEL_MAP)
"""Classes of objects whose stored values `read_lesions` needs."""


def read_lesions(
    item: pydicom.Dataset, frames: Iterable[Array], series: ReferredSeries, machine_marks: bool = False
) -> list[Lesion]:
    """The lesions that one object marks on the series, in no particular order; none that concern another series.

    `frames` are a segmentation's stored values, (rows, columns) each, of anything else none. Raises LabelError,
    or what pydicom raises.
    """
    if item.SOPClassUID in WITH_PIXELS:
        return read_seg(item, frames, series, machine_marks)
    if item.SOPClassUID == RTStructureSetStorage:
        return read_rtstruct(item, series, machine_marks)
    return read_sr(item, series, machine_marks)
