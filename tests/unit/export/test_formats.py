"""Each format read back as its own readers read it; nothing in them tells who it is."""

import csv
import gzip
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[3]
COLUMNS, ROWS, DEPTH = 40, 32, 8
FIRST = {2: (3, 4, 9.25, 8), 3: (2.5, 4, 10, 9.5), 4: (4, 5, 8, 8)}
SECOND = {3: (6, 6, 14, 12), 6: (20.5, 10, 30, 20.5)}
PLANTED = (b"ZEBRA", b"zebra", b"19310203", b"ACC777", b"1.2.826.55")
"""A name (in tags and in paths), a birth date, an accession number, the UIDs of the series."""
main = runpy.run_path(str(ROOT / "jobs" / "export.py"))["main"]


def exported(finished: Any, to: str, *more: str) -> Path:
    out: Path = finished.run.parent / f"out-{to}{len(more)}"
    assert main(["--run", str(finished.run), "--to", to, "--out", str(out), *more]) == 0
    return out


def with_source(finished: Any, to: str, *more: str) -> Path:
    return exported(finished, to, "--source", str(finished.source), *more)


def turned(box: tuple[float, ...]) -> tuple[float, ...]:
    """A stored box in a file whose columns and rows run the other way."""
    x1, y1, x2, y2 = box
    return COLUMNS - 1 - x2, ROWS - 1 - y2, COLUMNS - 1 - x1, ROWS - 1 - y1


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_a_run_of_an_earlier_release_is_exported_alike(finished: Any) -> None:
    new = (exported(finished, "csv") / "DL_info.csv").read_text()
    settings, ledger = finished.run / "settings.yaml", finished.run / "ledger.parquet"
    earlier = settings.read_text().replace("operating_point:", "operating_point:\n  early_target_precisions: [0.95]")
    settings.write_text(earlier)
    assert "early" in earlier
    pq.write_table(pq.read_table(ledger).drop_columns(["probability"]), ledger)
    assert (exported(finished, "csv", "--force") / "DL_info.csv").read_text() == new


# COCO


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools' own
def test_coco_opens_in_pycocotools_with_the_same_boxes(finished: Any) -> None:
    coco_module = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    out = exported(finished, "coco", "--merge", "--hard-negatives")
    coco = coco_module.COCO(out / "annotations.json")
    names = {each["id"]: each["name"] for each in coco.loadCats(coco.getCatIds())}
    assert sorted(names.values()) == ["hard_negative", "lesion"]
    images = coco.loadImgs([i for i in coco.getImgIds() if coco.imgs[i]["volume_id"] == finished.supine])
    assert [image["slice"] for image in sorted(images, key=lambda i: i["slice"])] == [1, 2, 3, 4, 6, 7]
    assert {(image["width"], image["height"]) for image in images} == {(COLUMNS, ROWS)}
    found = coco.loadAnns(coco.getAnnIds(imgIds=[image["id"] for image in images]))
    boxes: dict[str, dict[int, tuple[float, ...]]] = {}
    for each in found:
        x, y, width, height = each["bbox"]
        z = coco.imgs[each["image_id"]]["slice"]
        boxes.setdefault(each["label_id"], {})[z] = (x, y, x + width - 1, y + height - 1)
        assert each["area"] == width * height
        # The pixels whose centres lie in the box; pycocotools reads no box without a polygon or a run of pixels.
        drawn = coco.annToMask(each)
        assert drawn.shape == (ROWS, COLUMNS)
        assert abs(int(drawn.sum()) - each["area"]) <= width + height
        rows, columns = np.nonzero(drawn)
        near = [columns.min() - x, rows.min() - y, columns.max() - x - width + 1, rows.max() - y - height + 1]
        assert np.abs(near).max() <= 0.5
    assert boxes["harvested-0-1"] == FIRST
    assert boxes["harvested-0-2"] == SECOND
    tracks = {each["label_id"]: {e["track_id"] for e in found if e["label_id"] == each["label_id"]} for each in found}
    assert all(len(track) == 1 for track in tracks.values())
    assert len({track.pop() for track in tracks.values()}) == 4


def test_every_label_tells_its_origin(finished: Any) -> None:
    tree = json.loads((exported(finished, "coco", "--merge") / "annotations.json").read_text())
    by_source = {each["source"]: each for each in tree["annotations"]}
    assert sorted(by_source) == ["clinical", "harvested"]
    origin = by_source["harvested"]
    assert (origin["round"], origin["model_hash"], origin["run_id"]) == (0, "ba9876543210", "0123456789ab")
    assert (origin["threshold"], origin["precision_bound"]) == (0.5, 0.91)
    assert by_source["clinical"]["score"] is None


def test_without_merge_only_the_harvest_goes_out(finished: Any) -> None:
    tree = json.loads((exported(finished, "coco") / "annotations.json").read_text())
    assert {(each["source"], each["review"]) for each in tree["annotations"]} == {("harvested", "")}


def test_with_the_scans_boxes_are_those_of_the_files(finished: Any) -> None:
    tree = json.loads((with_source(finished, "coco") / "annotations.json").read_text())
    images = {i["id"]: i for i in tree["images"] if i["volume_id"] == finished.turned}
    found = {}
    for each in tree["annotations"]:
        if each["image_id"] in images and each["label_id"] == "harvested-0-1":
            x, y, width, height = each["bbox"]
            found[images[each["image_id"]]["slice"]] = (x, y, x + width - 1, y + height - 1)
    assert found == {z: turned(box) for z, box in FIRST.items()}


# CSV


def test_the_csv_has_deeplesions_columns_and_the_key_slice(finished: Any) -> None:
    rows = table(exported(finished, "csv") / "DL_info.csv")
    assert list(rows[0])[:5] == ["File_name", "Patient_index", "Study_index", "Series_ID", "Key_slice_index"]
    assert len(list(rows[0])) == 18 + 15
    row = next(r for r in rows if r["volume_id"] == finished.supine and r["label_id"] == "harvested-0-1")
    assert (row["Key_slice_index"], row["Bounding_boxes"]) == ("3", "2.5, 4, 10, 9.5")
    assert (row["Slice_range"], row["Spacing_mm_px_"], row["Image_size"]) == ("0, 7", "0.5, 0.75, 4", "40, 32")
    assert row["Patient_gender"] == row["Patient_age"] == row["Measurement_coordinates"] == ""
    assert row["boxes"] == "2 3 4 9.25 8; 3 2.5 4 10 9.5; 4 4 5 8 8"


def test_deeplesions_own_names_come_back() -> None:
    from harvester.export import dl_info
    from harvester.export.selection import ORIGIN
    from harvester.imaging.slice_map import SliceMap

    volume = {"volume_id": "000227_02_01_047-080", "patient_id": "000227", "split": "vh"}
    volume |= {"width": 512, "height": 512, "depth": 34}
    volume |= {f"spacing_{axis}_mm": 1.0 for axis in "xyz"}
    label = dict.fromkeys(ORIGIN) | {"label_id": "a", "z": [3], "x1": [1.0], "y1": [2.0], "x2": [3.0], "y2": [4.0]}
    row = dl_info._row(volume, SliceMap.stored(512, 512, 34), label)
    assert (row["File_name"], row["Key_slice_index"]) == ("000227_02_01_050.png", 50)
    assert (row["Patient_index"], row["Study_index"], row["Series_ID"]) == (227, 2, 1)
    assert row["Slice_range"] == "47, 80"


# NIfTI


def boxes_in(values: Any, number: int) -> dict[int, tuple[int, ...]]:
    """(i1, j1, i2, j2) of a number on each slice of an (i, j, k) array."""
    found = {}
    for k in range(values.shape[2]):
        inside = np.argwhere(values[:, :, k] == number)
        if len(inside):
            found[k] = (*inside.min(axis=0).tolist(), *inside.max(axis=0).tolist())
    return found


def assert_near(found: dict[int, tuple[int, ...]], want: dict[int, Any]) -> None:
    assert found.keys() == want.keys()
    for k, box in found.items():
        np.testing.assert_allclose(box, want[k], atol=0.5)


def test_label_maps_open_in_nibabel_in_the_files_own_grid(finished: Any) -> None:
    out = with_source(finished, "nifti")
    image: Any = nibabel.load(out / f"{finished.nifti}.nii.gz")
    scan: Any = nibabel.load(finished.source / "ZEBRA.nii.gz")
    np.testing.assert_allclose(image.affine, scan.affine)
    assert image.shape == scan.shape
    # RAS: both axes in the plane run against the stored ones. The first lesion lies on top where they overlap.
    values = np.asarray(image.dataobj)
    assert_near(boxes_in(values, 1), {z: turned(box) for z, box in FIRST.items()})
    assert_near({6: boxes_in(values, 2)[6]}, {6: turned(SECOND[6])})
    index = [row for row in table(out / "index.csv") if row["volume_id"] == finished.nifti]
    assert [(row["number"], row["label_id"]) for row in index] == [("1", "harvested-0-1"), ("2", "harvested-0-2")]
    assert [int(row["voxels"]) for row in index] == [int((values == n).sum()) for n in (1, 2)]


@pytest.mark.parametrize("codes", [(2, 1), (1, 1), (4, 1), (1, 2), (0, 1), (1, 0)])
def test_a_label_map_has_both_forms_of_its_scan(finished: Any, codes: tuple[int, int]) -> None:
    """Programs go by the one or the other, as the codes say: scan and map must be alike in both."""
    scan: Any = nibabel.load(finished.source / "ZEBRA.nii.gz")
    moved = scan.affine.copy()
    moved[:3, 3] += (10, -20, 8)
    scan.header.set_sform(scan.affine, codes[0])
    scan.header.set_qform(moved if all(codes) else scan.affine, codes[1])
    scan.header["descrip"] = b"ZEBRA"
    nibabel.save(nibabel.Nifti1Image(np.asarray(scan.dataobj), None, scan.header), finished.source / "ZEBRA.nii.gz")
    again: Any = nibabel.load(finished.source / "ZEBRA.nii.gz")
    image: Any = nibabel.load(with_source(finished, "nifti") / f"{finished.nifti}.nii.gz")
    for one, other in ((image.get_sform(True), again.get_sform(True)), (image.get_qform(True), again.get_qform(True))):
        assert one[1] == other[1]
        assert (one[0] is None and other[0] is None) or np.array_equal(one[0], other[0])
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == codes
    assert image.header.get_zooms() == again.header.get_zooms()
    assert b"ZEBRA" not in image.header.binaryblock


def test_markups_of_a_scan_with_two_places_are_left_out(finished: Any, capsys: pytest.CaptureFixture[str]) -> None:
    scan: Any = nibabel.load(finished.source / "ZEBRA.nii.gz")
    for millimetres, left_out in ((0.4, False), (0.6, True)):
        moved = scan.affine.copy()
        moved[2, 3] += millimetres
        scan.header.set_sform(scan.affine, 2)
        scan.header.set_qform(moved, 1)
        file = finished.source / "ZEBRA.nii.gz"
        nibabel.save(nibabel.Nifti1Image(np.asarray(scan.dataobj), None, scan.header), file)
        out = with_source(finished, "markups", "--skip-missing", *["--force"] * left_out)
        assert (out / "left_out.csv").is_file() == left_out
    (row,) = table(out / "left_out.csv")
    assert (row["volume_id"], row["reason"]) == (finished.nifti, "forms_differ")
    assert not (out / f"{finished.nifti}.mrk.json").exists()
    capsys.readouterr()
    said = failed(finished, capsys, 1, "--to", "markups", "--source", str(finished.source))
    assert "sform and qform differ" in said


def test_a_label_map_of_a_dicom_series_lies_on_its_slices(finished: Any) -> None:
    """A voxel of the map is, in patient space, the pixel of the slice that DICOM's own formula gives."""
    image: Any = nibabel.load(with_source(finished, "nifti") / f"{finished.turned}.nii.gz")
    values = np.asarray(image.dataobj)
    i, j, k = np.argwhere(values == 1)[0]
    right, front, up = (image.affine @ [i, j, k, 1])[:3]
    # Orientation (-1, 0, 0, 0, -1, 0), spacing 0.75 per row and 0.5 per column, from (-10.5, -20.25, 100).
    assert (-right, -front) == pytest.approx((-10.5 - 0.5 * i, -20.25 - 0.75 * j))
    assert up == pytest.approx(100 + 4 * k)
    assert_near(boxes_in(values, 1), {z: turned(box) for z, box in FIRST.items()})


def test_without_the_scans_the_map_is_in_the_stored_order(finished: Any) -> None:
    image: Any = nibabel.load(exported(finished, "nifti") / f"{finished.turned}.nii.gz")
    assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")
    assert_near(boxes_in(np.asarray(image.dataobj), 1), FIRST)


# Slicer

POINT = {"type": "object", "properties": {
    "id": {"type": "string"}, "label": {"type": "string"}, "description": {"type": "string"},
    "position": {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3},
    "orientation": {"type": "array", "items": {"type": "number"}, "minItems": 9, "maxItems": 9},
    "selected": {"type": "boolean"}, "locked": {"type": "boolean"}, "visibility": {"type": "boolean"},
    "positionStatus": {"enum": ["undefined", "preview", "defined"]}}, "additionalProperties": False}  # fmt: skip
SCHEMA = {"type": "object", "required": ["@schema", "markups"], "additionalProperties": False, "properties": {
    "@schema": {"const": "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/"
                         "Schema/markups-schema-v1.0.3.json#"},
    "markups": {"type": "array", "items": {
        "type": "object", "required": ["type"], "additionalProperties": False, "properties": {
            "type": {"enum": ["Fiducial", "Line", "Angle", "Curve", "ClosedCurve", "Plane", "ROI"]},
            "roiType": {"enum": ["Box", "BoundingBox"]},
            "name": {"type": "string"},
            "coordinateSystem": {"enum": ["LPS", "RAS"]},
            "coordinateUnits": {"enum": ["mm", "um"]},
            "locked": {"type": "boolean"}, "fixedNumberOfControlPoints": {"type": "boolean"},
            "center": {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3},
            "size": {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3},
            "orientation": {"type": "array", "items": {"type": "number"}, "minItems": 9, "maxItems": 9},
            "controlPoints": {"type": "array", "items": POINT},
            "display": {"type": "object", "properties": {
                "visibility": {"type": "boolean"},
                "opacity": {"type": "number", "minimum": 0, "maximum": 1},
                "selectedColor": {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1},
                                  "minItems": 3, "maxItems": 3}}, "additionalProperties": False}}}}}}  # fmt: skip
"""What Slicer's markups schema 1.0.3 (draft 7) says of the fields that we write, in our words; stricter in that no
other field is allowed. Slicer: Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.3.json."""


def test_markups_fit_slicers_schema(finished: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    for out in (exported(finished, "markups"), with_source(finished, "markups", "--merge", "--hard-negatives")):
        files = sorted(out.glob("*.mrk.json"))
        assert len(files) == 3
        for file in files:
            tree = json.loads(file.read_text())
            jsonschema.Draft7Validator(SCHEMA).validate(tree)
            for markup in tree["markups"]:
                axes = np.array(markup["orientation"]).reshape(3, 3)
                np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-9)
                assert np.linalg.det(axes) == pytest.approx(1)
                assert min(markup["size"]) > 0


def test_a_markup_lies_round_its_voxels_in_patient_space(finished: Any) -> None:
    tree = json.loads((with_source(finished, "markups") / f"{finished.nifti}.mrk.json").read_text())
    markup = next(m for m in tree["markups"] if m["name"] == "harvested-0-1")
    # All slices together: stored x from 2.5 to 10 is 28 .. 37.5 of the file's i (outer edges), at 0.5 mm from 5 (RAS).
    low, high = np.array([29 - 0.5, 21.5 - 0.5, 2 - 0.5]), np.array([36.5 + 0.5, 27 + 0.5, 4 + 0.5])
    ras = [np.array([5, 6, 7]) + edge * (0.5, 0.75, 4) for edge in (low, high)]
    lps = np.array([[-1, -1, 1]]) * ras
    np.testing.assert_allclose(markup["center"], lps.mean(axis=0))
    np.testing.assert_allclose(markup["size"], np.abs(lps[1] - lps[0]))
    assert "not verified" in markup["controlPoints"][0]["description"]
    assert "score 0.9375" in markup["controlPoints"][0]["description"]


# What must not come out


@pytest.mark.parametrize("to", ["coco", "csv", "markups", "nifti"])
def test_no_name_comes_out(finished: Any, to: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = with_source(finished, to, "--merge", "--hard-negatives")
    said = capsys.readouterr()
    output = (said.out + said.err).replace(str(finished.run.parent), "").encode()
    for file in sorted(out.iterdir()):
        content = file.read_bytes()
        output += file.name.encode() + (gzip.decompress(content) if file.suffix == ".gz" else content)
    assert len(output) > 1000
    assert not [word for word in PLANTED if word in output]


def test_a_scan_named_in_capitals_is_placed(finished: Any) -> None:
    from harvester.config.data import ArchiveSettings
    from harvester.export.source_scans import SourceScans

    (finished.source / "ZEBRA.nii.gz").rename(finished.source / "ZEBRA.NII.GZ")
    scans = SourceScans(finished.source, ArchiveSettings(format="nifti"), 0, "s")
    (volume_id,) = scans._files
    row = next(row for row in finished.store.manifest.to_pylist() if row["volume_id"] == finished.nifti)
    assert scans.grid(row | {"volume_id": volume_id}).nifti


# DeepLesion, whose slices run from head to feet


def test_of_deeplesion_a_lower_slice_lies_nearer_to_the_head(tmp_path: Path) -> None:
    from harvester.export import markups, nifti
    from harvester.export.file_grid import stored_grid
    from harvester.export.selection import ORIGIN, LabelledVolume

    heights: dict[str, list[float]] = {}
    for volume_id in ("000227_02_01_047-080", "v0123456789ab"):
        volume = {"volume_id": volume_id, "width": 40, "height": 32, "depth": 8}
        volume |= {"spacing_x_mm": 0.8, "spacing_y_mm": 0.8, "spacing_z_mm": 5.0}
        none = dict.fromkeys(ORIGIN) | {"role": "lesion", "source": "harvested", "score": 0.5}
        rows = [none | {"label_id": f"at {z}", "z": [z]} for z in (1, 6)]
        boxes = {"x1": [3.0], "y1": [4.0], "x2": [9.0], "y2": [8.0]}
        labelled = LabelledVolume(volume, [row | boxes for row in rows], stored_grid(volume))
        nifti.write(labelled, tmp_path, {})
        markups.write(labelled, tmp_path, {})
        scan: Any = nibabel.load(tmp_path / f"{volume_id}.nii.gz")
        tree = json.loads((tmp_path / f"{volume_id}.mrk.json").read_text())
        for number, markup in enumerate(tree["markups"], 1):
            centre = np.argwhere(np.asarray(scan.dataobj) == number).mean(axis=0)
            ras = scan.affine @ [*centre, 1]
            np.testing.assert_allclose(markup["center"], ras[:3] * (-1, -1, 1), atol=1e-3)
            heights.setdefault(volume_id, []).append(float(ras[2]))
    assert heights == {"000227_02_01_047-080": [-5, -30], "v0123456789ab": [5, 30]}


# What is refused


def failed(finished: Any, capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    given = ["--run", str(finished.run), "--out", str(finished.run.parent / "out"), *arguments]
    assert main(given) == code
    assert not (finished.run.parent / "out" / "about.json").exists()
    assert not list(finished.run.parent.glob(".out*"))
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_requests_that_cannot_be_met_are_one_line(finished: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert "want one of coco, csv" in failed(finished, capsys, 2, "--to", "xml")
    assert "give --source" in failed(finished, capsys, 2, "--to", "dicom-sr")
    source = ("--source", str(finished.source))
    assert "takes none of --merge" in failed(finished, capsys, 2, "--to", "dicom-seg", "--merge", *source)
    assert "at least 1" in failed(finished, capsys, 2, "--to", "coco", "--max-per-report", "0")
    assert "no such folder" in failed(finished, capsys, 2, "--to", "coco", "--source", "/nowhere")
    (finished.run / "harvest.parquet").unlink()
    assert "no harvest.parquet" in failed(finished, capsys, 1, "--to", "coco")
    (finished.run / "settings.yaml").unlink()
    assert "no settings.yaml" in failed(finished, capsys, 1, "--to", "coco")


def test_a_folder_that_is_not_empty_is_left_alone(finished: Any, capsys: pytest.CaptureFixture[str]) -> None:
    out = finished.run.parent / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert "--force" in failed(finished, capsys, 2, "--to", "csv")
    assert main(["--run", str(finished.run), "--to", "csv", "--out", str(out), "--force"]) == 0
    assert {file.name for file in out.iterdir()} == {"mine.txt", "DL_info.csv", "about.json"}
    assert not list(finished.run.parent.glob(".out*"))


def test_by_force_nothing_is_left_of_the_last_export(finished: Any) -> None:
    """A second export of one volume, in another format: no file of the three before stands beside its index."""
    out = finished.run.parent / "out"
    given = ["--run", str(finished.run), "--out", str(out)]
    assert main([*given, "--to", "nifti", "--merge"]) == 0
    mine = {"mine.nii.gz", "notes.csv"}
    for name in mine:
        (out / name).write_text("mine")
    (finished.source / "ZEBRA.nii.gz").unlink()
    again = ["--to", "markups", "--force", "--source", str(finished.source), "--skip-missing"]
    assert main([*given, *again]) == 0
    markups = {f"{name}.mrk.json" for name in (finished.supine, finished.turned)}
    assert {file.name for file in out.iterdir()} == {*mine, *markups, "index.csv", "left_out.csv", "about.json"}
    assert main([*given, "--to", "coco", "--force"]) == 0
    assert {file.name for file in out.iterdir()} == {*mine, "annotations.json", "about.json"}


def test_a_missing_scan_is_named_by_its_hash(finished: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (finished.source / "ZEBRA.nii.gz").unlink()
    source = ("--source", str(finished.source))
    said = failed(finished, capsys, 1, "--to", "coco", *source)
    assert finished.nifti in said
    assert "1 of 3 volumes" in said
    out = with_source(finished, "coco", "--skip-missing")
    (left,) = table(out / "left_out.csv")
    assert (left["volume_id"], left["reason"]) == (finished.nifti, "missing")
    assert json.loads((out / "about.json").read_text())["volumes"] == 2


def test_a_scan_that_changed_is_refused(finished: Any, capsys: pytest.CaptureFixture[str]) -> None:
    values = np.zeros((COLUMNS, ROWS, DEPTH + 1), np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([0.5, 0.75, 4, 1])), finished.source / "ZEBRA.nii.gz")
    said = failed(finished, capsys, 1, "--to", "nifti", "--source", str(finished.source))
    assert "its file has (40, 32, 9) voxels" in said
    assert finished.nifti in said


def test_a_full_disk_leaves_nothing_behind(
    finished: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from harvester.export import nifti

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nifti.nibabel, "save", full)
    assert "No space left" in failed(finished, capsys, 1, "--to", "nifti")


def test_the_salt_is_needed_and_never_made(finished: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (finished.run / "store.salt").unlink()
    assert "store.salt" in failed(finished, capsys, 1, "--to", "coco", "--source", str(finished.source))
    assert not (finished.run / "store.salt").exists()


def test_of_a_run_that_harvested_nothing_nothing_is_written(finished: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("ledger", "harvest"):
        file = finished.run / f"{name}.parquet"
        pq.write_table(pq.read_table(file).slice(0, 0), file)
    assert "nothing is harvested yet, so nothing was written" in failed(finished, capsys, 1, "--to", "coco")


def test_what_is_likely_is_exported_where_it_is_asked_for_alone(finished: Any) -> None:
    file = finished.run / "ledger.parquet"
    rows = pq.read_table(file).to_pylist()
    found = [row for row in rows if row["source"] == "harvested"]
    found[0]["source"] = "likely"
    pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(file)), file)

    def sources(*options: str) -> list[str]:
        return sorted(row["source"] for row in table(exported(finished, "csv", *options) / "DL_info.csv"))

    harvested = ["harvested"] * (len(found) - 1)
    assert sources() == harvested
    assert sources("--likely") == [*harvested, "likely"]
    assert "likely" not in sources("--merge", "--force")


def test_a_cap_keeps_the_best(finished: Any) -> None:
    rows = table(exported(finished, "csv", "--max-per-report", "1") / "DL_info.csv")
    assert {row["label_id"] for row in rows} == {"harvested-0-1"}


def test_without_highdicom_one_line_says_how_to_get_it(
    finished: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    for name in ("dicom_sr", "dicom_seg"):
        monkeypatch.delitem(sys.modules, f"harvester.export.{name}", raising=False)
    said = failed(finished, capsys, 2, "--to", "dicom-sr", "--source", str(finished.source))
    assert "pip install highdicom" in said
