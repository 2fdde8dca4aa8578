"""DICOM files for tests: CT slices, series, and what lies about in archives beside them."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

PLANE = np.arange(6 * 8, dtype=np.uint16).reshape(6, 8) + 1000
PLANE[0] = 24
"""Soft tissue below a row of air."""
STUDY, FRAME = "1.2.10", "1.2.11"


def ct(z_mm: float = 0.0, stored_yx: Any = PLANE, **changes: Any) -> pydicom.Dataset:
    """One CT slice of series 1.2.3; `changes` set or, where None, remove elements."""
    item = pydicom.Dataset()
    item.SOPClassUID, item.SOPInstanceUID = CTImageStorage, f"1.2.3.{round(1000 * z_mm) + 10**6}"
    item.StudyInstanceUID, item.SeriesInstanceUID, item.FrameOfReferenceUID = STUDY, "1.2.3", FRAME
    item.Modality, item.ImageType, item.PatientID = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"], "secret^name"
    item.ImageOrientationPatient, item.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-10, -20, z_mm]
    item.PixelSpacing, item.InstanceNumber = [0.7, 0.9], round(z_mm * 10)
    item.RescaleSlope, item.RescaleIntercept = 1, -1024
    stored = np.asarray(stored_yx)
    item.Rows, item.Columns = stored.shape
    item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
    item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation = 16, 16, 15, 0
    item.PixelData = np.ascontiguousarray(stored).astype("<u2").tobytes()
    for tag, value in changes.items():
        delattr(item, tag) if value is None else setattr(item, tag, value)
    return item


def put(path: Path, item: pydicom.Dataset, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write an object as a DICOM file."""
    if not hasattr(item, "file_meta"):
        item.file_meta = FileMetaDataset()
        item.file_meta.TransferSyntaxUID = syntax
    item.file_meta.MediaStorageSOPClassUID = item.get("SOPClassUID", CTImageStorage)
    item.file_meta.MediaStorageSOPInstanceUID = item.get("SOPInstanceUID", "1.2")
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, item, enforce_file_format=True)
    return path


def put_series(folder: Path, count: int = 10, uid: str = "1.2.3", gap_mm: float = 2.5, **changes: Any) -> Path:
    """A series of `count` slices of its own values, upwards from 0 mm."""
    for n in range(count):
        sop = f"{uid}.{n + 1}"
        item = ct(gap_mm * n, PLANE + n, **{"SeriesInstanceUID": uid, "SOPInstanceUID": sop, **changes})
        put(folder / f"{n:03d}.dcm", item)
    return folder
