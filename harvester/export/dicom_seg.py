"""Writing DICOM SEG (labels/dicom/seg.py reads it): one segment per lesion, on the slices of the original series.

Every segment is AUTOMATIC, with the algorithm's name, version and models. A box is drawn by the pixels whose centres
lie in it, so that it comes back to half a pixel. Segments may overlap. Only slices with a box are stored.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
from highdicom import AlgorithmIdentificationSequence, seg
from numpy.typing import NDArray
from pydicom.sr.codedict import codes

from harvester import __version__
from harvester.errors import VolumeError
from harvester.export import dicom_origin
from harvester.export.nifti import pixels
from harvester.export.selection import LabelledVolume, Row, index_rows
from harvester.records import boxes_of

MOST: Final = 255
"""Segments that highdicom can number in one object: it does so with 8 bits."""
LABEL: Final = "MACHINE_BOXES"
DESCRIPTION: Final = "Boxes of machine-made findings, not verified"


def write(labelled: LabelledVolume, folder: Path, made_by: Row) -> list[Row]:
    """Write <volume_id>.seg.dcm; one row per segment. Raises VolumeError too_many, and export.REFUSED where highdicom
    refuses it."""
    if len(labelled.labels) > MOST:
        raise VolumeError(
            "too_many",
            f"volume {labelled.volume['volume_id']}: {len(labelled.labels)} lesions, and a segmentation holds {MOST}; "
            f"give --max-per-report {MOST}, or --to dicom-sr or nifti",
        )
    file = folder / f"{labelled.volume['volume_id']}.seg.dcm"
    segmentation(labelled, made_by).save_as(file)
    return index_rows(file, labelled.labels)


def segmentation(labelled: LabelledVolume, made_by: Row) -> seg.Segmentation:
    """The segmentation of a volume with at least one label, and the headers of its series."""
    labels = list(labelled.labels)
    slices, planes = _planes(labelled)
    images = dicom_origin.evidence(labelled, slices)
    return seg.Segmentation(
        source_images=images,
        pixel_array=planes,
        segmentation_type=seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_segment(number, label) for number, label in enumerate(labels, 1)],
        manufacturer_model_name=dicom_origin.NAME,
        software_versions=__version__,
        device_serial_number=dicom_origin.uid("device", labels[0]["model_hash"])[-16:],
        content_label=LABEL,
        content_description=DESCRIPTION,
        **dicom_origin.document("seg", labels, str(images[0].SeriesInstanceUID), made_by["made"]),
    )


def _planes(labelled: LabelledVolume) -> tuple[list[int], NDArray[np.uint8 | np.uint16]]:
    """The file's slices that hold a box, and their pixels: segments' numbers, or one layer each where they overlap."""
    placed = [labelled.grid.slices.file_boxes(boxes_of(label)) for label in labelled.labels]
    slices = sorted({k for boxes_of_one in placed for k, _ in boxes_of_one})
    columns, rows, _ = labelled.grid.slices.shape
    numbers = np.zeros((len(slices), rows, columns), np.uint16)
    filled = [
        [(slices.index(k), pixels(j1, j2), pixels(i1, i2)) for k, (i1, j1, i2, j2) in boxes_of_one]
        for boxes_of_one in placed
    ]
    for number, areas in enumerate(filled, 1):
        if any(numbers[area].any() for area in areas):
            return slices, _layers(numbers.shape, filled)
        for area in areas:
            numbers[area] = number
    return slices, numbers


def _layers(shape: tuple[int, ...], filled: list[list[Any]]) -> NDArray[np.uint8]:
    layers = np.zeros((*shape, len(filled)), np.uint8)
    for place, areas in enumerate(filled):
        for area in areas:
            layers[(*area, place)] = 1
    return layers


def _segment(number: int, label: Row) -> seg.SegmentDescription:
    algorithm = AlgorithmIdentificationSequence(
        dicom_origin.NAME,
        codes.cid7162.ArtificialIntelligence,
        __version__,
        source=dicom_origin.NAME,
        parameters=dicom_origin.parameters(label),
    )
    return seg.SegmentDescription(
        segment_number=number,
        segment_label=f"{label['label_id']} ({100 * label['score']:.1f} %)",
        segmented_property_category=dicom_origin.ABNORMAL,
        segmented_property_type=dicom_origin.LESION,
        algorithm_type=seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=dicom_origin.tracking_uid(label),
        tracking_id=label["label_id"],
    )
