"""Enhanced CT: many slices in one file, each with its place and scale in functional groups, as slices of a file each.

A frame's SOPInstanceUID is the file's with "#" and the frame's number (from 1) behind it, as labels/dicom names it.
"""

from typing import Final

import pydicom
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

MULTI_FRAME: Final = (EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
MOST_FRAMES: Final = 20_000
FUNCTIONAL: Final = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
OF_GROUPS: Final = {
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
    "CTReconstructionSequence": ("ConvolutionKernel",),
}
"""Elements of a classic slice by the functional group that has them."""
OF_FILE: Final = (
    "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID", "Modality", "ImageType", "Rows",
    "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue",
    "PixelPaddingRangeLimit", "ConvolutionKernel",
)  # fmt: skip


def is_enhanced(item: pydicom.Dataset) -> bool:
    """Whether an object is many slices in one."""
    return item.get("SOPClassUID") in MULTI_FRAME


def frames_of(item: pydicom.Dataset) -> list[pydicom.Dataset]:
    """The frames of an enhanced CT as classic slices without pixels, in the file's order.

    Raises ValueError where it tells of more frames than groups, and what pydicom raises on broken files.
    """
    own = item.PerFrameFunctionalGroupsSequence
    if not len(own) == int(item.NumberOfFrames) <= MOST_FRAMES:
        raise ValueError("not as many functional groups as frames")
    (shared,) = item.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()]
    return [_slice(item, shared, group, number) for number, group in enumerate(own, 1)]


def _slice(item: pydicom.Dataset, shared: pydicom.Dataset, group: pydicom.Dataset, number: int) -> pydicom.Dataset:
    made = pydicom.Dataset()
    for tag in OF_FILE:
        if tag in item:
            setattr(made, tag, item[tag].value)
    for sequence, tags in OF_GROUPS.items():
        found = group.get(sequence) or shared.get(sequence)
        for tag in tags:
            if found and tag in found[0]:
                setattr(made, tag, found[0][tag].value)
    content = group.get("FrameContentSequence")
    if content:
        made.AcquisitionNumber = content[0].get("FrameAcquisitionNumber")
        made.AcquisitionTime = str(content[0].get("FrameAcquisitionDateTime") or "")[8:].partition("+")[0]
    made.SOPClassUID, made.InstanceNumber = CTImageStorage, number
    made.SOPInstanceUID = f"{item.SOPInstanceUID}#{number}"
    return made
