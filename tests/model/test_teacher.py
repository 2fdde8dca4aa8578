"""A generator's teacher: what it adds to the targets, how it follows, and what a fit with one gives."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from harvester.config.loading import resolve
from harvester.config.settings import Settings
from harvester.labels.ledger import from_marks
from harvester.models.fit import FitStep, FoldTask
from harvester.proposals.boxes import SliceBoxes
from harvester.proposals.network import CONTEXT, Generator
from harvester.proposals.targets import SlabLabels, build_targets
from harvester.proposals.teacher import Taught
from harvester.proposals.training import fit_generator
from harvester.records import Mark
from harvester.storage.location import Location

MakeStore = Callable[..., Any]
KNOWN, NEW = np.array([8.0, 8.0, 19.0, 19.0]), np.array([40.0, 36.0, 51.0, 47.0])


@pytest.fixture
def settings() -> Settings:
    return resolve(None, ["teacher.cut=0.7", "generator.width=8", "generator.channels=8", "generator.head_channels=8"])


def targets_of(settings: Settings, *boxes: np.ndarray, weight: float = 1.0) -> dict[str, torch.Tensor]:
    """Of one slab of two slices, lesions on the second."""
    none = SliceBoxes.of()
    labels = SlabLabels(SliceBoxes.of((1, box) for box in boxes), none, none, np.full(2, weight, np.float32))
    maps = build_targets(labels, 64, 64, settings.generator.stride, settings.generator.target_iou)
    return {name: torch.from_numpy(values)[None] for name, values in maps.items()}


class Answers(torch.nn.Module):
    """A teacher that answers with given maps."""

    def __init__(self, maps: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, slab: torch.Tensor) -> dict[str, torch.Tensor]:
        return {
            "heat": torch.logit(self.maps["heat"], eps=1e-4),
            "size": self.maps["size"],
            "offset": self.maps["offset"],
        }


def taught(settings: Settings, answer: dict[str, torch.Tensor]) -> Taught:
    made = Taught(Generator(settings.generator, settings.grid), settings.generator, settings.teacher)
    made.teacher = Answers(answer)  # type: ignore[assignment]
    return made


def test_what_the_teacher_is_sure_of_becomes_a_lesion_and_what_is_known_stays(settings: Settings) -> None:
    known, both = targets_of(settings, KNOWN), targets_of(settings, KNOWN, NEW)
    got = taught(settings, both).taught(torch.zeros(1, 3, 2 + 2 * CONTEXT, 64, 64), known)
    for name in ("heat", "centre", "size", "offset", "weight"):
        torch.testing.assert_close(got[name], both[name])
    assert known["centre"].sum() == 1  # what came in is as it was
    same = taught(settings, targets_of(settings)).taught(torch.zeros(1, 3, 2 + 2 * CONTEXT, 64, 64), known)
    assert same is known  # sure of nothing


def test_nothing_is_added_where_nothing_is_to_be_judged(settings: Settings) -> None:
    nowhere = targets_of(settings, KNOWN, weight=0.0)
    got = taught(settings, targets_of(settings, NEW)).taught(torch.zeros(1, 3, 2 + 2 * CONTEXT, 64, 64), nowhere)
    torch.testing.assert_close(got, nowhere)


def test_the_teacher_follows_slowly_and_is_not_fitted(settings: Settings) -> None:
    torch.manual_seed(0)
    model = Taught(Generator(settings.generator, settings.grid), settings.generator, settings.teacher)
    assert not any(parameter.requires_grad for parameter in model.teacher.parameters())
    assert model.train().student.training and not model.teacher.training
    before = {name: value.clone() for name, value in model.teacher.state_dict().items()}
    with torch.no_grad():
        for value in model.student.state_dict().values():
            if value.is_floating_point():
                value.add_(1.0)
    model.follow()
    for name, value in model.teacher.state_dict().items():
        if value.is_floating_point():
            moved = 1.0 if "running" in name else 1 - settings.teacher.keeps
            torch.testing.assert_close(value, before[name] + moved)


def test_a_fit_with_a_teacher_is_of_its_seed_and_gives_the_teacher(make_store: MakeStore, settings: Settings) -> None:
    hu = np.random.default_rng(0).normal(0, 30, (10, 64, 64))
    hu[4:7, 20:32, 20:32] = 400
    marks = [Mark("a", "a-0", 5, 16, 16, 35, 35, True)]
    store = make_store({"a": ("vm", hu), "b": ("vh_test", hu)}, marks)
    short = settings.generator.model_copy(update={"crop_px": 64, "steps": 4, "batch_slabs": 2, "slab_depth": 2})
    own = settings.model_copy(update={"generator": short})
    rows, ledger = store.manifest.to_pylist(), from_marks(store.marks())

    def fitted(checkpoint: Location) -> dict[str, torch.Tensor]:
        told: list[FitStep] = []
        task = FoldTask(store.path, 3, None, checkpoint, False, log=told.append)
        model, history = fit_generator(task, own, rows, ledger)
        assert len(history) == 4 and told[-1].step == told[-1].steps == 4
        return model.state_dict()

    one = fitted(store.path / "one.pt")
    same = fitted(store.path / "two.pt")
    assert all(torch.equal(one[name], same[name]) for name in one)
    plain = own.model_copy(update={"teacher": own.teacher.model_copy(update={"cut": 0.0})})
    task = FoldTask(store.path, 3, None, store.path / "three.pt", False, log=lambda line: None)
    student, _ = fit_generator(task, plain, rows, ledger)
    assert any(not torch.equal(one[name], value) for name, value in student.state_dict().items())
