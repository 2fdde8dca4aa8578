"""What a DICOM file tells of a person comes out nowhere: ids, rows, marks, messages, log lines, warnings."""

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.datadict import DicomDictionary

from harvester.config.data import ArchiveSettings
from harvester.datasets.archive.archive import discover, read
from harvester.errors import HarvesterError
from tests.builders import write_volume
from tests.dicom_files import ct, put
from tests.dicom_objects import group, put_segmentation, report, scoord, structures

NAME, DATE, TIME, AGE = "Zebedee", "19471203", "115958", "077Y"
PLANTED = {
    **dict.fromkeys(("PN", "LO", "SH", "ST", "LT", "UT", "UC", "UR", "AE"), NAME),
    "CS": NAME.upper(), "DA": DATE, "DT": DATE + TIME, "TM": TIME, "AS": AGE,
}  # fmt: skip
KEPT = {
    "Modality", "ImageType", "PhotometricInterpretation", "RescaleType", "SpecificCharacterSet", "ValueType",
    "RelationshipType", "GraphicType", "SegmentationType", "SegmentAlgorithmType", "ContourGeometricType",
    "RTROIInterpretedType",
}  # fmt: skip
"""Words that the formats themselves give; all else of these VRs is planted."""
UIDS = ("1.2.3.77", "1.2.10", "1.2.11")


def all_text() -> pydicom.Dataset:
    """A name in every element that holds text, a date in every one that holds a date."""
    item = pydicom.Dataset()
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        if tag >> 16 > 8 - 1 and vr in PLANTED and keyword not in KEPT:
            item.add_new(tag, vr, PLANTED[vr])
    return item


@pytest.fixture(scope="module")
def text() -> pydicom.Dataset:
    return all_text()


def planted(item: pydicom.Dataset, text: pydicom.Dataset) -> pydicom.Dataset:
    """The object with text in each element that it does not need, in its items too; and in a private one."""
    for element in list(item):
        if element.VR == "SQ":
            for part in element.value:
                planted(part, pydicom.Dataset())
        elif element.VR in PLANTED and element.keyword not in {*KEPT, "CodeValue"}:
            element.value = PLANTED[element.VR]
    item.update({tag: element for tag, element in text.items() if tag not in item})
    item.private_block(0x0099, NAME, create=True).add_new(1, "LO", NAME)
    return item


@pytest.fixture
def root(tmp_path: Path, text: pydicom.Dataset) -> Path:
    """A series with a report, a segmentation and contours; folders and files are named after the patient."""
    folder = tmp_path / NAME / DATE
    rectangle = [2, 2, 5, 2, 5, 4, 2, 4]
    short = pydicom.Dataset()  # every tag in one slice, the common ones in all
    short.update({element.tag: element for element in list(text)[:40]})
    with pydicom.config.disable_value_validation():
        for n in range(10):
            item = ct(2.5 * n, SeriesInstanceUID="1.2.3.77", SOPInstanceUID=f"1.2.3.77.{n}")
            put(folder / f"{n}.dcm", planted(item, text if n == 0 else short))
        objects = {
            "sr": report(group(scoord("1.2.3.77.4", "POLYLINE", rectangle)), uid="1.2.3.77"),
            "rt": structures({f"GTV {NAME}": ("GTV", [[-10, -20, 15, -8, -20, 15, -8, -18, 15]])}, uid="1.2.3.77"),
        }
        for name, item in objects.items():
            put(tmp_path / f"{NAME}-{name}.dcm", planted(item, short))
    return tmp_path


def broken(root: Path) -> Iterator[str]:
    """Break the archive in one way after the other; each way's name."""
    files = sorted(root.rglob("?.dcm"))
    for tag, value in {
        "PixelData": b"12", "RescaleSlope": None, "ImagePositionPatient": None, "Rows": 60000,
        "SOPInstanceUID": "1.2.3.77.5", "SpecificCharacterSet": NAME, "Columns": 3, "BitsStored": 99,
        "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "SOPClassUID": "1.2.3",
    }.items():  # fmt: skip
        whole = files[4].read_bytes()
        item = pydicom.dcmread(files[4])
        with pydicom.config.disable_value_validation(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            delattr(item, tag) if value is None else setattr(item, tag, value)
            put(files[4], item)
        yield tag
        files[4].write_bytes(whole)
    for cut in (0, 150, 400, 5000):
        whole = files[4].read_bytes()
        files[4].write_bytes(whole[:cut])
        yield f"cut to {cut}"
        files[4].write_bytes(whole)
    for old, new in ((b"-10\\-20", NAME.encode()), (b"0.7\\0.9 ", b"Zebedee ")):
        whole = files[4].read_bytes()
        files[4].write_bytes(whole.replace(old, new))
        yield f"{old!r} overwritten"
        files[4].write_bytes(whole)
    for file in root.glob("*.dcm"):
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        yield "half an object"
        file.write_bytes(whole.replace(b"POLYLINE", b"Zebedee "))
        yield "another word in an object"
        file.write_bytes(whole)


def outputs(root: Path, store: Path) -> list[Any]:
    """All that comes out of an archive but its voxels."""
    out: list[Any] = []
    found = discover(root, ArchiveSettings(), 0, "salt")
    out += [row.row for row in found.rejects]
    for case in found.cases:
        out += [case.volume_id, case.patient_id, case.split]
        try:
            volume, marks = read(case, root)
            out += [asdict(mark) for mark in marks]
            out.append(write_volume(store, volume, case.split, "hash"))
        except HarvesterError as error:
            out += [str(error), repr(error), str(error.__cause__)]
    return out


def check(text: str) -> None:
    for secret in (NAME, DATE, TIME, AGE, *UIDS):
        assert secret.lower() not in text.lower()


def test_no_text_of_a_file_comes_out(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    sound = outputs(root, tmp_path / "store")
    assert len([row for row in sound if isinstance(row, dict) and "mark_id" in row]) == 2
    assert any(isinstance(row, dict) and row.get("depth") == 10 for row in sound)
    check(json.dumps(sound))
    ways = []
    for way in broken(root):
        ways.append(way)
        caplog.clear()  # what breaking it logged
        capfd.readouterr()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            out = outputs(root, tmp_path / "store")
        assert out != sound or way == "SpecificCharacterSet", way
        captured = capfd.readouterr()
        said = [caplog.text, captured.out, captured.err, *(str(each.message) for each in warned)]
        check(json.dumps(out + said))
    assert len(ways) == 20


def test_segment_labels_do_not_come_out(root: Path, tmp_path: Path) -> None:
    import numpy as np

    for file in root.glob("*.dcm"):
        file.unlink()
    plain = tmp_path / "plain"
    for n in range(10):
        put(plain / f"{n}.dcm", ct(2.5 * n, SOPInstanceUID=f"1.2.3.{n}"))
    mask = np.zeros((10, 6, 8), bool)
    mask[4, 2:4, 3:6] = True
    file = put_segmentation(plain / "seg.dcm", plain, [mask])
    out = outputs(plain, tmp_path / "store")
    assert any(isinstance(row, dict) and "mark_id" in row for row in out)
    assert "Jane" not in json.dumps(out)
    assert b"Jane" in file.read_bytes()


def test_the_plants_are_there(root: Path, text: pydicom.Dataset) -> None:
    """Else the search proves nothing."""
    assert len(text) > 1500
    data = next(root.rglob("0.dcm")).read_bytes()
    assert min(data.count(secret.encode()) for secret in (NAME, DATE, TIME, AGE)) >= 1
    assert copy.copy(text).PatientName == NAME
    assert all(NAME.encode() in file.read_bytes() for file in root.glob("*.dcm"))
