"""SR and SEG read back by highdicom and pydicom: boxes to half a pixel, marked as machine-made, quiet about names."""

import json
import logging
import os
import runpy
import shutil
import struct
import subprocess
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from harvester.errors import VolumeError
from harvester.export.file_grid import dicom_grid

ROOT = Path(__file__).parents[3]
hd = pytest.importorskip("highdicom", reason="highdicom is not installed: pip install highdicom")
main = runpy.run_path(str(ROOT / "jobs" / "export.py"))["main"]

COLUMNS, ROWS = 40, 32
FIRST = {2: (3, 4, 9.25, 8), 3: (2.5, 4, 10, 9.5), 4: (4, 5, 8, 8)}
SECOND = {3: (6, 6, 14, 12), 6: (20.5, 10, 30, 20.5)}


def exported(finished: Any, to: str, *more: str) -> Path:
    out: Path = finished.run.parent / f"out-{to}"
    given = ["--run", str(finished.run), "--to", to, "--out", str(out), "--skip-missing"]
    assert main([*given, "--source", str(finished.source), *more]) == 0
    return out


@pytest.fixture(scope="module")
def written(made_once: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both kinds of objects, to be looked at."""
    folder = tmp_path_factory.mktemp("written")
    for to in ("dicom-sr", "dicom-seg"):
        given = ["--run", str(made_once.run), "--to", to, "--out", str(folder / to), "--skip-missing"]
        assert main([*given, "--source", str(made_once.source)]) == 0
    return {to: folder / to for to in ("dicom-sr", "dicom-seg")}


def turned(box: tuple[float, ...]) -> tuple[float, ...]:
    x1, y1, x2, y2 = box
    return COLUMNS - 1 - x2, ROWS - 1 - y2, COLUMNS - 1 - x1, ROWS - 1 - y1


def slices_of(finished: Any, folder: str) -> dict[str, int]:
    """Each SOP instance's place along the patient's axis."""
    headers = [pydicom.dcmread(file) for file in (finished.source / folder).iterdir()]
    ordered = sorted(headers, key=lambda header: float(header.ImagePositionPatient[2]))
    return {header.SOPInstanceUID: z for z, header in enumerate(ordered)}


def sr_boxes(report: Any, slices: dict[str, int]) -> dict[str, tuple[int, list[float]]]:
    """(slice, inclusive box) by tracking identifier, from the outer edges that SCOORD draws."""
    found = {}
    for group in report.content.get_planar_roi_measurement_groups():
        region = group.roi
        corners = np.array(region.value)
        image = region.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        low, high = corners.min(axis=0), corners.max(axis=0) - 1
        found[group.tracking_identifier] = (slices[image], [*low, *high])
    return found


def test_sr_boxes_come_back_on_their_key_slice(made_once: Any, written: dict[str, Path]) -> None:
    out = written["dicom-sr"]
    for volume, folder, way in ((made_once.supine, "ZEBRA/ct", tuple), (made_once.turned, "other", turned)):
        found = sr_boxes(hd.sr.srread(out / f"{volume}.sr.dcm"), slices_of(made_once, folder))
        assert {name: z for name, (z, _) in found.items()} == {"harvested-0-1": 3, "harvested-0-2": 6}
        np.testing.assert_allclose(found["harvested-0-1"][1], way(FIRST[3]), atol=1e-4)
        np.testing.assert_allclose(found["harvested-0-2"][1], way(SECOND[6]), atol=1e-4)


def test_sr_says_who_found_it_and_that_nobody_checked(made_once: Any, written: dict[str, Path]) -> None:
    file = written["dicom-sr"] / f"{made_once.supine}.sr.dcm"
    report = hd.sr.srread(file)
    assert report.VerificationFlag == "UNVERIFIED"
    assert (report.PreliminaryFlag, report.CompletionFlag) == ("PRELIMINARY", "COMPLETE")
    assert "UNVERIFIED" in report.SeriesDescription
    assert "VerifyingObserverSequence" not in report
    (observer,) = report.content.get_observer_contexts()
    assert observer.observer_type.meaning == "Device"
    first = report.content.get_planar_roi_measurement_groups()[0]
    (certainty,) = first.get_measurements(name=pydicom.sr.codedict.codes.DCM.CertaintyOfFinding)
    assert (certainty.value, certainty.unit.value) == (93.75, "%")
    for text in (b"Algorithm Name", b"model = ba9876543210", b"run = 0123456789ab", b"precision_bound = 0.91"):
        assert file.read_bytes().count(text) == 2  # one per lesion
    assert report.StudyInstanceUID == "1.2.826.55.19"
    assert report.PatientName == "ZEBRA^Ann"
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert evidence.SeriesInstanceUID == "1.2.826.55.1"
    assert len(evidence.ReferencedSOPSequence) == 2


def test_a_capped_report_is_partial_and_holds_the_best(finished: Any) -> None:
    report = hd.sr.srread(exported(finished, "dicom-sr", "--max-per-report", "1") / f"{finished.supine}.sr.dcm")
    assert report.CompletionFlag == "PARTIAL"
    (group,) = report.content.get_planar_roi_measurement_groups()
    assert group.tracking_identifier == "harvested-0-1"


def seg_boxes(segmentation: Any, slices: dict[str, int], number: int) -> dict[int, tuple[int, ...]]:
    uids = sorted(slices, key=lambda uid: slices[uid])
    planes = segmentation.get_pixels_by_source_instance(
        uids, segment_numbers=[number], assert_missing_frames_are_empty=True, ignore_spatial_locations=True
    )[..., 0]
    found = {}
    for z, plane in enumerate(planes):
        inside = np.argwhere(plane)
        if len(inside):
            (y1, x1), (y2, x2) = inside.min(axis=0).tolist(), inside.max(axis=0).tolist()
            found[z] = (x1, y1, x2, y2)
    return found


def test_seg_boxes_come_back_on_every_slice_although_they_overlap(made_once: Any, written: dict[str, Path]) -> None:
    out = written["dicom-seg"]
    for volume, folder, way in ((made_once.supine, "ZEBRA/ct", tuple), (made_once.turned, "other", turned)):
        segmentation = hd.seg.segread(out / f"{volume}.seg.dcm")
        slices = slices_of(made_once, folder)
        for number, want in ((1, FIRST), (2, SECOND)):
            found = seg_boxes(segmentation, slices, number)
            assert found.keys() == want.keys()
            for z, box in found.items():
                np.testing.assert_allclose(box, way(want[z]), atol=0.5)


def test_segments_are_automatic_and_name_their_models(made_once: Any, written: dict[str, Path]) -> None:
    segmentation = hd.seg.segread(written["dicom-seg"] / f"{made_once.supine}.seg.dcm")
    assert "UNVERIFIED" in segmentation.SeriesDescription
    for segment in segmentation.SegmentSequence:
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
        assert algorithm.AlgorithmName == "harvester"
        assert "model=ba9876543210" in algorithm.AlgorithmParameters
    sr = hd.sr.srread(written["dicom-sr"] / f"{made_once.supine}.sr.dcm")
    tracked = {group.tracking_uid for group in sr.content.get_planar_roi_measurement_groups()}
    assert tracked == {segment.TrackingUID for segment in segmentation.SegmentSequence}


def test_more_lesions_than_a_segmentation_holds_are_one_line(finished: Any, capsys: pytest.CaptureFixture[str]) -> None:
    conftest = runpy.run_path(str(Path(__file__).parent / "conftest.py"))
    many = [conftest["label"](finished.supine, number, FIRST, score=0.5) for number in range(256)]
    conftest["write_ledger"](finished.run, many)
    out = finished.run.parent / "out"
    given = ["--run", str(finished.run), "--to", "dicom-seg", "--out", str(out), "--source", str(finished.source)]
    assert main([*given, "--max-per-report", "300"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "256 lesions, and a segmentation holds 255; give --max-per-report 255" in said
    assert main([*given, "--max-per-report", "255"]) == 0
    assert len(hd.seg.segread(out / f"{finished.supine}.seg.dcm").SegmentSequence) == 255


def test_what_is_no_dicom_is_left_out_and_named(made_once: Any, written: dict[str, Path]) -> None:
    out = written["dicom-sr"]
    assert made_once.nifti in (out / "left_out.csv").read_text()
    assert "not_dicom" in (out / "left_out.csv").read_text()
    assert json.loads((out / "about.json").read_text())["volumes"] == 2


@pytest.mark.parametrize("to", ["dicom-sr", "dicom-seg"])
def test_names_go_into_the_objects_and_nowhere_else(
    finished: Any, to: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for file in (finished.source / "other").iterdir():  # highdicom warns of such names, and quotes them
        header = pydicom.dcmread(file)
        header.PatientName = "ZEBRA"
        header.save_as(file)
    out = exported(finished, to)
    output = capsys.readouterr()
    said = output.out + output.err + caplog.text + "".join(file.name for file in out.iterdir())
    said += "".join(file.read_text() for file in out.iterdir() if file.suffix != ".dcm")
    said = said.replace(str(finished.run.parent), "")
    assert len([file for file in out.iterdir() if file.suffix == ".dcm"]) == 2
    assert not [word for word in ("ZEBRA", "19310203", "ACC777", "1.2.826.55") if word in said]


def test_a_header_that_claims_four_gigabytes_makes_no_room(finished: Any) -> None:
    """Of a text before the pixels: what there is of it is read, and the slice has lost its place."""
    file = next(iter((finished.source / "other").iterdir()))
    header = pydicom.dcmread(file)
    header.add_new(0x00091010, "OB", b"12345678")
    header.save_as(file)
    data = file.read_bytes()
    at = data.index(b"\x09\x00\x10\x10OB") + 8
    file.write_bytes(data[:at] + struct.pack("<I", 0xFFFFFFF0) + data[at + 4 :])
    volume = next(row for row in finished.store.manifest.to_pylist() if row["volume_id"] == finished.turned)
    tracemalloc.start()
    with pytest.raises(VolumeError) as error:
        dicom_grid(sorted((finished.source / "other").iterdir()), volume)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()
    assert error.value.reason in ("unreadable", "no_geometry", "mixed_slices")


def test_a_deflated_header_is_inflated_no_further_than_a_header_is_long(finished: Any) -> None:
    for file in (finished.source / "other").iterdir():
        header = pydicom.dcmread(file)
        header.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        header.add_new(0x7FE10010, "OB", bytes(64 << 20) if file.name == "ZEBRA_0.dcm" else b"12")
        header.save_as(file)
    volume = next(row for row in finished.store.manifest.to_pylist() if row["volume_id"] == finished.turned)
    tracemalloc.start()
    grid = dicom_grid(sorted((finished.source / "other").iterdir()), volume)
    assert tracemalloc.get_traced_memory()[1] < 60 << 20
    tracemalloc.stop()
    assert len(grid.headers) == 8


def test_a_series_that_breaks_the_standard_is_left_out_without_its_text(finished: Any) -> None:
    for file in (finished.source / "other").iterdir():
        header = pydicom.dcmread(file)
        del header.StudyInstanceUID
        header.save_as(file)
    out = exported(finished, "dicom-seg")
    assert f"{finished.turned},unwritable" in (out / "left_out.csv").read_text()
    assert [file.name for file in out.glob("*.dcm")] == [f"{finished.supine}.seg.dcm"]


def errors_of(file: Path) -> list[str]:
    if not shutil.which("dciodvfy"):
        pytest.skip("dciodvfy is not installed: apt-get install dicom3tools")
    said = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False)
    return [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")]


@pytest.mark.parametrize(("to", "suffix"), [("dicom-sr", "sr"), ("dicom-seg", "seg")])
def test_dciodvfy_finds_no_error(
    made_once: Any, written: dict[str, Path], tmp_path: Path, to: str, suffix: str
) -> None:
    out = written[to]
    assert errors_of(out / f"{made_once.supine}.{suffix}.dcm") == []
    broken = pydicom.dcmread(out / f"{made_once.supine}.{suffix}.dcm")
    del broken.SOPInstanceUID
    broken.save_as(tmp_path / "broken.dcm")
    assert errors_of(tmp_path / "broken.dcm") != []


@pytest.fixture(scope="module")
def real() -> Path:
    root = Path(os.environ.get("HARVESTER_DATA", ROOT.parent / "shared" / "data")) / "ct"
    if not (root / "lung_dx_a0001.boxes.json").is_file():
        pytest.skip("real data lung_dx_a0001 are not here; set HARVESTER_DATA")
    return root


@pytest.mark.parametrize("to", ["sr", "seg"])
def test_boxes_of_a_real_tumour_come_back_from_a_real_series(real: Path, tmp_path: Path, to: str) -> None:
    """The eleven boxes that a radiologist drew, as if they had been harvested."""
    from harvester.export import dicom_seg, dicom_sr
    from harvester.export.file_grid import dicom_grid
    from harvester.export.selection import LabelledVolume
    from harvester.imaging.dicom.file import silence_dicom_loggers

    drawn = json.loads((real / "lung_dx_a0001.boxes.json").read_text())["boxes"]
    boxes = {each["z"]: each["box_xyxy"] for each in drawn}
    files = sorted((real / "lung_dx_a0001").glob("*.dcm"))
    volume = {"volume_id": "v1", "depth": 64, "height": 512, "width": 512}
    volume |= {"spacing_z_mm": 5.0, "spacing_y_mm": 0.842, "spacing_x_mm": 0.842}
    label = {"volume_id": "v1", "label_id": "a", "score": 0.97, "round": 0, "threshold": 0.9, "precision_bound": 0.9}
    label |= {"model_hash": "aa", "run_id": "bb", "role": "lesion", "source": "harvested", "z": list(boxes)}
    label |= {side: [float(box[at]) for box in boxes.values()] for at, side in enumerate(("x1", "y1", "x2", "y2"))}
    slices = {each["sop"]: each["z"] for each in drawn}
    with silence_dicom_loggers():
        labelled = LabelledVolume(volume, [label], dicom_grid(files, volume))
        write = dicom_sr.write if to == "sr" else dicom_seg.write
        write(labelled, tmp_path, {"made": "now", "capped": False})
        if to == "sr":
            z, box = sr_boxes(hd.sr.srread(tmp_path / "v1.sr.dcm"), slices)["a"]
            largest = max(boxes, key=lambda at: np.prod(np.array(boxes[at][2:]) - boxes[at][:2] + 1))
            assert (z, box) == (largest, boxes[largest])
        else:
            found = seg_boxes(hd.seg.segread(tmp_path / "v1.seg.dcm"), slices, 1)
            assert [list(box) for box in found.values()] == list(boxes.values())
    assert errors_of(tmp_path / f"v1.{to}.dcm") == []
