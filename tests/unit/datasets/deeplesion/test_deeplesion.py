"""A DeepLesion-layout archive through scan and read: every voxel, box and split comes back; what is bad is refused."""

import importlib.util
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from harvester.config.data import DeepLesionSettings
from harvester.datasets.deeplesion.deeplesion import DeepLesionCase, discover, read
from harvester.datasets.discovery import Discovery
from harvester.datasets.dry_run import dry_run_table
from harvester.datasets.lists import split_rows
from harvester.errors import LabelError, SettingsError, VolumeError
from harvester.records import Volume
from harvester.store.store import finish_store
from tests.builders import mark, write_volume

SHAPE = (6, 40, 48)
SPACING = (5.0, 0.75, 0.75)
FILES = {
    "mining_marks": "Revised-Mining.pkl",
    "harvest_test_marks": "Revised-Harvest.pkl",
    "detector_test_marks": "Revised-Detector.pkl",
}
SPLITS = {
    (1, 1): "vm", (1, 2): "vh", (2, 1): "vm", (2, 2): "vh", (3, 1): "vh_test", (3, 2): "vh",
    (4, 1): "vd_test", (4, 2): "val", (5, 1): "vh",
}  # fmt: skip
"""Patient and study of each volume of the made archive."""


def _writer() -> ModuleType:
    """benchmarks/deeplesion_archive.py, which is no package."""
    file = Path(__file__).parents[4] / "benchmarks" / "deeplesion_archive.py"
    spec = importlib.util.spec_from_file_location("deeplesion_archive", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["deeplesion_archive"] = module
    spec.loader.exec_module(module)
    return module


writer = _writer()


def made(patient: int, study: int, split: str) -> Any:
    """A volume of noise, the scanner's padding in a corner, with three lesions, one of them clinical."""
    rng = np.random.default_rng([patient, study])
    hu = rng.integers(-1024, 3072, SHAPE).astype(np.int16)
    hu[:, 0, 0] = -2000
    volume = Volume("made", f"{patient}", hu, SPACING)
    boxes = [(x, y, x + 9.7, y + 9.7) for x, y in rng.uniform(2, 20, (3, 2)).tolist()]
    marks = [
        replace(mark("made", box, clinical=i == 1, z=i, mark_id=f"{patient}-{study}-{i}"), kind="nodule")
        for i, box in enumerate(boxes)
    ]
    return writer.Made(split, patient, study, 7 * study, volume, marks)


@pytest.fixture(scope="module")
def truth() -> dict[str, Any]:
    every = [made(patient, study, split) for (patient, study), split in SPLITS.items()]
    return {each.volume_id: each for each in every}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, truth: dict[str, Any]) -> Path:
    folder: Path = tmp_path_factory.mktemp("written")
    write(folder, truth.values())
    return folder


@pytest.fixture
def root(tmp_path: Path, written: Path) -> Path:
    """A copy to break."""
    return shutil.copytree(written, tmp_path / "archive")


def write(root: Path, volumes: Iterable[Any]) -> None:
    archive = writer.Writer(root)
    for each in volumes:
        archive.add(each)
    archive.close()


def scanned(root: Path, **settings: Any) -> Discovery:
    return discover(root, DeepLesionSettings(**FILES | settings), "salt")


def reasons(found: Discovery) -> list[str]:
    return sorted(each.reason for each in found.rejects)


def edit(root: Path, old: str, new: str) -> None:
    file = root / "DL_info.csv"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_every_voxel_box_and_split_survives(root: Path, truth: dict[str, Any], tmp_path: Path) -> None:
    found = scanned(root)
    assert {case.volume_id: case.split for case in found.cases} == {
        name: each.split for name, each in truth.items() if each.split != "val"
    }
    rows, marks = [], []
    for case in found.cases:
        again = DeepLesionCase(**json.loads(json.dumps(asdict(case))))
        volume, own = read(again, root)
        rows.append(write_volume(tmp_path / "store", volume, case.split, ""))
        marks += own
    store = finish_store(tmp_path / "store", rows, marks, [])
    for name, split in {case.volume_id: case.split for case in found.cases}.items():
        stored = store.read(name)
        np.testing.assert_array_equal(stored.hu_zyx, truth[name].volume.hu_zyx)
        assert (stored.spacing_zyx_mm, stored.patient_id) == (SPACING, name[:6])
        want = [
            (mark.z, *(round(end, 3) for end in (mark.x1, mark.y1, mark.x2, mark.y2)), mark.clinical)
            for mark in truth[name].marks
            if split != "vh" or mark.clinical
        ]
        got = [(m.z, m.x1, m.y1, m.x2, m.y2, m.clinical) for m in marks if m.volume_id == name]
        assert got == want
        assert {m.kind for m in marks if m.volume_id == name and m.clinical} == {"lung"}
    assert len({mark.mark_id for mark in marks}) == len(marks)


def test_a_dry_run_counts_marks_and_a_patient_may_be_in_vm_and_vh(root: Path) -> None:
    found = scanned(root)
    lines = [line.split() for line in dry_run_table(found).splitlines()]
    assert ["vm", "2", "2", "2", "6", "0"] in lines
    assert ["vh", "4", "4", "4", "4", "0"] in lines
    written = [(row["patient_id"], row["split"]) for row in split_rows(found)]
    assert written == sorted({(case.patient_id, case.split) for case in found.cases})
    assert [split for patient, split in written if patient == "000001"] == ["vh", "vm"]


def test_official_volumes_in_no_file_are_left_out_and_counted(root: Path) -> None:
    assert reasons(scanned(root)) == ["official_val"]
    without = scanned(root, mining_marks="", harvest_test_marks="", detector_test_marks="")
    assert reasons(without) == ["official_test", "official_val"]
    assert {case.split for case in without.cases} == {"vh"}
    assert {len(case.marks) for case in without.cases} == {1}


def test_the_same_again_and_ids_as_published(root: Path) -> None:
    found = scanned(root)
    assert found == scanned(root)
    assert found.cases[0].volume_id == "000001_01_01_007-012"
    assert found.cases[0].patient_id == "000001"
    assert [case.volume_id for case in found.cases] == sorted(case.volume_id for case in found.cases)
    assert found.rejects[0].source_hash != discover(root, DeepLesionSettings(**FILES), "other").rejects[0].source_hash


def test_a_volume_of_vm_whose_patient_is_measured_is_harvested_instead(
    root: Path, truth: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    (name,) = (each.volume_id for each in truth.values() if (each.patient, each.study) == (3, 2))
    shared = replace(truth[name], split="vm")
    write(root, [*(t for t in truth.values() if t.volume_id != name), shared])
    with caplog.at_level(logging.INFO):
        case = next(case for case in scanned(root).cases if case.volume_id == name)
    assert case.split == "vh"
    assert [mark["clinical"] for mark in case.marks] == [True]
    assert "1 volumes of vm taken as vh" in caplog.text
    assert name not in caplog.text


def test_noisy_marks_are_dropped_unless_asked_for(root: Path, truth: dict[str, Any]) -> None:
    name = "000005_01_01_007-012"
    flagged = [each for each in truth.values() if each.volume_id == name or each.split == "vm"]
    noisy = {each.volume_id: [mark.mark_id for mark in each.marks] for each in flagged}
    write(root, [replace(each, noisy=noisy.get(each.volume_id, [])) for each in truth.values()])
    found = scanned(root)
    assert reasons(found) == ["noisy", "official_val"]
    mining = next(case for case in found.cases if case.split == "vm")
    assert [mark["clinical"] for mark in mining.marks] == [False] * 3
    kept = scanned(root, keep_noisy=True)
    assert name in {case.volume_id for case in kept.cases}
    assert sum(mark["clinical"] for case in kept.cases for mark in case.marks) == len(kept.cases)


def test_a_pickle_of_clinical_marks_takes_the_place_of_the_tables_boxes(root: Path) -> None:
    given = scanned(root, marks=("RECIST-Box-Train.pkl",))
    assert given.cases == scanned(root).cases
    edit(root, ",5,0,", ",-1,0,")
    blank = scanned(root, marks=("RECIST-Box-Train.pkl",))
    assert {mark["kind"] for case in blank.cases for mark in case.marks} == {""}
    (root / "RECIST-Box-Train.pkl").write_bytes((root / "Revised-Harvest.pkl").read_bytes())
    every = next(case for case in scanned(root, marks=("RECIST-Box-Train.pkl",)).cases if case.split == "vh_test")
    assert [mark["clinical"] for mark in every.marks] == [True] * 3


def test_annotations_in_a_table_say_the_same(root: Path, truth: dict[str, Any]) -> None:
    lines = ["volume_id,z,x1,y1,x2,y2"]
    for each in truth.values():
        if each.split == "vm":
            lines += [f"{each.volume_id}.annot,{m.z},{m.x1},{m.y1},{m.x2},{m.y2}" for m in each.marks]
    (root / "mining.csv").write_text("\n".join(lines) + "\n")
    assert scanned(root, mining_marks="mining.csv") == scanned(root)
    assert scanned(root, mining_marks=str(root / "mining.csv")) == scanned(root)


def test_volumes_that_no_table_knows_are_refused(root: Path) -> None:
    (root / "mining.csv").write_text(
        "volume_id,z,x1,y1,x2,y2\n../../x,0,1,1,2,2\n000009_01_01_001-009,0,1,1,2,2\n000001_01_01-007-012,0,1,1,2,2\n"
    )
    found = scanned(root, mining_marks="mining.csv")
    assert reasons(found) == ["bad_id", "official_val", "unknown_volume"]
    assert not any("../" in each.message for each in found.rejects)


def test_what_was_not_fetched_is_refused(root: Path) -> None:
    images = root / "Images_png"
    (images / "000001_02_01").rename(root / "elsewhere")
    (images / "000002_01_01" / "012.png").unlink()
    (images / "000002_02_01" / "015.png").unlink()
    found = scanned(root)
    assert reasons(found) == ["missing_key_slice", "missing_series", "missing_slice", "official_val"]
    assert not {"000001_02_01", "000002_02_01"} & {case.folder for case in found.cases}


def test_slices_in_capitals_are_not_missing(root: Path) -> None:
    file = root / "Images_png" / "000002_01_01" / "012.png"
    before = reasons(scanned(root))
    file.rename(file.with_suffix(".PNG"))
    table = root / "DL_info.csv"
    table.write_text(table.read_text().replace(".png", ".PNG"))
    assert reasons(scanned(root)) == before


def test_a_broken_line_and_rows_that_disagree_are_refused(root: Path) -> None:
    edit(root, "000005_01_01_008.png,5,", "000005_01_01_008.png,smith,")
    found = scanned(root)
    assert reasons(found) == ["bad_row", "official_val"]
    assert not any("smith" in each.message for each in found.rejects)
    lines = (root / "DL_info.csv").read_text().splitlines()
    (root / "DL_info.csv").write_text("\n".join([*lines, lines[1].replace("0.75, 0.75, 5", "0.75, 0.75, 2")]))
    found = scanned(root)
    assert reasons(found) == ["bad_row", "bad_row", "official_val"]
    assert any("000001_01_01_007-012: its rows disagree on spacing" in each.message for each in found.rejects)


def test_broken_tables_are_errors(root: Path) -> None:
    with pytest.raises(LabelError, match=r"nothing.pkl: cannot be read"):
        scanned(root, mining_marks="nothing.pkl")
    (root / "DL_info.csv").unlink()
    with pytest.raises(LabelError, match=r"DL_info.csv: cannot be read"):
        scanned(root)
    with pytest.raises(SettingsError, match="holds no folder Images_png"):
        scanned(root / "Images_png")


def refused(root: Path, **change: Any) -> str:
    case = replace(scanned(root).cases[0], **change)
    with pytest.raises(VolumeError) as caught:
        read(case, root)
    assert str(root) not in str(caught.value)
    return caught.value.reason


def mark_row(z: int, *box: float) -> dict[str, Any]:
    return {"z": z, "box_xyxy": list(box), "clinical": True, "kind": ""}


@pytest.mark.parametrize(
    ("z", "box"),
    [(6, (2, 2, 9, 9)), (-1, (2, 2, 9, 9)), (0, (-6, 2, 9, 9)), (0, (2, 2, 53, 9)), (0, (2, 2, 9, 45)),
     (0, (49, 2, 51, 9)), (0, (2, -4, 9, -2))],
)  # fmt: skip
def test_a_mark_outside_its_volume_refuses_the_volume(root: Path, z: int, box: tuple[float, ...]) -> None:
    assert refused(root, marks=[mark_row(z, *box)]) == "bad_mark"


def test_padding_over_the_edge_is_cut(root: Path) -> None:
    case = replace(scanned(root).cases[0], marks=[mark_row(0, -5, 2, 52, 44)])
    (own,) = read(case, root)[1]
    assert (own.x1, own.y1, own.x2, own.y2) == (0, 2, 47, 39)


def test_bad_volumes_are_refused_on_reading(root: Path) -> None:
    assert refused(root, spacing_zyx_mm=[0.0, 0.7, 0.7]) == "bad_spacing"
    assert refused(root, size_px=[512, 512]) == "wrong_size"
    assert refused(root, folder="../../x") == "outside_root"
    file = root / "Images_png" / "000001_01_01" / "009.png"
    file.write_bytes(file.read_bytes()[:200])
    assert refused(root) == "unreadable"


def test_an_exchanged_slice_makes_another_case_of_its_volume_alone(root: Path) -> None:
    before = {case.volume_id: case for case in scanned(root).cases}
    file = next((root / "Images_png").rglob("*.png"))
    seen = file.stat()
    os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns + 1))
    after = {case.volume_id: case for case in scanned(root).cases}
    (other,) = [name for name, case in after.items() if case != before[name]]
    assert replace(after[other], contents=before[other].contents) == before[other]
    assert other.startswith(file.parent.name)
