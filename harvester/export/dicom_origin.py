"""What the DICOM objects that we write say alike: the algorithm, the device, the UIDs. Needs highdicom."""

import uuid
from collections.abc import Iterable
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from harvester.errors import VolumeError
from harvester.export.selection import PROVEN, LabelledVolume, Row

NAME: Final = "harvester"
NAMESPACE: Final = uuid.UUID("0b0dbd5e-9f0c-4d0e-8d0b-5f1c2f3e7a11")
"""UIDs of ours are hashes in it: the same lesion has one tracking UID in every report, whoever writes it."""
LESION: Final = Code("52988006", "SCT", "Lesion")
ABNORMAL: Final = Code("49755003", "SCT", "Morphologically Abnormal Structure")
DESCRIPTION: Final = "Machine-made findings, UNVERIFIED"
"""Of the series, where viewers show it; 64 characters at most."""


def uid(*parts: object) -> str:
    """A UID (2.25...) that follows from the parts."""
    return f"2.25.{uuid.uuid5(NAMESPACE, '/'.join(map(str, parts))).int}"


def evidence(labelled: LabelledVolume, slices: Iterable[int]) -> list[Dataset]:
    """The headers of these slices, for highdicom to copy patient and study from.

    References to a study that name none, which de-identification leaves behind, would make our objects invalid too.
    """
    headers = [labelled.grid.headers[k] for k in slices]
    if any("#" in str(header.SOPInstanceUID) for header in headers):
        raise VolumeError(
            "multi_frame",
            f"volume {labelled.volume['volume_id']}: is one file of many frames, to which our DICOM objects cannot "
            "refer; export it as nifti, csv or coco",
        )
    for header in headers:
        if any("ReferencedSOPClassUID" not in item for item in header.get("ReferencedStudySequence") or ()):
            del header.ReferencedStudySequence
    return headers


def tracking_uid(label: Row) -> str:
    """One for each lesion of a run."""
    return uid("lesion", label["run_id"], label["volume_id"], label["label_id"])


def parameters(label: Row) -> dict[str, str]:
    """What identifies the models and the run that found a label, and what was proven of them."""
    origin = {"model": label["model_hash"], "run": label["run_id"]} | {name: label[name] for name in ("round", *PROVEN)}
    return {name: f"{v:.4g}" if isinstance(v, float) else str(v) for name, v in origin.items() if v is not None}


def document(kind: str, labels: list[Row], series: str, made: str) -> dict[str, Any]:
    """The UIDs and numbers of an object and its series, for highdicom: a later one is another object."""
    which = [f"{label['run_id']}/{label['label_id']}" for label in labels]
    return {
        "series_instance_uid": uid(kind, "series", series, made, *which),
        "sop_instance_uid": uid(kind, "instance", series, made, *which),
        "series_number": 9901 if kind == "sr" else 9902,
        "instance_number": 1,
        "manufacturer": NAME,
        "series_description": DESCRIPTION,
    }
