"""Objects that mark lesions in a series of dicom_making, as other programs write them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
from highdicom.sr.coding import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ComprehensiveSRStorage, RTStructureSetStorage

from tests.dicom_files import FRAME, STUDY, put

TUMOUR = codes.SCT.Neoplasm
PATIENT = {
    "PatientName": "Doe^Jane", "PatientBirthDate": "19500101", "PatientSex": "F", "StudyDate": "20200101",
    "StudyTime": "120000", "AccessionNumber": "A1", "StudyID": "S1", "ReferringPhysicianName": "Who",
    "SeriesNumber": 1, "Manufacturer": "M", "SliceThickness": 2.5,
}  # fmt: skip
"""What highdicom copies from source images."""


def code(value: str, scheme: str = "DCM") -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, "a meaning in words"
    return item


def content(kind: str, name: str, below: Sequence[Dataset] = (), **changes: Any) -> Dataset:
    """One content item of a report."""
    item = Dataset()
    item.ValueType, item.RelationshipType = kind, "CONTAINS"
    item.ConceptNameCodeSequence = [code(name)]
    for tag, value in changes.items():
        setattr(item, tag, value)
    if below:
        item.ContentSequence = list(below)
    return item


def image(sop: str) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = pydicom.uid.CTImageStorage, sop
    item = content("IMAGE", "121112", ReferencedSOPSequence=[reference])
    item.RelationshipType = "SELECTED FROM"
    return item


def scoord(sop: str, graphic: str, points: Sequence[float]) -> Dataset:
    return content("SCOORD", "111030", [image(sop)], GraphicType=graphic, GraphicData=[float(p) for p in points])


def scoord3d(graphic: str, points: Sequence[float], frame: str = FRAME) -> Dataset:
    graphic_data = {"GraphicType": graphic, "GraphicData": [float(p) for p in points]}
    return content("SCOORD3D", "111030", ReferencedFrameOfReferenceUID=frame, **graphic_data)


def measured(*regions: Dataset) -> Dataset:
    """A length, as RECIST tools write it: the lines hang below the number."""
    return content("NUM", "103339001", regions)


def group(*items: Dataset, tracking: str = "", site: str = "") -> Dataset:
    below = list(items)
    if tracking:
        below.append(content("UIDREF", "112040", UID=tracking))
    if site:
        below.append(content("CODE", "363698007", ConceptCodeSequence=[code(site, "SCT")]))
    return content("CONTAINER", "125007", below)


def observer(kind: str) -> Dataset:
    return content("CODE", "121005", ConceptCodeSequence=[code(kind)])


def referred(uid: str = "1.2.3") -> Dataset:
    study, series = Dataset(), Dataset()
    series.SeriesInstanceUID, study.ReferencedSeriesSequence, study.StudyInstanceUID = uid, [series], STUDY
    return study


def report(*groups: Dataset, uid: str = "1.2.3", **changes: Any) -> Dataset:
    """A structured report that refers to a series."""
    item = Dataset()
    item.SOPClassUID, item.SOPInstanceUID = ComprehensiveSRStorage, "1.6.1"
    item.StudyInstanceUID, item.SeriesInstanceUID, item.Modality = STUDY, "1.6", "SR"
    item.CurrentRequestedProcedureEvidenceSequence = [referred(uid)]
    item.ContentSequence = [content("CONTAINER", "126010", groups)]
    for tag, value in changes.items():
        setattr(item, tag, value)
    return item


def structures(rois: dict[str, tuple[str, list[list[float]]]], uid: str = "1.2.3") -> Dataset:
    """A structure set: name -> (interpreted type, closed contours as x, y, z, x, y, z ... in mm)."""
    item = Dataset()
    item.SOPClassUID, item.SOPInstanceUID = RTStructureSetStorage, "1.7.1"
    item.StudyInstanceUID, item.SeriesInstanceUID, item.Modality = STUDY, "1.7", "RTSTRUCT"
    frame, study = Dataset(), Dataset()
    study.RTReferencedSeriesSequence = referred(uid).ReferencedSeriesSequence
    frame.RTReferencedStudySequence, frame.FrameOfReferenceUID = [study], FRAME
    item.ReferencedFrameOfReferenceSequence = [frame]
    item.StructureSetROISequence, item.RTROIObservationsSequence, item.ROIContourSequence = [], [], []
    for number, (name, (kind, contours)) in enumerate(rois.items(), start=1):
        roi, observation, drawn = Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, name, FRAME
        observation.ReferencedROINumber, observation.RTROIInterpretedType = number, kind
        drawn.ReferencedROINumber, drawn.ContourSequence = number, [closed(points) for points in contours]
        item.StructureSetROISequence.append(roi)
        item.RTROIObservationsSequence.append(observation)
        item.ROIContourSequence.append(drawn)
    return item


def closed(points_mm: list[float]) -> Dataset:
    item = Dataset()
    item.ContourGeometricType, item.ContourData = "CLOSED_PLANAR", [f"{value:.3f}" for value in points_mm]
    item.NumberOfContourPoints = len(points_mm) // 3
    return item


def put_segmentation(
    path: Path, folder: Path, segments_zyx: Sequence[Any], by: str = "MANUAL", organ: bool = False, **changes: Any
) -> Path:
    """A SEG by highdicom on the series in `folder`: one boolean (slices, rows, columns) array a segment."""
    sources = [pydicom.dcmread(file) for file in sorted(folder.glob("*.dcm"))]
    for source in sources:
        for tag, value in PATIENT.items():
            setattr(source, tag, value)
    algorithm = hd.AlgorithmIdentificationSequence("A", codes.DCM.ArtificialIntelligence, "1")
    described = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=f"Doe Jane {number}",
            segmented_property_category=codes.SCT.Organ if organ else codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Liver if organ else TUMOUR,
            algorithm_type=by,
            algorithm_identification=None if by == "MANUAL" else algorithm,
            tracking_id=f"t{number}",
            tracking_uid=f"1.99.{number}",
            anatomic_regions=[CodedConcept("39607008", "SCT", "Lung")],
        )
        for number in range(1, len(segments_zyx) + 1)
    ]
    item = hd.seg.Segmentation(
        sources,
        np.stack(segments_zyx, axis=-1).astype(np.uint8),
        changes.pop("kind", "BINARY"),
        described,
        series_instance_uid="1.5",
        series_number=5,
        sop_instance_uid="1.5.1",
        instance_number=1,
        manufacturer="M",
        manufacturer_model_name="M",
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=True,
        **changes,
    )
    return put(path, item)
