"""Writing DICOM SR (labels/dicom/sr.py reads it), TID 1500: one measurement group per lesion.

Its box (TID 1410) lies on its key slice of the original series.

An unverified, preliminary report by a device: VerificationFlag UNVERIFIED, no person named. Only the images that it
points at are its evidence; highdicom copies patient and study from them. Coordinates are those of DICOM: the outer
edge of the first pixel is 0, so that an inclusive box is drawn from (x1, y1) to (x2 + 1, y2 + 1).
"""

from pathlib import Path
from typing import Final

import numpy as np
from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from harvester import __version__
from harvester.export import dicom_origin
from harvester.export.selection import LabelledVolume, Row, index_rows, key_box
from harvester.records import Box, boxes_of

DEVICE: Final = "lesion proposals and their classifier"


def write(labelled: LabelledVolume, folder: Path, made_by: Row) -> list[Row]:
    """Write <volume_id>.sr.dcm; one row per lesion. Raises export.REFUSED where highdicom refuses it."""
    file = folder / f"{labelled.volume['volume_id']}.sr.dcm"
    report(labelled, made_by).save_as(file)
    return index_rows(file, labelled.labels)


def report(labelled: LabelledVolume, made_by: Row) -> sr.ComprehensiveSR:
    """The document of a volume with at least one label, and the headers of its series."""
    labels = list(labelled.labels)
    slices = labelled.grid.slices
    drawn = [key_box(slices.file_boxes(boxes_of(label))) for label in labels]
    images = dicom_origin.evidence(labelled, sorted({k for k, _ in drawn}))
    groups = [_group(label, labelled.grid.headers[k], box) for label, (k, box) in zip(labels, drawn, strict=True)]
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=dicom_origin.uid("device", labels[0]["model_hash"]),
        name=dicom_origin.NAME,
        manufacturer_name=dicom_origin.NAME,
        model_name=DEVICE,
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(sr.ObserverContext(codes.DCM.Device, device)),
        procedure_reported=codes.cid100.CTUnspecifiedBodyRegion,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    return sr.ComprehensiveSR(
        evidence=images,
        content=content[0],
        is_complete=not made_by["capped"],
        **dicom_origin.document("sr", labels, str(images[0].SeriesInstanceUID), made_by["made"]),
    )


def _group(label: Row, image: Dataset, box: Box) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    certainty = sr.Measurement(
        name=codes.DCM.CertaintyOfFinding, value=round(100 * label["score"], 2), unit=codes.UCUM.Percent
    )
    algorithm = sr.AlgorithmIdentification(
        dicom_origin.NAME,
        __version__,
        parameters=[f"{name} = {value}" for name, value in dicom_origin.parameters(label).items()],
    )
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(dicom_origin.tracking_uid(label), label["label_id"]),
        referenced_region=_region(image, box),
        finding_type=dicom_origin.LESION,
        finding_category=dicom_origin.ABNORMAL,
        algorithm_id=algorithm,
        measurements=[certainty],
    )


def _region(image: Dataset, box: Box) -> sr.ImageRegion:
    x1, y1, x2, y2 = box[0], box[1], box[2] + 1, box[3] + 1
    outline = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]])
    inside = np.clip(outline, 0, [int(image.Columns), int(image.Rows)])
    source = sr.SourceImageForRegion(image.SOPClassUID, image.SOPInstanceUID)
    return sr.ImageRegion(sr.GraphicTypeValues.POLYLINE, inside, source)
