"""Series that import moved or filled go back on their own slices: tilted gantries, missing slices, copies of files.

Lesions are drawn into the pixels, found as bright voxels in the store, exported, and compared with what was drawn.
"""

import csv
import json
import runpy
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import pydicom
import pytest

from harvester.config.data import ArchiveSettings
from harvester.datasets.archive import archive
from harvester.store.store import Store, finish_store
from tests.builders import write_volume
from tests.dicom_files import ct, put

hd = pytest.importorskip("highdicom", reason="highdicom is not installed: pip install 'harvester[dicom]'")
ROOT = Path(__file__).parents[3]
export = runpy.run_path(str(ROOT / "jobs" / "export.py"))["main"]
review = runpy.run_path(str(ROOT / "jobs" / "review.py"))["main"]

SHAPE = ROWS, COLUMNS = 32, 40
ROW_MM, COLUMN_MM, GAP_MM = 0.75, 0.5, 4.0
Boxes = dict[int, tuple[int, int, int, int]]
DRAWN: Boxes = {4: (8, 9, 14, 15), 5: (7, 9, 15, 16), 7: (8, 10, 14, 15)}
"""On the 5th, 6th and 8th of twelve slices, the second one the largest."""


class Layout(NamedTuple):
    """A series: how it lies, what it slides by from slice to slice, its slices (of twelve) and its first box."""

    right_down: tuple[int, ...] = (1, 0, 0, 0, 1, 0)
    slide_mm: tuple[float, float] = (0.0, 0.0)
    numbers: tuple[int, ...] = tuple(range(12))
    drawn: Boxes = DRAWN
    copies: int = 0


LAYOUTS = {
    "even": Layout(),
    "tilted": Layout(slide_mm=(0.0, 1.0)),
    "tilted and turned": Layout((-1, 0, 0, 0, -1, 0), (0.0, -1.3)),
    "aslant": Layout(slide_mm=(0.4, 0.9)),
    "gap beside the lesion": Layout(numbers=(0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11)),
    "gap and turned": Layout((-1, 0, 0, 0, -1, 0), numbers=(0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11)),
    "gap at its end": Layout(numbers=(0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11), drawn={4: DRAWN[4], 5: DRAWN[5]}),
    "tilted with a gap": Layout(slide_mm=(0.0, 1.0), numbers=(0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11)),
    "copies": Layout(copies=3),
}


def write_layout(folder: Path, uid: str, layout: Layout) -> None:
    """File names do not follow the slices' order; copies have other names."""
    for number in layout.numbers:
        plane = np.full(SHAPE, 1000, np.uint16)
        plane[0] = 24  # air
        if number in layout.drawn:
            x1, y1, x2, y2 = layout.drawn[number]
            plane[y1 : y2 + 1, x1 : x2 + 1] = 2000
        x, y = (start + slide * number for start, slide in zip((-10.5, -20.25), layout.slide_mm, strict=True))
        item = ct(
            stored_yx=plane,
            SOPInstanceUID=f"{uid}.{number + 1}",
            SeriesInstanceUID=uid,
            StudyInstanceUID=f"{uid}9",
            FrameOfReferenceUID=f"{uid}8",
            ImageOrientationPatient=list(layout.right_down),
            ImagePositionPatient=[x, y, 100 + GAP_MM * number],
            PixelSpacing=[ROW_MM, COLUMN_MM],
            InstanceNumber=number,
            SliceThickness=GAP_MM,
            PatientName="ZEBRA^Ann",
            **dict.fromkeys(("PatientBirthDate", "PatientSex", "AccessionNumber", "StudyDate", "StudyTime"), ""),
            **dict.fromkeys(("StudyID", "ReferringPhysicianName"), ""),
        )
        for copy in range(1 + (number < layout.copies)):
            put(folder / f"{(number * 5) % 12}-{copy}.dcm", item)


def bright(hu_zyx: Any, least: float) -> dict[int, tuple[float, ...]]:
    """The box of the bright voxels on each slice that has any."""
    found = {}
    for z, plane in enumerate(hu_zyx):
        inside = np.argwhere(plane >= least)
        if len(inside):
            (y1, x1), (y2, x2) = inside.min(axis=0).tolist(), inside.max(axis=0).tolist()
            found[z] = (x1, y1, x2, y2)
    return found


class Exported(NamedTuple):
    """The folder of everything, the volume of each layout, and its label's boxes as stored."""

    root: Path
    volumes: dict[str, str]
    stored: dict[str, dict[int, tuple[float, ...]]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Every layout prepared, its bright voxels as the run's lesion, in every format."""
    root = tmp_path_factory.mktemp("layouts")
    for number, (name, layout) in enumerate(LAYOUTS.items()):
        write_layout(root / "source" / name, f"1.2.826.55.{number + 1}", layout)
    folder = root / "run" / "store"
    folder.mkdir(parents=True)
    (root / "run" / "store.salt").write_text("00ff" * 8 + "\n")
    found = archive.discover(root / "source", ArchiveSettings(), 0, "00ff" * 8)
    assert found.rejects == []
    rows, volumes, stored = [], {}, {}
    for case in found.cases:
        volume, _ = archive.read(case, root / "source")
        rows.append(write_volume(folder, volume, "vh", "h"))
        volumes[case.files[0].split("/")[0]] = case.volume_id
        stored[case.files[0].split("/")[0]] = bright(volume.hu_zyx, 300)
    finish_store(folder, rows, [], [])
    write_run(root / "run", {volumes[name]: boxes for name, boxes in stored.items()})
    for to in ("dicom-sr", "dicom-seg", "nifti", "markups", "coco", "csv"):
        given = ["--run", str(root / "run"), "--to", to, "--out", str(root / to)]
        assert export([*given, "--source", str(root / "source")]) == 0
    return Exported(root, volumes, stored)


def write_run(run: Path, boxes: dict[str, dict[int, tuple[float, ...]]]) -> None:
    """One lesion per volume."""
    conftest = runpy.run_path(str(Path(__file__).parent / "conftest.py"))
    conftest["write_ledger"](run, [conftest["label"](name, 1, found) for name, found in boxes.items()])


layouts = pytest.mark.parametrize("name", LAYOUTS)


def headers(written: Exported, name: str) -> dict[int, pydicom.Dataset]:
    """Each slice's header by its number, which file and order do not tell."""
    read = [pydicom.dcmread(file) for file in (written.root / "source" / name).iterdir()]
    return {int(header.InstanceNumber): header for header in read}


def ascending(name: str) -> list[int]:
    """The numbers of the slices along their normal, in which COCO and CSV count: the way up, in every layout here."""
    return sorted(LAYOUTS[name].numbers)


def largest(name: str) -> int:
    return 5 if 5 in LAYOUTS[name].drawn else 4


@layouts
def test_the_store_holds_a_moved_or_filled_series(written: Exported, name: str) -> None:
    """Else nothing here would be tested."""
    row = {r["volume_id"]: r for r in Store.open(written.root / "run" / "store").manifest.to_pylist()}[
        written.volumes[name]
    ]
    assert row["depth"] == 12
    assert (row["height"] > ROWS) == ("tilted" in name or name == "aslant")
    assert (6 in written.stored[name]) == ("gap" in name)


@layouts
def test_sr_lies_on_the_original_key_slice(written: Exported, name: str) -> None:
    report = hd.sr.srread(written.root / "dicom-sr" / f"{written.volumes[name]}.sr.dcm")
    (group,) = report.content.get_planar_roi_measurement_groups()
    corners = np.array(group.roi.value)
    image = group.roi.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    number = largest(name)
    assert image == headers(written, name)[number].SOPInstanceUID
    np.testing.assert_allclose([*corners.min(axis=0), *(corners.max(axis=0) - 1)], DRAWN[number], atol=1e-4)


@layouts
def test_seg_lies_on_the_original_slices(written: Exported, name: str) -> None:
    segmentation = hd.seg.segread(written.root / "dicom-seg" / f"{written.volumes[name]}.seg.dcm")
    slices = headers(written, name)
    planes = segmentation.get_pixels_by_source_instance(
        [slices[number].SOPInstanceUID for number in sorted(slices)],
        assert_missing_frames_are_empty=True,
        ignore_spatial_locations=True,
    )[..., 0]
    found = {sorted(slices)[at]: box for at, box in bright(planes, 1).items()}
    assert found == LAYOUTS[name].drawn


@pytest.mark.parametrize("kind", ["sr", "seg"])
def test_dciodvfy_finds_no_more_in_moved_series_than_in_even_ones(written: Exported, kind: str) -> None:
    if not shutil.which("dciodvfy"):
        pytest.skip("dciodvfy is not installed: apt-get install dicom3tools")
    files = {name: f"dicom-{kind}/{volume_id}.{kind}.dcm" for name, volume_id in written.volumes.items()}
    found = {name: errors_of(written.root / file) for name, file in files.items()}
    assert set(found.values()) == {found["even"]}


def errors_of(file: Path) -> tuple[str, ...]:
    said = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False)
    return tuple(sorted({line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")}))


def coco_boxes(written: Exported, name: str) -> dict[int, tuple[float, ...]]:
    tree = json.loads((written.root / "coco" / "annotations.json").read_text())
    images = {i["id"]: i["slice"] for i in tree["images"] if i["volume_id"] == written.volumes[name]}
    found = {}
    for each in tree["annotations"]:
        if each["image_id"] in images:
            x, y, width, height = each["bbox"]
            found[ascending(name)[images[each["image_id"]]]] = (x, y, x + width - 1, y + height - 1)
    return found


def csv_row(written: Exported, name: str) -> dict[str, str]:
    with (written.root / "csv" / "DL_info.csv").open(newline="") as lines:
        return next(row for row in csv.DictReader(lines) if row["volume_id"] == written.volumes[name])


@layouts
def test_coco_and_csv_are_in_the_files_own_pixels(written: Exported, name: str) -> None:
    assert coco_boxes(written, name) == LAYOUTS[name].drawn
    row = csv_row(written, name)
    placed = [tuple(map(float, part.split())) for part in row["boxes"].split(";")]
    assert {ascending(name)[int(k)]: box for k, *box in placed} == {
        number: list(box) for number, box in LAYOUTS[name].drawn.items()
    }
    assert ascending(name)[int(row["Key_slice_index"])] == largest(name)
    assert row["Image_size"] == f"{COLUMNS}, {ROWS}"
    assert row["Slice_range"] == f"0, {len(LAYOUTS[name].numbers) - 1}"


def to_lps(header: pydicom.Dataset, columns: Any, rows: Any) -> Any:
    """DICOM's own formula (C.7.6.2.1.1): pixels of a slice to mm, (..., 3)."""
    right, down = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
    row_mm, column_mm = map(float, header.PixelSpacing)
    position = np.array(header.ImagePositionPatient, float)
    return position + np.multiply.outer(columns * column_mm, right) + np.multiply.outer(rows * row_mm, down)


@layouts
def test_a_label_map_shows_every_original_slice_its_box(written: Exported, name: str) -> None:
    """The map as a viewer would lay it over each slice of the series: by mm, to half a pixel."""
    image: Any = nibabel.load(written.root / "nifti" / f"{written.volumes[name]}.nii.gz")
    values, to_voxels = np.asarray(image.dataobj), np.linalg.inv(image.affine)
    columns, rows = np.meshgrid(np.arange(COLUMNS), np.arange(ROWS))
    found = {}
    for number, header in headers(written, name).items():
        ras = to_lps(header, columns, rows) * (-1, -1, 1)
        i, j, k = np.moveaxis(np.rint(ras @ to_voxels[:3, :3].T + to_voxels[:3, 3]).astype(int), -1, 0)
        inside = np.logical_and.reduce([(at >= 0) & (at < n) for at, n in zip((i, j, k), values.shape, strict=True)])
        plane = np.where(inside, values[tuple(np.where(inside, at, 0) for at in (i, j, k))], 0)
        if plane.any():
            found[number] = bright(plane[None], 1)[0]
    assert found.keys() == LAYOUTS[name].drawn.keys()
    for number, box in found.items():
        np.testing.assert_allclose(box, LAYOUTS[name].drawn[number], atol=0.5)


@layouts
def test_a_markup_lies_round_the_original_boxes_in_mm(written: Exported, name: str) -> None:
    tree = json.loads((written.root / "markups" / f"{written.volumes[name]}.mrk.json").read_text())
    (markup,) = tree["markups"]
    axes, half = np.array(markup["orientation"]).reshape(3, 3), np.array(markup["size"]) / 2
    for number, (x1, y1, x2, y2) in LAYOUTS[name].drawn.items():
        header = headers(written, name)[number]
        corners = to_lps(header, np.array([x1 - 0.5, x2 + 0.5]), np.array([y1 - 0.5, y2 + 0.5]))
        inside = (corners.reshape(-1, 3) - markup["center"]) @ axes
        assert (np.abs(inside) <= half + 0.5 * np.array([COLUMN_MM, ROW_MM, 0.2])).all()


def kept(run: Path, volume_id: str) -> dict[int, tuple[float, ...]]:
    (row,) = [row for row in Store.open(run / "store").reviewed().to_pylist() if row["volume_id"] == volume_id]
    sides = zip(*(row[side] for side in ("x1", "y1", "x2", "y2")), strict=True)
    return dict(zip(row["z"], sides, strict=True))


def accepted(written: Exported, to: str) -> Path:
    """The export with every lesion accepted."""
    if to == "coco":
        file = written.root / "coco" / "annotations.json"
        tree = json.loads(file.read_text())
        for annotation in tree["annotations"]:
            annotation["review"] = "accepted"
        (file.parent / "reviewed.json").write_text(json.dumps(tree))
        return file.parent / "reviewed.json"
    file = written.root / "csv" / "DL_info.csv"
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    return write_csv(file.parent / "reviewed.csv", [row | {"review": "accepted"} for row in rows])


def write_csv(file: Path, rows: Iterable[dict[str, str]]) -> Path:
    listed = list(rows)
    with file.open("w", newline="") as lines:
        table = csv.DictWriter(lines, list(listed[0]))
        table.writeheader()
        table.writerows(listed)
    return file


@pytest.mark.parametrize("to", ["coco", "csv"])
def test_reviews_come_back_on_the_stored_slices(written: Exported, to: str, tmp_path: Path) -> None:
    shutil.copytree(written.root / "run", tmp_path / "run")
    assert review(["--run", str(tmp_path / "run"), "--reviewed", str(accepted(written, to))]) == 0
    for name, volume_id in written.volumes.items():
        found, stored = kept(tmp_path / "run", volume_id), written.stored[name]
        assert found.keys() == stored.keys()
        made = {6} if "gap" in name else set()
        assert {z: found[z] for z in found.keys() - made} == {z: stored[z] for z in stored.keys() - made}
        # A made slice comes back with its nearest neighbour's box.
        assert all(found[z] == stored[5] for z in made)


def test_a_box_that_was_moved_is_moved_in_the_files_own_pixels(written: Exported, tmp_path: Path) -> None:
    """To slice 8, as every layout numbers it, whose pixels lie where the shift of that slice puts them."""
    shutil.copytree(written.root / "run", tmp_path / "run")
    row = csv_row(written, "tilted with a gap")
    moved = row | {"review": "moved", "Key_slice_index": "7", "Bounding_boxes": "1, 2, 3, 4"}
    file = write_csv(tmp_path / "DL_info.csv", [moved])
    assert review(["--run", str(tmp_path / "run"), "--reviewed", str(file)]) == 0
    rows = Store.open(tmp_path / "run" / "store").reviewed().to_pylist()
    (new,) = [each for each in rows if not each["label_id"].endswith("-before")]
    shift = round(8 * 1.0 / ROW_MM)
    assert (new["z"], new["x1"], new["y1"], new["x2"], new["y2"]) == ([8], [1], [2 + shift], [3], [4 + shift])
