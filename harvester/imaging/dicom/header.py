"""What is read of a DICOM file's header while an archive is searched: the tags of ALLOWED and no other.

Of their values only UIDs (salted into ids) and numbers are kept; words are compared with known ones.
"""

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from math import nan
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydicom
from pydicom import uid

from harvester.config.data import DicomSettings
from harvester.imaging.dicom.enhanced import FUNCTIONAL, frames_of, is_enhanced
from harvester.imaging.dicom.file import BROKEN, is_dicom_file, read_header, silence_dicom_loggers
from harvester.labels.dicom.read import LABEL_MAP

REFERENCES: Final = (
    "ReferencedSeriesSequence",
    "CurrentRequestedProcedureEvidenceSequence",
    "PertinentOtherEvidenceSequence",
    "ReferencedFrameOfReferenceSequence",
)
ALLOWED: Final = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID",
    "Modality", "ImageType", "AcquisitionNumber", "AcquisitionTime", "TemporalPositionIdentifier",
    "ConvolutionKernel", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated", "PixelSpacing",
    "SliceThickness", "ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept",
    "RescaleType", *REFERENCES,
)  # fmt: skip
MARK_OBJECTS: Final = {
    uid.EnhancedSRStorage: "sr",
    uid.ComprehensiveSRStorage: "sr",
    uid.Comprehensive3DSRStorage: "sr",
    uid.ExtensibleSRStorage: "sr",
    uid.SegmentationStorage: "seg",
    LABEL_MAP: "seg",
    uid.RTStructureSetStorage: "rtstruct",
}
UNREAD_OBJECTS: Final = (
    uid.GrayscaleSoftcopyPresentationStateStorage,
    uid.ColorSoftcopyPresentationStateStorage,
    uid.PseudoColorSoftcopyPresentationStateStorage,
    uid.BlendingSoftcopyPresentationStateStorage,
    uid.AdvancedBlendingPresentationStateStorage,
    uid.ChestCADSRStorage,
    uid.ColonCADSRStorage,
    uid.SpatialFiducialsStorage,
    uid.SurfaceSegmentationStorage,
)
"""What may mark a series, and is not read."""
TIME: Final = re.compile(r"(\d\d)(\d\d)(\d\d(?:\.\d+)?)")
PHASE: Final = ("AcquisitionNumber", "TemporalPositionIdentifier")
NEAR: Final = 1e-3
"""By which PixelSpacing (mm) and the parts of directions may differ within a stack."""
THREADS: Final = 8
BATCH: Final = 4096
"""Files in flight: a list of millions of futures would fill the memory."""


@dataclass(frozen=True, slots=True)
class Slice:
    """One file of a CT series.

    acquisition  its AcquisitionNumber, and TemporalPositionIdentifier where it has one; "" without them
    time_s       its AcquisitionTime since midnight, NaN without one
    size_px      rows, columns
    spacing_mm   of rows, of columns
    """

    file: str
    sop: str
    position_mm: tuple[float, ...]
    acquisition: str
    time_s: float
    size_px: tuple[int, int]
    spacing_mm: tuple[float, ...]
    orientation: tuple[float, ...]

    def alike(self, other: "Slice") -> bool:
        """Whether both can be slices of one stack: of one size, spacing and orientation but for rounding."""
        return (
            self.size_px == other.size_px
            and near(self.spacing_mm, other.spacing_mm)
            and near(self.orientation, other.orientation)
        )


def near(one: Sequence[float], other: Sequence[float], tolerance: float = NEAR) -> bool:
    """Whether numbers of a header are the same but for how they were written."""
    return all(abs(a - b) <= tolerance for a, b in zip(one, other, strict=True))


@dataclass(frozen=True, slots=True)
class Header:
    """One file as far as its header tells. `reason` is why it is no slice to be taken, "" for one that may be.

    kind    slice (one or many), object (what may hold marks), unread (the same, of a kind that is not read) or other
    sop     of an object, its SOPInstanceUID
    refers  of an object, the SeriesInstanceUIDs that it names
    """

    file: str
    kind: str
    reason: str = ""
    series: str = ""
    patient: str = ""
    study: str = ""
    frame: str = ""
    kernel: str = ""
    original: bool = False
    thickness_mm: float = 0.0
    slices: tuple[Slice, ...] = ()
    sop: str = ""
    refers: frozenset[str] = field(default_factory=frozenset)


def read_headers(root: Path, files: Sequence[str], settings: DicomSettings) -> Iterator[Header]:
    """One Header per file, in the files' order; nothing is raised for a bad one. Threads wait for the disk together."""
    left = iter(files)
    with silence_dicom_loggers(), ThreadPoolExecutor(THREADS) as pool:
        while batch := list(islice(left, BATCH)):
            yield from pool.map(lambda file: header_of(root, file, settings), batch)


def header_of(root: Path, file: str, settings: DicomSettings) -> Header:
    """What one file is. Call within `silence_dicom_loggers`."""
    try:
        if not is_dicom_file(root / file):
            return Header(file, "other", _no_dicom(root / file))
        item = read_header(root / file, ALLOWED)
        if is_enhanced(item) and item.get("Modality") == "CT":
            return _of_frames(read_header(root / file, (*ALLOWED, *FUNCTIONAL)), file, settings)
        reason, kind = refusal(item, settings)
        return _kept(item, file, kind, reason)
    except BROKEN:
        return Header(file, "other", "unreadable")


def series_uid(file: Path) -> str:
    """A file's SeriesInstanceUID, "" where it cannot be read."""
    with silence_dicom_loggers():
        try:
            return str(read_header(file, ["SeriesInstanceUID"]).get("SeriesInstanceUID", ""))
        except BROKEN:
            return ""


def refusal(item: pydicom.Dataset, settings: DicomSettings) -> tuple[str, str]:
    """Why a file is no slice of an ordinary CT series ("" if it is one), and its kind."""
    sop_class = uid.UID(str(item.get("SOPClassUID") or item.file_meta.get("MediaStorageSOPClassUID") or ""))
    if MARK_OBJECTS.get(sop_class, "") in settings.marks:
        return "", "object"
    if sop_class in UNREAD_OBJECTS:
        return "", "unread"
    if "SeriesInstanceUID" not in item:
        return _without_series(item, sop_class), "other"
    if item.get("Rows") is None:
        return ("no_image" if sop_class != uid.CTImageStorage else "no_pixel_data"), "other"
    if item.get("Modality") != "CT":
        return "not_ct", "other"
    return _image_refusal(item, settings), "slice"


def _without_series(item: pydicom.Dataset, sop_class: uid.UID) -> str:
    """Of an object that belongs to no series: what is neither an image nor a CT misses none."""
    if sop_class == uid.MediaStorageDirectoryStorage:
        return "dicomdir"
    if item.get("Modality", "CT") != "CT":
        return "not_ct"
    is_other = sop_class and sop_class != uid.CTImageStorage  # a CT slice may have been cut off here
    return "no_image" if is_other and item.get("Rows") is None else "unreadable"


def _image_refusal(item: pydicom.Dataset, settings: DicomSettings) -> str:
    """Of an image with Modality CT."""
    words = {str(word).strip().upper() for word in _list(item.get("ImageType"))}
    checks = {
        "multi_frame": int(item.get("NumberOfFrames") or 1) != 1,
        "localizer": "LOCALIZER" in words,
        "derived": bool(words & set(settings.refused_image_types)) or any("MIP" in word for word in words),
        "secondary_capture": item.SOPClassUID != uid.CTImageStorage,
        "not_grey": int(item.get("SamplesPerPixel", 1)) != 1 or item.get("BitsAllocated") not in (16, 32),
        "not_hu": item.get("RescaleType") not in (None, "", "HU", "US"),
        "no_geometry": any(
            item.get(tag) is None for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
        ),
        "no_rescale": item.get("RescaleSlope") is None or item.get("RescaleIntercept") is None,
    }
    return next((reason for reason, holds in checks.items() if holds), "")


def _no_dicom(file: Path) -> str:
    """A file that is called DICOM and is none is a loss; any other is just something else."""
    try:
        with file.open("rb"):
            named = file.suffix.lower() in (".dcm", ".ima", ".dicom")
    except OSError:
        return "no_permission"
    return "unreadable" if named else "not_dicom"


def _kept(item: pydicom.Dataset, file: str, kind: str, reason: str) -> Header:
    series, study = str(item.get("SeriesInstanceUID", "")), str(item.get("StudyInstanceUID", ""))
    taken = kind == "slice" and not reason
    return Header(
        file=file,
        kind=kind,
        reason=reason,
        series=series,
        patient=str(item.get("PatientID") or "").strip() or study or series,
        study=study,
        frame=str(item.get("FrameOfReferenceUID", "")),
        kernel=" ".join(str(word).strip().upper() for word in _list(item.get("ConvolutionKernel"))[:1]),
        original="ORIGINAL" in _list(item.get("ImageType")),
        thickness_mm=float(item.get("SliceThickness") or 0) if taken else 0.0,
        slices=(_slice(item, file),) if taken else (),
        sop=str(item.get("SOPInstanceUID", "")) if kind == "object" else "",
        refers=frozenset(_series_named(item)) if kind in ("object", "unread") else frozenset(),
    )


def _of_frames(item: pydicom.Dataset, file: str, settings: DicomSettings) -> Header:
    """An enhanced CT: what its frames are, if they are alike in that."""
    of_file = _kept(item, file, "slice", "multi_frame")
    try:
        frames = frames_of(item)
        refused = {_image_refusal(frame, settings) for frame in frames}
        if refused != {""}:
            return replace(of_file, reason=refused.pop() if len(refused) == 1 else "multi_frame")
        slices = tuple(_slice(frame, file) for frame in frames)
    except BROKEN:
        return of_file
    return replace(of_file, reason="", slices=slices, thickness_mm=float(frames[0].get("SliceThickness") or 0))


def _slice(item: pydicom.Dataset, file: str) -> Slice:
    spacing, orientation, position = (
        tuple(map(float, item[tag].value))
        for tag in ("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient")
    )
    if (len(spacing), len(orientation), len(position)) != (2, 6, 3):
        raise ValueError("no geometry")
    if not np.isfinite([*spacing, *orientation, *position]).all():
        raise ValueError("no geometry")
    return Slice(
        file=file,
        sop=str(item.SOPInstanceUID),
        position_mm=position,
        acquisition=".".join(str(item[tag].value) for tag in PHASE if item.get(tag)),
        time_s=_seconds(str(item.get("AcquisitionTime") or "")),
        size_px=(int(item.Rows), int(item.Columns)),
        spacing_mm=spacing,
        orientation=orientation,
    )


def _seconds(time: str) -> float:
    """DICOM's HHMMSS.F as seconds; NaN for anything else."""
    found = TIME.fullmatch(time.strip())
    return sum(float(part) * worth for part, worth in zip(found.groups(), (3600, 60, 1), strict=True)) if found else nan


def _series_named(item: pydicom.Dataset) -> Iterator[str]:
    """Every series that an object's references name, at any depth."""
    for keyword in REFERENCES:
        for part in item.get(keyword) or ():
            yield from (str(each.value) for each in part.iterall() if each.keyword == "SeriesInstanceUID")


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)
