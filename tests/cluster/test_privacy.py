"""Names planted in every text tag, in file names and in tables: a prepared store and what the job says hold none.

What comes after reads nothing but the store, so what is not in there comes out of no run, report or MLflow.
"""

import logging
from pathlib import Path

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest

from harvester.config.settings import Settings
from harvester.distributed.preparation import prepare
from harvester.store.store import Store
from tests.dicom_files import ct, put
from tests.unit.imaging.dicom.test_privacy import AGE, DATE, NAME, TIME, all_text, planted

SECRETS = (NAME, DATE, TIME, AGE, "1.2.3.77")
SETTINGS = {"data": {"kind": "archive", "max_reject_share": 0.9}, "compute": {"replicas": 1}}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A series, one of whose twin a slice is cut short, and NIfTI scans, sound and broken, all named after a person."""
    root, text = tmp_path / NAME, all_text()
    with pydicom.config.disable_value_validation():
        for series in ("1.2.3.77.1", "1.2.3.77.2"):
            for n in range(10):
                item = ct(2.5 * n, SeriesInstanceUID=series, SOPInstanceUID=f"{series}.{n}")
                item.FrameOfReferenceUID = series
                put(root / f"{NAME}-{series}" / f"{n}.dcm", planted(item, text if n == 0 else pydicom.Dataset()))
    cut = root / f"{NAME}-1.2.3.77.2" / "4.dcm"
    cut.write_bytes(cut.read_bytes()[:-40])
    hu = np.zeros((16, 12, 9), np.int16)
    hu[0] = -1000
    image = nibabel.Nifti1Image(hu, np.diag([0.8, 0.8, 2.5, 1]))
    image.header["descrip"] = NAME.encode()
    nibabel.save(image, root / f"{NAME}.nii.gz")
    (root / f"{NAME}-cut.nii.gz").write_bytes((root / f"{NAME}.nii.gz").read_bytes()[:100])
    rows = [f"{NAME}.nii.gz,{NAME},1", f"{NAME}-1.2.3.77.1,{NAME} {DATE},0"]
    (root / "volumes.csv").write_text("\n".join(["file,patient,complete", *rows]) + "\n")
    return root


def test_a_prepared_store_holds_no_name(
    local_ray: None, archive: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    store = prepare(Settings.model_validate(SETTINGS), archive, tmp_path / "store")
    assert (len(store.manifest), len(store.rejects())) == (2, 2)
    check(all_of(store), "a table")
    files = [file for file in (tmp_path / "store").rglob("*") if file.is_file()]
    assert {"manifest.parquet", "splits.csv", "rejects.parquet"} <= {file.name for file in files}
    for file in files:
        check(file.read_bytes().decode("latin-1") + str(file.relative_to(tmp_path)), file.name)
    said = capfd.readouterr()
    check(caplog.text + said.out + said.err, "what the job says")


def all_of(store: Store) -> str:
    """Every table's rows in plain words: parquet may compress them."""
    folder = Path(str(store.path))
    return " ".join(str(pq.read_table(file).to_pylist()) for file in sorted(folder.glob("*.parquet")))


def check(text: str, where: str) -> None:
    for secret in SECRETS:
        assert secret.lower() not in text.lower(), where
