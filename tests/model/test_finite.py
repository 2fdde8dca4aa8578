"""NaN and infinity end a fit at the step that made them; no checkpoint, no weights and no score is made of them."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from harvester.classifier.crops import load_views
from harvester.classifier.inference import classify, load_classifier
from harvester.classifier.network import Classifier
from harvester.classifier.training import fit_classifier
from harvester.config.settings import Settings
from harvester.distributed.inference import Proposer
from harvester.distributed.volume_pool import InferenceJob
from harvester.errors import NotFiniteError, SettingsError, StoreError
from harvester.labels.ledger import from_marks
from harvester.models.backbones import build_backbone
from harvester.models.device import DeviceSpec
from harvester.models.fit import Fit, FoldTask, LossesOf
from harvester.proposals.detect import find_boxes
from harvester.proposals.inference import load_generator, read_with_context
from harvester.proposals.network import Generator
from harvester.proposals.training import fit_generator
from harvester.records import Mark
from harvester.run.partials import Partials
from harvester.storage.location import Location
from harvester.store.slab import GridFrame
from harvester.store.store import Store
from tests.builders import tubelet
from tests.model.test_fit import FLOAT, SCHEDULE, Bright, losses_of, model

SETTINGS = Settings.model_validate(
    {
        "folds": 5,
        "grid": {"windows_hu": [[-1024, 1024]]},
        "generator": {
            "width": 8, "channels": 16, "head_channels": 8, "slab_depth": 2, "crop_px": 48, "batch_slabs": 2,
            "steps": 25, "finetune_steps": 25, "score_floor": 0.0,
        },
        "classifier": {
            "channels": 8, "views": 2, "local_px": 16, "global_px": 16, "global_mm": 60, "steps": 25, "batch_size": 4,
            "finetune_steps": 25,
        },
        "compute": {"precision": "float32"},
    }
)  # fmt: skip


def task_in(folder: Path, start: Path | None = None) -> FoldTask:
    place = Location.of(folder)
    first = Location.of(start) if start else None
    return FoldTask(place, 5, first, place / "c.pt", False, log=lambda _: None, name="generator fold 3")


def fitted(folder: Path, losses: LossesOf, network: nn.Module | None = None) -> Any:
    schedule = replace(SCHEDULE, rate_setting="generator.learning_rate")
    return Fit(network or model(), schedule, FLOAT, task_in(folder)).run(Bright(), losses)


def from_step(step: int, spoil: Callable[[nn.Module, Tensor], Tensor]) -> LossesOf:
    """The usual losses; from this step on, one of them spoilt."""
    taken = [0]

    def losses(network: nn.Module, batch: Any) -> dict[str, Tensor]:
        taken[0] += 1
        terms = losses_of(network, batch)
        return terms | {"small": spoil(network, terms["small"])} if taken[0] >= step else terms

    return losses


def steep(network: nn.Module, term: Tensor) -> Tensor:
    """Finite, but its gradient is not."""
    return term + (0 * next(network.parameters()).sum()).sqrt()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda _, term: term * math.nan, r"small nan, gradient norm nan"),
        (lambda _, term: term + math.inf, r"small inf, gradient norm \d"),
        (steep, r"small [\d.e-]+, gradient norm (nan|inf)"),
    ],
    ids=["nan", "infinity", "gradient"],
)
def test_the_first_loss_or_gradient_that_is_not_finite_is_named_with_step_and_fold(
    tmp_path: Path, spoil: Any, told: str
) -> None:
    with pytest.raises(NotFiniteError) as caught:
        fitted(tmp_path, from_step(8, spoil))
    assert caught.match(rf"^generator fold 3: the loss of step 8 is not finite \(classify [\d.]+, {told}")
    assert str(caught.value).endswith("lower generator.learning_rate, then start again")
    # The checkpoint is that of step 5, and a fit goes on from it as if nothing had been.
    assert len(fitted(tmp_path, losses_of)) == SCHEDULE.steps


@pytest.mark.parametrize(("step", "told"), [(8, "after step 10"), (11, "after step 12")])
def test_weights_that_are_not_finite_reach_no_checkpoint_and_no_end(tmp_path: Path, step: int, told: str) -> None:
    def overflow(network: Any, term: Tensor) -> Tensor:
        network[1].running_var.data.fill_(math.inf)  # no loss of training depends on it
        return term

    with pytest.raises(NotFiniteError, match=rf"fold 3: {told} weights are not finite \(1\.running_var\); lower"):
        fitted(tmp_path, from_step(step, overflow))
    kept = torch.load(tmp_path / "c.pt", weights_only=True)
    assert kept["step"] == (5 if step == 8 else 10)
    assert all(value.isfinite().all() for value in kept["model"].values())


def test_nothing_goes_on_from_a_checkpoint_that_is_not_finite(tmp_path: Path) -> None:
    fitted(tmp_path, losses_of)
    state = torch.load(tmp_path / "c.pt", weights_only=True)
    state["model"]["0.weight"][0] = math.nan
    torch.save(state, tmp_path / "c.pt")
    with pytest.raises(StoreError, match=r"c\.pt: refused: it holds NaN or infinity \(0\.weight\); delete it"):
        fitted(tmp_path, losses_of)


# The two models

MARK = Mark("v", "m", 4, 20, 24, 33, 39, clinical=True)
ROWS = [tubelet("v", (20.0, 24.0, 33.0, 39.0), [4])]


@pytest.fixture
def store(make_store: Callable[..., Store]) -> Store:
    hu = np.random.default_rng(0).normal(0, 20, (8, 64, 64))
    hu[3:6, 24:40, 20:34] = 900
    return make_store({"v": ("vm", hu), "w": ("vm", hu)}, [MARK])


@pytest.fixture
def frame(store: Store, frames_of: Any) -> GridFrame:
    made: GridFrame = frames_of(store, SETTINGS.grid)["v"]
    return made


def with_rates(model: str, **rates: float) -> Settings:
    own = getattr(SETTINGS, model).model_copy(update=rates)
    return SETTINGS.model_copy(update={model: own})


def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(SETTINGS.generator, SETTINGS.grid).eval()


def saved(network: nn.Module, file: Path, **spoilt: float) -> Path:
    """As a fit publishes it, its first weight or another spoilt."""
    state = {name: value.detach().clone().contiguous().float() for name, value in network.state_dict().items()}
    for name, value in spoilt.items():
        next(each for key, each in state.items() if name in key).flatten()[0] = value
    save_file(state, file)
    return file


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("finetuned", [False, True])
def test_a_generator_that_diverges_is_an_error_that_names_the_rate(
    store: Store, tmp_path: Path, precision: str, finetuned: bool
) -> None:
    start = saved(generator(), tmp_path / "start.safetensors") if finetuned else None
    settings = with_rates("generator", learning_rate=1e20, finetune_learning_rate=1e20)
    settings = settings.model_copy(update={"compute": settings.compute.model_copy(update={"precision": precision})})
    task = replace(task_in(tmp_path, start), store=store.path)
    setting = "generator.finetune_learning_rate" if finetuned else "generator.learning_rate"
    with pytest.raises(NotFiniteError, match=rf"^generator fold 3: .* not finite .*; lower {setting}, then"):
        fit_generator(task, settings, store.manifest.to_pylist(), from_marks(store.marks()))
    assert not task.checkpoint.is_file()


@pytest.mark.parametrize("finetuned", [False, True])
def test_a_classifier_that_diverges_is_an_error_that_names_the_rate(
    store: Store, frame: GridFrame, tmp_path: Path, finetuned: bool
) -> None:
    start = saved(Classifier(SETTINGS.classifier, SETTINGS.grid), tmp_path / "s.safetensors") if finetuned else None
    settings = with_rates("classifier", learning_rate=1e20, finetune_learning_rate=1e20)
    examples = {1: [(frame, ROWS[0])], 0: [(frame, tubelet("v", (2.0, 2.0, 12.0, 12.0), [1]))]}
    setting = "classifier.finetune_learning_rate" if finetuned else "classifier.learning_rate"
    with pytest.raises(NotFiniteError, match=rf"not finite .*; lower {setting}, then"):
        fit_classifier(replace(task_in(tmp_path, start), store=store.path), settings, examples)


def test_published_weights_that_are_not_finite_are_read_by_nobody(store: Store, tmp_path: Path) -> None:
    broken = saved(generator(), tmp_path / "g.safetensors", laterals=math.inf)
    other = saved(Classifier(SETTINGS.classifier, SETTINGS.grid), tmp_path / "c.safetensors", logit=math.nan)
    rows, ledger = store.manifest.to_pylist(), from_marks(store.marks())
    for read in (
        lambda: load_generator(Location.of(broken), SETTINGS, FLOAT),
        lambda: load_classifier(Location.of(other), SETTINGS, FLOAT),
        lambda: fit_generator(task_in(tmp_path, broken), SETTINGS, rows, ledger),
    ):
        with pytest.raises(NotFiniteError, match=r"safetensors: holds NaN or infinity \((laterals|logit).*; lower"):
            read()


def test_pretrained_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    file = saved(build_backbone("small", 9, 16), tmp_path / "w.safetensors", stages=math.nan)
    torch.save({"stages.0.0.weight": torch.tensor([math.inf])}, tmp_path / "w.pt")
    for each in (file, tmp_path / "w.pt"):
        with pytest.raises(SettingsError, match=rf"'{each.name}': hold NaN or infinity \(stages\.0\.0\.weight\)"):
            build_backbone("small", 9, 16, str(each))


@pytest.mark.parametrize("head", ["heat", "size", "offset"])
@pytest.mark.parametrize("averaged", [1, 2])
def test_a_place_without_a_number_is_no_place_without_a_lesion(
    store: Store, frame: GridFrame, head: str, averaged: int
) -> None:
    network = generator()
    with torch.no_grad():
        network.heads[head][-1].bias.fill_(math.nan)  # type: ignore[operator, index, union-attr]
    slab = read_with_context(store.path, frame, FLOAT)
    with pytest.raises(NotFiniteError, match=r"^volume v: the generator's answer is not finite; lower the learning"):
        find_boxes([network, generator()][:averaged], slab, frame, SETTINGS, FLOAT)


def test_what_overflows_in_bfloat16_is_told_too(store: Store, frame: GridFrame) -> None:
    network = generator()
    with torch.no_grad():
        for head in network.heads.values():
            head[0].weight.mul_(1e38)  # type: ignore[operator, index]
            head[-1].weight.mul_(1e38)  # type: ignore[operator, index]
    slab = read_with_context(store.path, frame, FLOAT)
    with pytest.raises(NotFiniteError, match=r"^volume v"):
        find_boxes([network], slab, frame, SETTINGS, DeviceSpec(FLOAT.device, torch.bfloat16))


def test_a_classifiers_nan_is_no_low_score(store: Store, frame: GridFrame) -> None:
    network = Classifier(SETTINGS.classifier, SETTINGS.grid).eval()
    with torch.no_grad():
        network.logit[-1].bias.fill_(math.nan)  # type: ignore[operator, union-attr]
    views = load_views(store.path, frame, ROWS, SETTINGS.classifier, FLOAT.device)
    with pytest.raises(NotFiniteError, match=r"^volume v: the classifier's scores are not finite; lower the learning"):
        classify(network, views, SETTINGS, FLOAT)


def test_one_broken_fold_of_five_ends_the_step_and_is_no_fault_of_its_volumes(store: Store, tmp_path: Path) -> None:
    models = Location.of(tmp_path / "models")
    (tmp_path / "models").mkdir()
    for fold in range(5):
        spoilt = {"heads": math.nan} if fold == 3 else {}
        saved(generator(), tmp_path / "models" / f"fold-{fold}.safetensors", **spoilt)
    partials = Partials(Location.of(tmp_path / "partials"))
    lenient = SETTINGS.model_copy(update={"data": SETTINGS.data.model_copy(update={"max_reject_share": 1.0})})
    proposer = Proposer(InferenceJob(lenient, store.path, models, {"p-v": 0, "p-w": 3}, partials))
    for name, row in zip("ab", store.manifest.to_pylist(), strict=True):
        made = proposer(pa.table({"name": [name], "rows": [[row]]}))
        if name == "a":
            assert len(list(made)) == 1
            continue
        with pytest.raises(NotFiniteError, match=r"fold-3\.safetensors: holds NaN or infinity"):
            list(made)
    assert partials.done() == {"a"}
    assert not [name for name in partials.folder.files() if name.startswith("begun")]
