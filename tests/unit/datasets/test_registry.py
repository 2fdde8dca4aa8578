"""Each kind of data by its name: what there is, and a volume of it."""

from dataclasses import asdict
from pathlib import Path

import nibabel
import numpy as np
import pytest

from harvester.config.settings import Settings
from harvester.datasets.insertion import insertion
from harvester.datasets.insertion.backgrounds import Background
from harvester.datasets.registry import DATASETS, open_dataset
from harvester.errors import SettingsError


def settings(kind: str, **data: object) -> Settings:
    return Settings.model_validate({"data": {"kind": kind, **data}})


def test_phantoms_need_no_source_and_are_made_as_discovered() -> None:
    dataset = open_dataset(settings("phantom", phantom={"depth": 6, "vm_volumes": 2, "vh_test_volumes": 1}), None)
    cases = dataset.discover("").cases
    assert [case.split for case in cases] == ["vm", "vm", "vh_test"]
    loaded = dataset.load(asdict(cases[1]))
    assert (loaded.volume.volume_id, len(loaded.volume.hu_zyx)) == (cases[1].volume_id, 6)
    assert {mark.volume_id for mark in loaded.marks} <= {cases[1].volume_id}
    assert list(loaded.ignored) == []


def test_an_archive_is_discovered_and_loaded_by_its_cases(tmp_path: Path) -> None:
    hu = np.zeros((9, 8, 10), np.int16)
    hu[0] = -1000
    nibabel.save(nibabel.Nifti1Image(hu, np.eye(4)), tmp_path / "a.nii")
    dataset = open_dataset(settings("archive"), tmp_path)
    discovery = dataset.discover("salt")
    (case,) = discovery.cases
    assert dataset.load(asdict(case)).volume.hu_zyx.shape == (10, 8, 9)
    assert (case.split, discovery.rejects) == ("vh", [])
    assert dataset.discover("other").cases[0].volume_id != case.volume_id


def test_a_background_is_read_once_for_the_sub_volumes_that_lie_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = [
        Background.model_validate({"id": name, "file": "x", "patient": name, "role": role})
        for name, role in (("b", "vm"), ("a", "vm"), ("c", "vh_test"))
    ]
    read: list[str] = []

    class Prepared:
        def __init__(self, background: Background) -> None:
            read.append(background.id)
            self.background = background

    monkeypatch.setattr(insertion, "load_backgrounds", lambda *_: listed)
    monkeypatch.setattr(insertion, "load_background_volume", Prepared)
    monkeypatch.setattr(insertion, "make", lambda own, prepared, case, seed: (prepared, [], []))
    dataset = open_dataset(settings("insertion", insertion={"vm_volumes": 5, "vh_test_volumes": 2}), tmp_path)
    made = [dataset.load(asdict(case)).volume for case in dataset.discover("").cases]
    assert [prepared.background.id for prepared in made] == ["a", "a", "b", "b", "b", "c", "c"]  # type: ignore[attr-defined]
    assert read == ["a", "b", "c"]


def test_what_is_no_dataset_or_lacks_its_files_is_a_wrong_setting() -> None:
    with pytest.raises(SettingsError, match="nothing says what to prepare: give --source SCANS"):
        open_dataset(settings("store"), None)
    for kind in DATASETS.keys() - {"phantom"}:
        with pytest.raises(SettingsError, match="give --source"):
            open_dataset(settings(kind), None)
