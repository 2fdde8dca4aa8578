"""One lesion by every way in is one mark, on the voxels that it was drawn in, however the series lies."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from harvester.config.data import ArchiveSettings
from harvester.datasets.archive.archive import discover, read
from tests.dicom_files import put
from tests.dicom_objects import group, put_segmentation, report, scoord, scoord3d, structures
from tests.unit.export.test_layouts import COLUMN_MM, DRAWN, LAYOUTS, ROW_MM, SHAPE, Layout, bright, write_layout

SINE, COSINE = np.sin(np.radians(10)), np.cos(np.radians(10))
EVERY = LAYOUTS | {
    "feet first": Layout((1, 0, 0, 0, -1, 0)),
    "oblique": Layout((1, 0, 0, 0, COSINE, SINE), (0.0, -4 * SINE / COSINE)),  # type: ignore[arg-type]  # no whole numbers
}
UID, LESION = "1.2.826.55.9", 5
BOX = x1, y1, x2, y2 = DRAWN[LESION]
OUTLINE = [x1, y1, x2 + 1, y1, x2 + 1, y2 + 1, x1, y2 + 1, x1, y1]
HEADER = "file,z,x1,y1,x2,y2\n"


class Series:
    """A series as written: its files by their numbers, and how tables count them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        read_files = [(file, pydicom.dcmread(file, stop_before_pixels=True)) for file in sorted((root / "s").iterdir())]
        self.files = {int(item.InstanceNumber): file for file, item in reversed(read_files)}
        self.item = next(item for _, item in read_files if item.InstanceNumber == LESION)
        right, down = np.array(self.item.ImageOrientationPatient, float).reshape(2, 3)
        normal = np.cross(right, down)
        heights = {int(item.InstanceNumber): float(normal @ item.ImagePositionPatient) for _, item in read_files}
        self.z = sorted(heights, key=lambda number: heights[number]).index(LESION)
        corner = np.array(self.item.ImagePositionPatient, float)
        points = np.array(OUTLINE, float).reshape(-1, 2) - 0.5
        self.outline_mm = (corner + points[:, :1] * COLUMN_MM * right + points[:, 1:] * ROW_MM * down).ravel().tolist()

    @property
    def frame(self) -> str:
        return str(self.item.FrameOfReferenceUID)


def marks_csv(name: str, z: str) -> Callable[[Series], None]:
    def write(series: Series) -> None:
        row = [name.format(file=f"s/{series.files[LESION].name}", sop=series.item.SOPInstanceUID), z.format(z=series.z)]
        (series.root / "marks.csv").write_text(HEADER + ",".join([*row, *map(str, BOX)]) + "\n")

    return write


def coco(name: str, z: bool) -> Callable[[Series], None]:
    def write(series: Series) -> None:
        image = {"id": 1, "file_name": name.format(file=f"s/{series.files[LESION].name}")} | (
            {"slice": series.z} if z else {}
        )
        annotation = {"id": 1, "image_id": 1, "bbox": [x1, y1, x2 - x1 + 1, y2 - y1 + 1]}
        (series.root / "marks.json").write_text(json.dumps({"images": [image], "annotations": [annotation]}))

    return write


def segmentation(series: Series) -> None:
    """Frames are in the order of the sources' names, each file once."""
    once = series.root.parent / "once"
    once.mkdir()
    for file in series.files.values():
        put(once / file.name, pydicom.dcmread(file))
    names = sorted(file.name for file in series.files.values())
    mask = np.zeros((len(names), *SHAPE), bool)
    mask[names.index(series.files[LESION].name), y1 : y2 + 1, x1 : x2 + 1] = True
    put_segmentation(series.root / "seg.dcm", once, [mask])


WAYS: dict[str, Callable[[Series], object]] = {
    "folder and z": marks_csv("s", "{z}"),
    "series and z": marks_csv(UID, "{z}"),
    "a slice's file": marks_csv("{file}", ""),
    "a slice's UID": marks_csv("{sop}", ""),
    "COCO by slice": coco("s", z=True),
    "COCO by file": coco("{file}", z=False),
    "SR": lambda series: put(
        series.root / "sr.dcm", report(group(scoord(series.item.SOPInstanceUID, "POLYLINE", OUTLINE)), uid=UID)
    ),
    "SR in space": lambda series: put(
        series.root / "sr.dcm", report(group(scoord3d("POLYGON", series.outline_mm, series.frame)), uid=UID)
    ),
    "RTSTRUCT": lambda series: put(series.root / "rt.dcm", framed(series)),
    "SEG": segmentation,
}


def framed(series: Series) -> pydicom.Dataset:
    item = structures({"GTV": ("GTV", [series.outline_mm[:-3]])}, uid=UID)
    item.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = series.frame
    return item


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of every layout."""
    root = tmp_path_factory.mktemp("written")
    for name, layout in EVERY.items():
        write_layout(root / name, UID, layout)
    return root


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", EVERY)
def test_a_lesion_is_one_mark_where_it_was_drawn(written: Path, tmp_path: Path, name: str, way: str) -> None:
    shutil.copytree(written / name, tmp_path / "archive" / "s")
    series = Series(tmp_path / "archive")
    WAYS[way](series)
    found = discover(tmp_path / "archive", ArchiveSettings(), 0, "salt")
    assert found.rejects == []
    volume, (mark,) = read(found.cases[0], tmp_path / "archive")
    boxes = bright(volume.hu_zyx, 900)  # made slices are darker
    size = (x2 - x1, y2 - y1)
    (expected,) = [(z, *box) for z, box in boxes.items() if (box[2] - box[0], box[3] - box[1]) == size]
    np.testing.assert_allclose((mark.z, mark.x1, mark.y1, mark.x2, mark.y2), expected, atol=0.5)
