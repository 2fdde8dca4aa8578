"""COCO files of an archive: boxes in the file's own voxels, inclusive ends, lesions over several slices."""

import json
from pathlib import Path
from typing import Any

import pytest

from harvester.datasets.archive.coco import read_coco
from harvester.datasets.archive.tables import Known, MarkRow, ScanNames
from harvester.errors import LabelError

KEYS = {"a/b.nii.gz": "key", "a/b": "key"}
IMAGE = {"id": 7, "file_name": "a/b.nii.gz", "slice": 3}
BOX = {"id": 1, "image_id": 7, "bbox": [2, 3, 4, 2]}


def tree(image: Any = None, box: Any = None, **more: Any) -> dict[str, Any]:
    return {"images": [{**IMAGE, **(image or {})}], "annotations": [{**BOX, **(box or {})}], **more}


def known_of(root: Path, content: Any, name: str = "marks.json") -> dict[str, Known]:
    (root / name).write_text(content if isinstance(content, str) else json.dumps(content))
    known: dict[str, Known] = {}
    read_coco(root, ScanNames(KEYS), known)
    return known


def row_of(root: Path, content: Any) -> MarkRow:
    (row,) = known_of(root, content)["key"].marks
    return row


@pytest.mark.parametrize("name", ["marks.json", "annotations.json"])
def test_a_box_becomes_a_row_with_inclusive_ends(tmp_path: Path, name: str) -> None:
    known = known_of(tmp_path, tree(), name)["key"]
    assert known.tables == {name}
    assert known.marks == [
        MarkRow(
            where=f"annotation 0 (from 0) of {name}",
            z=3,
            box_xyxy=[2.0, 3.0, 5.0, 4.0],
            clinical=None,
            kind="",
            lesion="",
        )
    ]


def test_a_box_of_one_voxel_is_one_wide(tmp_path: Path) -> None:
    assert row_of(tmp_path, tree(box={"bbox": [2, 3, 1, 1]}))["box_xyxy"] == [2, 3, 2, 3]


def test_kinds_lesions_and_what_the_clinic_marked(tmp_path: Path) -> None:
    content = tree(
        box={"category_id": "2", "track_id": 5, "clinical": 0},
        categories=[{"id": 1, "name": "nodule"}, {"id": 2, "name": "node"}],
    )
    row = row_of(tmp_path, content)
    assert (row["kind"], row["lesion"], row["clinical"]) == ("node", "5", False)
    assert row_of(tmp_path, tree(box={"lesion_id": "x"}))["lesion"] == "x"


@pytest.mark.parametrize(
    "image",
    [
        {"slice": None, "z": 3},
        {"slice": None, "frame": 3},
        {"slice": None, "file_name": "a/b.nii.gz#3"},
        {"file_name": "./a/b#3"},
        {"slice": "3"},
    ],
)
def test_a_slice_may_be_told_in_several_ways(tmp_path: Path, image: dict[str, Any]) -> None:
    assert row_of(tmp_path, tree(image))["z"] == 3


def test_polygons_without_a_box_give_their_box(tmp_path: Path) -> None:
    polygons = {"bbox": None, "segmentation": [[2, 3, 6, 3, 6, 5, 2, 5], [4.0, 2.5, 5, 2.5, 5, 3]]}
    assert row_of(tmp_path, tree(box=polygons))["box_xyxy"] == [2, 2.5, 5, 4]
    for wrong in ({"counts": "x", "size": [1, 1]}, [], [[1, 2, 3]], [["1", 2]]):
        with pytest.raises(LabelError, match="four finite numbers, or polygons"):
            known_of(tmp_path, tree(box={"bbox": None, "segmentation": wrong}))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nodule (solid)", "nodule"),
        ("liver > 1 cm", "liver"),
        ("node/chain", "node/chain"),
        ("Doe_Jane (1950-01-01): liver, growing", ""),
        ("a word and another and many more than a kind has", ""),
    ],
)
def test_an_odd_kind_stops_no_archive_and_a_report_is_none(tmp_path: Path, name: str, kind: str) -> None:
    content = tree(box={"category_id": 1}, categories=[{"id": 1, "name": name}])
    assert row_of(tmp_path, content)["kind"] == kind


def test_an_image_may_be_a_slices_own_file(tmp_path: Path) -> None:
    (tmp_path / "marks.json").write_text(json.dumps(tree({"file_name": "s/004.dcm", "slice": None})))
    known: dict[str, Known] = {}
    read_coco(tmp_path, ScanNames(KEYS, {"s/004.dcm": ("series", 4)}.get), known)
    assert [row["z"] for row in known["series"].marks] == [4]


def test_no_file_and_no_boxes_tell_nothing(tmp_path: Path) -> None:
    known: dict[str, Known] = {}
    read_coco(tmp_path, ScanNames(KEYS), known)
    assert not known
    # An image without boxes needs no scan.
    assert not known_of(tmp_path, {"images": [{"id": 1, "file_name": "elsewhere.nii"}], "annotations": []})


BROKEN: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "cannot be read as JSON"),
    "nested too deep": ("[" * 100_000, "cannot be read as JSON"),
    "a list": ([], "want an object"),
    "images that are none": ({"images": [1]}, "`images` must be a list of objects"),
    "images of one id": ({"images": [IMAGE, IMAGE]}, "`images` needs an `id` of its own"),
    "an image without id": (tree({"id": None}), "`images` needs an `id` of its own"),
    "no such image": (tree(box={"image_id": 8}), "image_id names no image"),
    "no such category": (tree(box={"category_id": 8}), "category_id names no category"),
    "no such scan": (tree({"file_name": "Doe_Jane.nii"}), "names no scan"),
    "no file name": (tree({"file_name": None}), "names no scan"),
    "no slice": (tree({"slice": None}), "want one slice"),
    "two slices": (tree({"z": 4}), "want one slice"),
    "half a slice": (tree({"slice": 2.5}), "want one slice"),
    "a slice below 0": (tree({"slice": -1}), "want one slice"),
    "a slice in words": (tree({"slice": "Doe_Jane"}), "want one slice"),
    "three numbers": (tree(box={"bbox": [1, 2, 3]}), "four finite numbers"),
    "words": (tree(box={"bbox": ["Doe_Jane", 2, 3, 4]}), "four finite numbers"),
    "no box": (tree(box={"bbox": None}), "four finite numbers"),
    "NaN": ('{"images": [{"id": 7}], "annotations": [{"image_id": 7, "bbox": [NaN, 1, 1, 1]}]}', "names no scan"),
    "NaN in a box": (tree(box={"bbox": [float("nan"), 2, 3, 4]}), "four finite numbers"),
    "a number beyond all": (tree(box={"bbox": [10**400, 2, 3, 4]}), "four finite numbers"),
    "a crowd": (tree(box={"iscrowd": 1}), "iscrowd"),
    "perhaps clinical": (tree(box={"clinical": "Doe_Jane"}), "clinical must be 1 or 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_named_by_the_entry_and_not_by_what_it_says(tmp_path: Path, case: str) -> None:
    content, message = BROKEN[case]
    with pytest.raises(LabelError) as caught:
        known_of(tmp_path, content)
    assert message in str(caught.value)
    assert "marks.json" in str(caught.value)
    assert "Doe" not in str(caught.value)


def test_two_files_are_one_too_many(tmp_path: Path) -> None:
    known_of(tmp_path, tree())
    with pytest.raises(LabelError, match="keep one"):
        known_of(tmp_path, tree(), "annotations.json")


def test_a_misspelt_flag_is_no_default(tmp_path: Path) -> None:
    told = tree()
    told["annotations"][0]["clincal"] = 0
    with pytest.raises(LabelError, match="clincal, did you mean clinical"):
        known_of(tmp_path, told, "marks.json")
