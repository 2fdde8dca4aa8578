"""A finished run on a small archive with every name planted: two DICOM series that lie differently, and a NIfTI."""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from harvester.config.data import ArchiveSettings
from harvester.config.loading import dump
from harvester.config.settings import Settings
from harvester.datasets.archive import archive
from harvester.records import ACCEPTED, HARVEST, Box
from harvester.store.store import Store, finish_store
from tests.builders import boxes, labels, write_volume
from tests.summaries import summary_tree

SALT = "00ff" * 8
RUN_ID, MODEL = "0123456789ab", "ba9876543210"
COLUMNS, ROWS, DEPTH = 40, 32, 8


class Finished(NamedTuple):
    """Where things lie, the volume of each scan, and the ledger's harvested rows."""

    run: Path
    store: Store
    source: Path
    supine: str
    turned: str
    nifti: str


def write_series(folder: Path, uid: str, orientation: tuple[float, ...], step_mm: float) -> None:
    """A CT series of DEPTH slices; file names do not follow their order."""
    folder.mkdir(parents=True)
    for number in range(DEPTH):
        item = pydicom.Dataset()
        item.SOPClassUID, item.SOPInstanceUID = CTImageStorage, f"{uid}.{number}"
        item.StudyInstanceUID, item.SeriesInstanceUID, item.FrameOfReferenceUID = f"{uid}9", uid, f"{uid}8"
        item.Modality, item.PatientName, item.PatientID = "CT", "ZEBRA^Ann", f"ZEBRA{uid[-1]}"
        item.PatientBirthDate, item.PatientSex, item.AccessionNumber = "19310203", "F", "ACC777"
        item.StudyDate, item.StudyTime, item.StudyID = "20200102", "101112", "1"
        item.ReferringPhysicianName, item.StudyDescription = "ZEBRA^Bob", "for ZEBRA"
        item.ImageType, item.SeriesNumber, item.InstanceNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], 1, number
        item.ImageOrientationPatient, item.PatientPosition = list(orientation), "HFS"
        item.ImagePositionPatient = [-10.5, -20.25, 100 + step_mm * number]
        item.PixelSpacing, item.SliceThickness = [0.75, 0.5], 4
        item.RescaleSlope, item.RescaleIntercept, item.RescaleType = 1, -1024, "HU"
        item.Rows, item.Columns = ROWS, COLUMNS
        item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
        item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation = 16, 16, 15, 0
        plane = np.full((ROWS, COLUMNS), 1000 + number, np.uint16)
        plane[:, 0] = 24  # air
        item.PixelData = plane.tobytes()
        item.file_meta = FileMetaDataset()
        item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        item.file_meta.MediaStorageSOPClassUID = item.SOPClassUID
        item.file_meta.MediaStorageSOPInstanceUID = item.SOPInstanceUID
        name = folder / f"ZEBRA_{(number * 5) % DEPTH}.dcm"
        pydicom.dcmwrite(name, item, enforce_file_format=True)


def label(volume_id: str, number: int, by_slice: dict[int, Box], **changes: Any) -> dict[str, Any]:
    """A harvested ledger row; boxes by stored slice."""
    row = {
        "volume_id": volume_id,
        "label_id": f"harvested-0-{number}",
        "role": "lesion",
        "source": "harvested",
        "round": 0,
        "score": 1 - number / 16,
        "model_hash": MODEL,
        "run_id": RUN_ID,
    }
    return row | boxes(by_slice) | changes


BOXES: dict[int, Box] = {2: (3, 4, 9.25, 8), 3: (2.5, 4, 10, 9.5), 4: (4, 5, 8, 8)}
"""On three slices, the second one the largest."""


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    root = tmp_path_factory.mktemp("made")
    source = root / "source"
    write_series(source / "ZEBRA" / "ct", "1.2.826.55.1", (1, 0, 0, 0, 1, 0), 4.0)
    # Rows run to the patient's right and columns to the front: x and y are turned for the store.
    write_series(source / "other", "1.2.826.55.2", (-1, 0, 0, 0, -1, 0), 4.0)
    ras = np.diag([0.5, 0.75, 4.0, 1.0])
    ras[:3, 3] = (5, 6, 7)
    hu = np.full((COLUMNS, ROWS, DEPTH), 40, np.int16)
    hu[0] = -1000
    nibabel.save(nibabel.Nifti1Image(hu, ras), source / "ZEBRA.nii.gz")
    folder = root / "run" / "store"
    folder.mkdir(parents=True)
    (root / "run" / "store.salt").write_text(SALT + "\n")
    rows, by_kind = [], {}
    for case in archive.discover(source, ArchiveSettings(), 0, SALT).cases:
        volume, _ = archive.read(case, source)
        rows.append(write_volume(folder, volume, "vh", "h"))
        kind = "nifti" if "nii" in case.files[0] else "turned" if "other" in case.files[0] else "supine"
        by_kind[kind] = case.volume_id
    store = finish_store(folder, rows, [], [])
    write_run(root / "run", list(by_kind.values()))
    return Finished(root / "run", store, source, by_kind["supine"], by_kind["turned"], by_kind["nifti"])


@pytest.fixture
def finished(made_once: Finished, tmp_path: Path) -> Finished:
    """A copy that a test may break."""
    for name in ("run", "source"):
        shutil.copytree(made_once.run.parent / name, tmp_path / name)
    store = Store.open(tmp_path / "run" / "store")
    return made_once._replace(run=tmp_path / "run", store=store, source=tmp_path / "source")


def write_run(run: Path, volume_ids: list[str]) -> None:
    """What a finished run leaves: two lesions per volume that overlap, a mark of the archive, a hard negative."""
    ledger = []
    for volume_id in volume_ids:
        ledger.append(label(volume_id, 1, BOXES))
        ledger.append(label(volume_id, 2, {3: (6, 6, 14, 12), 6: (20.5, 10, 30, 20.5)}))
        mark = {"label_id": f"{volume_id}-0", "source": "clinical", "round": -1}
        none = dict.fromkeys(("score", "model_hash", "run_id"))
        ledger.append(label(volume_id, 0, {1: (1, 2, 3, 4)}, **mark, **none))
        negative = {"label_id": "hard_negative_vh-0-7", "role": "hard_negative", "source": "hard_negative_vh"}
        ledger.append(label(volume_id, 7, {7: (30, 20, 35, 25)}, **negative))
    write_ledger(run, ledger)


def write_ledger(run: Path, ledger: list[dict[str, Any]]) -> None:
    """The files of a finished run with this ledger."""
    proven = {"threshold": 0.5, "precision_bound": 0.91}
    harvest = [
        {name: row[name] for name in ("volume_id", "round", "score")} | proven | {"lesion_id": row["label_id"]}
        for row in ledger
        if row["source"] == "harvested"
    ]
    pq.write_table(labels(*ledger), run / "ledger.parquet")
    pq.write_table(pa.Table.from_pylist(harvest, HARVEST), run / "harvest.parquet")
    pq.write_table(ACCEPTED.empty_table(), run / "calibration.parquet")
    (run / "settings.yaml").write_text(dump(Settings()))
    (run / "summary.json").write_text(json.dumps(summary_tree(RUN_ID, len(harvest))))
