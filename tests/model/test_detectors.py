"""Detectors that are retrained: what they are called with, and which images and boxes they see."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harvester.config.loading import resolve
from harvester.config.settings import Settings
from harvester.detectors.detector import LESION, LOOK_ALIKE, SHIPPED, Detector, build, content_of, short_name
from harvester.detectors.images import Archive, SliceImages
from harvester.detectors.inference import detect
from harvester.detectors.training import fit_detector, of_lesions
from harvester.errors import NoExamplesError, SettingsError
from harvester.models.device import DeviceSpec
from harvester.models.fit import FoldTask
from harvester.proposals.boxes import SliceBoxes
from harvester.proposals.labels import VolumeLabels
from harvester.storage.location import Location
from harvester.store.slab import GridFrame
from harvester.store.store import Store
from tests.builders import made_store

OWN = """
import torch
from harvester.detectors.detector import Detector


class Middle(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images, targets=None):
        if self.training:
            return {"nothing": (self.weight - sum(len(each["boxes"]) for each in targets)).square().sum()}
        y, x = images[0].shape[-2:]
        return [{"boxes": torch.tensor([[x / 4, y / 4, x / 2, y / 2]]), "scores": torch.tensor([0.5])} for _ in images]


def build(settings):
    return Detector(Middle(), context=0)
"""
BOX = np.array([20.0, 24.0, 35.0, 39.0])


@pytest.fixture
def settings() -> Settings:
    small = ["retrain.crop_px=64", "retrain.batch_images=2", "retrain.steps=3", "grid.spacing_zyx_mm=[4,1,1]"]
    return resolve(None, small)


@pytest.fixture
def own(tmp_path: Path) -> str:
    file = tmp_path / "middle.py"
    file.write_text(OWN)
    return f"{file}:build"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    hu = np.full((6, 96, 96), -1000, np.int16)
    hu[:, 10:80, 10:80] = 0
    hu[2:4, 24:40, 20:36] = 300
    return made_store(tmp_path / "store", {"a": "vm", "b": "vh_test"}, hu=hu)


def frames_of(store: Store, settings: Settings) -> list[GridFrame]:
    return [GridFrame.of(row, settings.grid) for row in store.manifest.to_pylist()]


def labels_of(frames: list[GridFrame], negatives: bool = False) -> dict[str, VolumeLabels]:
    lesions, none = SliceBoxes.of([(2, BOX), (3, BOX)]), SliceBoxes.of()
    false = SliceBoxes.of([(z, np.array([50.0, 50.0, 60.0, 60.0])) for z in range(6)]) if negatives else none
    return {frame.volume_id: VolumeLabels(lesions, false, none, True) for frame in frames}


def same_taps(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two crops lie in the same place."""
    pairs = [(one[axis][name], other[axis][name]) for axis in ("rows", "columns") for name in one[axis]]
    return all(mine.shape == its.shape and bool((mine == its).all()) for mine, its in pairs)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_detector_learns_and_answers_as_torchvisions_do(name: str, settings: Settings) -> None:
    torch.manual_seed(0)
    detector = build(name, settings)
    windows, slices = len(detector.windows(settings)), 2 * detector.context + 1
    images = [torch.rand(windows * slices, 64, 96) for _ in range(2)]
    some = {"boxes": torch.tensor([[10.0, 10, 30, 26], [40, 40, 60, 60]]), "labels": torch.tensor([LESION, LOOK_ALIKE])}
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    detector.model.train()
    losses = detector.model(images, [some, none])
    total = torch.stack(list(losses.values())).sum()
    total.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(total) and total > 0
    detector.model.eval()
    with torch.no_grad():
        found = [of_lesions(each) for each in detector.model(images)]
    assert len(found) == 2
    for each in found:
        assert each["boxes"].shape == (len(each["scores"]), 4)
        assert not len(each["scores"]) or each["scores"].min() >= settings.retrain.score_floor


@pytest.mark.parametrize("name", ["faster_rcnn", "fcos"])
def test_images_are_not_resized_in_evaluation_either(name: str, settings: Settings) -> None:
    transform = build(name, settings).model.transform.eval()
    shown, _ = transform([torch.rand(3, 64, 96)], None)
    assert shown.image_sizes == [(64, 96)] and shown.tensors.shape[-2:] == (64, 96)


def test_the_images_follow_from_seed_and_number_alone_the_boxes_from_the_labels(
    store: Store, settings: Settings
) -> None:
    frames, detector = frames_of(store, settings), build("generator", settings)
    few = {frame.volume_id: VolumeLabels(*[SliceBoxes.of()] * 3, True) for frame in frames}
    with_all, with_none, other = (
        SliceImages(Archive(store.path, frames), labels, detector, 64, 40, seed)
        for labels, seed in ((labels_of(frames, True), 1), (few, 1), (labels_of(frames, True), 2))
    )
    kinds = set()
    differ = 0
    for at in range(40):
        (one, target), (same, nothing) = with_all[at], with_none[at]
        assert torch.equal(one["hu"], same["hu"]) and same_taps(one, same)
        assert not len(nothing["boxes"])
        differ += not same_taps(one, other[at][0])
        kinds |= set(target["labels"].tolist())
        for box in target["boxes"]:
            assert (box[2:] - box[:2]).min() >= 1 and box.min() >= 0 and box.max() <= 64
    assert kinds == {LESION, LOOK_ALIKE} and differ > 30


def test_slices_that_nobody_annotated_are_not_drawn(store: Store, settings: Settings) -> None:
    frames = frames_of(store, settings)
    unknown = frozenset((frames[0].volume_id, z) for z in range(5))
    left = Archive(store.path, frames, unknown).slices()
    assert [(frame.volume_id, z) for frame, z in left] == [
        (frames[0].volume_id, 5), *((frames[1].volume_id, z) for z in range(6))
    ]  # fmt: skip


def test_a_detector_of_ones_own_is_fitted_and_its_boxes_become_tubelets(
    own: str, store: Store, settings: Settings, tmp_path: Path
) -> None:
    detector, frames = build(own, settings), frames_of(store, settings)
    task = FoldTask(store.path, 0, None, Location.of(tmp_path / "c.pt"), False, log=lambda line: None)
    history = fit_detector(task, settings, detector, Archive(store.path, frames), labels_of(frames))
    assert len(history) == 3
    spec = DeviceSpec.choose(False, "float32")
    (first, second) = detect(detector, store.path, frames, settings, spec)
    assert first[0]["z"] == list(range(6)) and first[0]["lpg_score"] == 0.5
    assert [first[0][side][0] for side in ("x1", "y1", "x2", "y2")] == [24, 24, 47, 47]  # both ends inclusive
    assert second[0]["volume_id"] == frames[1].volume_id


def test_a_detector_may_take_more_steps_than_others(own: str, store: Store, settings: Settings, tmp_path: Path) -> None:
    detector, frames = replace(build(own, settings), steps_factor=2.0), frames_of(store, settings)
    task = FoldTask(store.path, 0, None, Location.of(tmp_path / "c.pt"), False, log=lambda line: None)
    history = fit_detector(task, settings, detector, Archive(store.path, frames), labels_of(frames))
    assert len(history) == 2 * settings.retrain.steps


def test_a_label_set_without_a_lesion_teaches_nothing(
    own: str, store: Store, settings: Settings, tmp_path: Path
) -> None:
    frames = frames_of(store, settings)
    none = {frame.volume_id: VolumeLabels(*[SliceBoxes.of()] * 3, True) for frame in frames}
    task = FoldTask(store.path, 0, None, Location.of(tmp_path / "c.pt"), False, name="fcos-clinical")
    with pytest.raises(NoExamplesError, match="fcos-clinical: no label of a lesion in the 2 training volumes"):
        fit_detector(task, settings, build(own, settings), Archive(store.path, frames), none)


def test_what_is_wrong_with_a_detector_is_said_in_a_line(settings: Settings, own: str, tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text("def build(settings):\n    return 3\n")
    for name, said in {
        "yolo": "'yolo' is none of faster_rcnn, fcos, generator",
        f"{tmp_path / 'none.py'}:build": "cannot be imported",
        f"{tmp_path / 'odd.py'}:other": "cannot be imported",
        f"{tmp_path / 'odd.py'}:build": "gave int, want a Detector",
        "no.such.module:build": "cannot be imported",
    }.items():
        with pytest.raises(SettingsError, match=said):
            build(name, settings)
    assert short_name(own) == "middle" and short_name("fcos") == "fcos" and short_name("my.nets:made") == "nets"
    before = content_of(own)
    Path(own.rpartition(":")[0]).write_text(f"{OWN}\n# changed\n")
    assert content_of(own) != before and content_of("fcos") == "fcos"
    assert isinstance(build(own, settings), Detector)
