"""harvester prepare's way from a DeepLesion-layout archive to a store: nothing changes on it, what is bad is a row."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from harvester.config.settings import Settings
from harvester.distributed.preparation import prepare
from harvester.errors import StoreError
from harvester.records import Mark, Volume

FILES = {
    "mining_marks": "Revised-Mining.pkl",
    "harvest_test_marks": "Revised-Harvest.pkl",
    "detector_test_marks": "Revised-Detector.pkl",
}
SPLITS = ("vm", "vh_test", "vd_test", "val", *["vh"] * 8)


@pytest.mark.usefixtures("local_ray")
def test_an_archive_is_prepared_voxel_by_voxel(tmp_path: Path) -> None:
    file = Path(__file__).parents[2] / "benchmarks" / "deeplesion_archive.py"
    spec = importlib.util.spec_from_file_location("deeplesion_archive", file)
    assert spec and spec.loader
    writer = importlib.util.module_from_spec(spec)
    sys.modules["deeplesion_archive"] = writer
    spec.loader.exec_module(writer)

    archive, made = writer.Writer(tmp_path / "archive"), {}
    for number, split in enumerate(SPLITS):
        hu = np.random.default_rng(number).integers(-1024, 3072, (5, 32, 32)).astype(np.int16)
        marks = [Mark("", f"{number}-{i}", i, 4.25, 5.5, 12.125, 15.0, i == 0, "node") for i in range(2)]
        one = writer.Made(split, number + 1, 1, 10, Volume("made", "p", hu, (5.0, 0.8, 0.8)), marks)
        made[one.volume_id] = one
        archive.add(one)
    archive.close()
    (broken,) = (name for name, one in made.items() if one.patient == len(SPLITS))
    slice_file = tmp_path / "archive" / "Images_png" / made[broken].folder / "012.png"
    slice_file.write_bytes(slice_file.read_bytes()[:100])

    data = {"kind": "deeplesion", "deeplesion": FILES}
    store = prepare(Settings.model_validate({"data": data}), tmp_path / "archive", tmp_path / "store")
    splits = dict(zip(*(store.manifest[name].to_pylist() for name in ("volume_id", "split")), strict=True))
    assert splits == {name: one.split for name, one in made.items() if one.split != "val" and name != broken}
    for name in splits:
        np.testing.assert_array_equal(store.read(name).hu_zyx, made[name].volume.hu_zyx)
    assert sorted(store.rejects()["reason"].to_pylist()) == ["official_val", "unreadable"]
    known = {"vm": 2, "vh": 1, "vh_test": 1, "vd_test": 0}
    shown = store.marks()["volume_id"].to_pylist()
    assert {name: shown.count(name) for name in splits} == {name: known[split] for name, split in splits.items()}
    boxes = {tuple(mark[side] for side in ("x1", "y1", "x2", "y2")) for mark in store.marks().to_pylist()}
    assert boxes == {(4.25, 5.5, 12.125, 15.0)}
    assert len(store.truth()) == 4

    (tmp_path / "archive" / "Revised-Mining.pkl").write_bytes(
        (tmp_path / "archive" / "Revised-Harvest.pkl").read_bytes()
    )
    data["deeplesion"] = {**FILES, "harvest_test_marks": ""}
    with pytest.raises(StoreError, match="made from other settings"):
        prepare(Settings.model_validate({"data": data}), tmp_path / "archive", tmp_path / "store")
