"""Fitting: the same twice, the same when killed and resumed, and it learns."""

import pickle
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
from torch.utils.data import Dataset

from harvester.classifier.network import Classifier
from harvester.classifier.training import fit_classifier, start_from_generator
from harvester.config.models import ClassifierSettings, GeneratorSettings, GridSettings
from harvester.config.settings import ComputeSettings, Settings
from harvester.distributed.inference import Proposer, Scorer
from harvester.distributed.volume_pool import InferenceJob
from harvester.errors import SettingsError, StepError, StoreError
from harvester.labels.ledger import from_marks
from harvester.models.data_parallel import ALONE, Ranks
from harvester.models.device import DeviceSpec
from harvester.models.fit import Fit, FitStep, FoldTask, LossesOf, TrainSchedule
from harvester.proposals.network import Generator
from harvester.proposals.training import fit_generator
from harvester.records import LEDGER, Mark
from harvester.run.partials import Partials
from harvester.storage.location import Location
from harvester.store.slab import GridFrame
from harvester.store.store import Store
from tests.builders import tubelet

FLOAT = DeviceSpec(torch.device("cpu"), torch.float32)
SCHEDULE = TrainSchedule(steps=12, batch_size=4, learning_rate=1e-2, weight_decay=1e-3, checkpoint_every=5, log_every=4)


class Killed(BaseException):
    """Not an Exception: nothing may catch it and go on."""


class Bright(Dataset[Any]):
    """Item i is an image and whether it is bright, the same for the same i."""

    def __len__(self) -> int:
        return 10_000

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng(index)
        label = float(index % 2)
        return torch.from_numpy(rng.normal(label, 1, (3, 8, 8)).astype(np.float32)), torch.tensor(label)


def fit(
    network: nn.Module,
    losses: LossesOf,
    folder: Path,
    schedule: TrainSchedule = SCHEDULE,
    ranks: Ranks = ALONE,
    items: Dataset[Any] | None = None,
    log: Callable[[FitStep], None] = lambda _: None,
) -> list[dict[str, float]]:
    """The history of a fit to bright images, with its checkpoint in the folder."""
    task = FoldTask(folder, 0, None, Location.of(folder) / "c.pt", False, ranks, log)
    return Fit(network, schedule, FLOAT, task).run(items or Bright(), losses)


def model(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(8 * 36, 1)
    )


def losses_of(network: nn.Module, batch: Any) -> dict[str, Tensor]:
    images, labels = batch
    logits = network(images).squeeze(1)
    return {
        "classify": nn.functional.binary_cross_entropy_with_logits(logits, labels),
        "small": 1e-3 * logits.square().mean(),
    }


def killed_at(step: int) -> Callable[[nn.Module, Any], dict[str, Tensor]]:
    done = [0]

    def losses(network: nn.Module, batch: Any) -> dict[str, Tensor]:
        if done[0] == step:
            raise Killed
        done[0] += 1
        return losses_of(network, batch)

    return losses


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = list(zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


def fitted(folder: Path, dropout: float = 0.0, kill: int | None = None) -> tuple[nn.Module, list[dict[str, float]]]:
    """A fit; with `kill`, one that dies before that step and is started again from nothing but its checkpoint."""
    if kill is not None:
        with pytest.raises(Killed):
            fit(model(dropout), killed_at(kill), folder)
        # Another process: its random state is another one.
        torch.manual_seed(99)
    network = model(dropout)
    return network, fit(network, losses_of, folder)


def test_two_fits_are_equal(tmp_path: Path) -> None:
    (one, history), (two, again) = fitted(tmp_path / "a"), fitted(tmp_path / "b")
    assert same(one, two)
    assert history == again
    assert len(history) == SCHEDULE.steps
    assert set(history[0]) == {"classify", "small"}
    assert not same(one, model())


@pytest.mark.parametrize("kill", [3, 5, 7, 11])
def test_a_killed_fit_goes_on_to_the_same_weights(tmp_path: Path, kill: int) -> None:
    undisturbed, history = fitted(tmp_path / "a")
    resumed, after = fitted(tmp_path / "b", kill=kill)
    assert same(undisturbed, resumed)
    assert after == history


def test_a_killed_fit_with_dropout_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    undisturbed, _ = fitted(tmp_path / "a", dropout=0.3)
    resumed, _ = fitted(tmp_path / "b", dropout=0.3, kill=7)
    assert same(undisturbed, resumed)


def test_a_finished_checkpoint_is_not_fitted_again(tmp_path: Path) -> None:
    schedule = TrainSchedule(10, 4, 1e-2, 0.0, checkpoint_every=5)
    one, two = model(), model()
    history = fit(one, losses_of, tmp_path, schedule)
    assert fit(two, killed_at(0), tmp_path, schedule) == history
    assert same(one, two)


def test_a_strangers_checkpoint_runs_nothing_and_is_refused(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "touched",)

    for pickled in (torch.save, lambda state, file: file.write_bytes(pickle.dumps(state, 2))):
        pickled({"step": Payload(), "model": {}}, tmp_path / "c.pt")
        with pytest.raises(StoreError, match=r"c\.pt: refused: .* could run code; delete it"):
            fit(model(), losses_of, tmp_path)
    (tmp_path / "c.pt").write_bytes(b"cut sh")
    with pytest.raises(StoreError, match=r"c\.pt: refused: it is broken"):
        fit(model(), losses_of, tmp_path)
    assert not (tmp_path / "touched").exists()


def test_ranks_that_share_a_model_see_every_item_once(tmp_path: Path) -> None:
    seen: list[int] = []

    class Recording(Bright):
        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            seen.append(index)
            return super().__getitem__(index)

    class Apart(Ranks):
        """Ranks that run one after the other: they share the batches and nothing else."""

        def all_reduce(self, value: Tensor) -> Tensor:
            return value

        def agree(self, number: int) -> None:
            assert number == 0

    for rank in range(3):
        fit(model(), losses_of, tmp_path / str(rank), ranks=Apart(rank, 3), items=Recording())
    assert sorted(seen) == list(range(SCHEDULE.steps * SCHEDULE.batch_size))
    assert (tmp_path / "0" / "c.pt").exists()
    assert not (tmp_path / "1" / "c.pt").exists()


def test_it_learns_and_tells(tmp_path: Path) -> None:
    told: list[FitStep] = []
    schedule = TrainSchedule(60, 8, 1e-2, 1e-3, log_every=20)
    history = fit(model(), losses_of, tmp_path, schedule, log=told.append)
    first, last = (np.mean([row["classify"] for row in part]) for part in (history[:5], history[-5:]))
    assert last < 0.3 * first
    assert [each.step for each in told] == [1, 20, 40, 60]
    assert str(told[-1]).startswith(f"step 60/60, {told[-1].terms}, ")
    assert told[-1].losses["classify"] == pytest.approx(np.mean([row["classify"] for row in history[-20:]]))


def test_slow_steps_are_told_of_by_the_clock(tmp_path: Path) -> None:
    told: list[FitStep] = []
    fit(model(), losses_of, tmp_path, TrainSchedule(4, 2, 1e-2, 0.0, log_seconds=0.0), log=told.append)
    assert [each.step for each in told] == [1, 2, 3, 4]


@pytest.mark.parametrize("steps", [1, 2, 8, 9, 10, 19])
def test_any_number_of_steps_will_do(tmp_path: Path, steps: int) -> None:
    assert len(fit(model(), losses_of, tmp_path, TrainSchedule(steps, 2, 1e-2, 0.0))) == steps


def test_steps_are_taken_one_by_one_as_they_are_asked_for(tmp_path: Path) -> None:
    task = FoldTask(tmp_path, 0, None, Location.of(tmp_path) / "c.pt", False)
    by_hand, at_once = Fit(model(), SCHEDULE, FLOAT, task), model()
    steps = by_hand.steps(Bright(), losses_of)
    first = [next(steps) for _ in range(3)]
    assert [step for step, _ in first] == [1, 2, 3]
    history = fit(at_once, losses_of, tmp_path / "b")
    assert [losses for _, losses in first] == history[:3]
    assert not same(by_hand.model, at_once)
    assert [step for step, _ in steps] == list(range(4, SCHEDULE.steps + 1))
    assert same(by_hand.model, at_once)
    assert not task.checkpoint.is_file()


def test_no_memory_for_a_checkpoint_is_not_a_broken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes")

    monkeypatch.setattr(torch, "load", full)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        fit(model(), losses_of, tmp_path)


def test_a_named_part_learns_faster(tmp_path: Path) -> None:
    schedule = TrainSchedule(1, 4, 1e-3, 0.0, fast_prefix="5", lr_multiplier=8.0)
    before, after = model(), model()
    fit(after, losses_of, tmp_path, schedule)
    moved = {
        name: float((a - b).detach().abs().max())
        for (name, a), b in zip(before.named_parameters(), after.parameters(), strict=True)
    }
    # AdamW's first step moves a weight by the learning rate, whatever its gradient.
    assert moved["5.weight"] == pytest.approx(8 * moved["0.weight"], rel=0.01)


def test_a_gpu_that_is_asked_for_and_is_not_there_is_an_error(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In training, and in inference before any volume is begun: never the CPU without a word."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    told = (
        r"^a GPU is asked for \(compute\.gpus_per_replica, compute\.train_gpu\), but torch .* on .*: see to its driver"
    )
    for precision in ("auto", "float32"):
        with pytest.raises(SettingsError, match=told):
            DeviceSpec.choose(True, precision)
    with pytest.raises(SettingsError, match=told):
        fitted_generator(store, replace(task_in(store, tmp_path), gpu=True))
    with pytest.raises(SettingsError, match=told):
        fit_classifier(replace(task_in(store, tmp_path), gpu=True), SETTINGS, examples(store))
    compute = SETTINGS.compute.model_copy(update={"gpus_per_replica": 0.5})
    settings, partials = SETTINGS.model_copy(update={"compute": compute}), Partials(Location.of(tmp_path / "partials"))
    given = pa.table({"name": ["a"], "rows": [store.manifest.to_pylist()]})
    for actor in (Proposer, Scorer):
        made = actor(InferenceJob(settings, store.path, store.path, {}, partials))
        with pytest.raises(SettingsError, match=told):
            list(made(given))
    assert partials.folder.files() == []


def test_precision_is_chosen_by_name() -> None:
    assert DeviceSpec.choose(False, "float32") == FLOAT
    assert DeviceSpec.choose(False, "bfloat16").dtype is torch.bfloat16
    assert DeviceSpec.choose(False, "auto").device.type == "cpu"
    with DeviceSpec.choose(False, "bfloat16").autocast():
        assert nn.functional.linear(torch.ones(2, 2), torch.ones(2, 2)).dtype is torch.bfloat16
    with FLOAT.autocast():
        assert nn.functional.linear(torch.ones(2, 2), torch.ones(2, 2)).dtype is torch.float32


# The two models

SETTINGS = Settings(
    grid=GridSettings(windows_hu=((-1024.0, 1024.0),)),
    generator=GeneratorSettings(
        width=8,
        channels=16,
        head_channels=8,
        slab_depth=2,
        crop_px=48,
        batch_slabs=2,
        steps=60,
        finetune_steps=3,
        learning_rate=1e-2,
        marked_slab_share=1.0,
        paste_lesions=0.25,
    ),
    classifier=ClassifierSettings(
        channels=8, views=2, local_px=16, global_px=16, global_mm=60.0, steps=25, batch_size=8
    ),
    compute=ComputeSettings(precision="float32"),
)
MARK = Mark("v", "m", 4, 20, 24, 33, 39, clinical=True)


@pytest.fixture
def store(make_store: Callable[..., Store]) -> Store:
    hu = np.random.default_rng(0).normal(0, 20, (8, 64, 64))
    hu[3:6, 24:40, 20:34] = 900
    return make_store({"v": ("vm", hu)}, [MARK])


def task_in(store: Store, folder: Path, start: Path | None = None) -> FoldTask:
    return FoldTask(store.path, 5, start, Location.of(folder) / "c.pt", False, log=lambda _: None)


def fitted_generator(store: Store, task: FoldTask, own: Settings = SETTINGS) -> Any:
    return fit_generator(task, own, store.manifest.to_pylist(), from_marks(store.marks()))


def test_a_generator_learns_a_bright_box(store: Store, tmp_path: Path) -> None:
    _, history = fitted_generator(store, task_in(store, tmp_path))
    assert set(history[0]) == {"heat", "size", "offset"}
    totals = [sum(row.values()) for row in history]
    assert np.mean(totals[-10:]) < 0.6 * np.mean(totals[:10])


def test_a_finetuned_generator_starts_from_the_last_rounds(store: Store, tmp_path: Path) -> None:
    own = SETTINGS.model_copy(update={"generator": SETTINGS.generator.model_copy(update={"steps": 2})})
    first, _ = fitted_generator(store, task_in(store, tmp_path), own)
    save_file(
        {name: value.contiguous().float() for name, value in first.state_dict().items()}, tmp_path / "w.safetensors"
    )
    task = task_in(store, tmp_path / "b", start=tmp_path / "w.safetensors")
    tuned, history = fitted_generator(store, task, own)
    assert len(history) == own.generator.finetune_steps
    pairs = zip(first.parameters(), tuned.parameters(), strict=True)
    gap = max(float((a - b).detach().abs().max()) for a, b in pairs)
    assert 0 < gap < 20 * own.generator.finetune_learning_rate


def test_a_generator_without_a_lesion_is_an_error_that_says_so(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StepError, match="no marked lesion in its 1 training volumes"):
        fit_generator(task_in(store, tmp_path), SETTINGS, store.manifest.to_pylist(), LEDGER.empty_table())


def examples(store: Store, others: int = 4) -> Any:
    frame = GridFrame.of(store.manifest.to_pylist()[0], SETTINGS.grid)
    return {
        1: [(frame, tubelet("v", (20.0, 24.0, 20.0 + 13, 39.0), [4]))],
        0: [(frame, tubelet("v", (40.0 + i, 24.0, 40.0 + i + 13, 39.0), [1])) for i in range(others)],
    }


def test_a_classifier_learns_a_bright_box(store: Store, tmp_path: Path) -> None:
    _, history = fit_classifier(task_in(store, tmp_path), SETTINGS, examples(store))
    assert np.mean([row["classify"] for row in history[-5:]]) < 0.5 * history[0]["classify"]


def test_a_classifier_without_a_class_is_an_error_that_says_so(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StepError, match="no example of class 0"):
        fit_classifier(task_in(store, tmp_path), SETTINGS, examples(store, others=0))


@pytest.mark.parametrize("width", [8, 16])
def test_both_streams_start_from_a_generator_of_their_width(width: int) -> None:
    generator = Generator(SETTINGS.generator.model_copy(update={"width": width}), SETTINGS.grid)
    classifier = Classifier(SETTINGS.classifier, SETTINGS.grid)
    fits = start_from_generator(classifier, generator.state_dict())
    assert fits == (SETTINGS.classifier.channels == width)
    assert all(same(stream, generator.backbone) == fits for stream in classifier.streams.values())


@pytest.mark.parametrize("model", ["generator", "classifier"])
def test_a_finetuned_model_lies_between_its_start_and_where_it_was_led(
    model: str, store: Store, tmp_path: Path
) -> None:
    def weights(keeps: float, start: Path | None) -> dict[str, torch.Tensor]:
        own = {"finetune_steps": 2, "steps": 2, "finetune_keeps": keeps}
        settings = SETTINGS.model_copy(update={model: getattr(SETTINGS, model).model_copy(update=own)})
        task = replace(task_in(store, tmp_path), start=start, checkpoint=tmp_path / f"{keeps}-{start is None}.pt")
        if model == "classifier":
            return dict(fit_classifier(task, settings, examples(store))[0].state_dict())
        ledger = from_marks(store.marks())
        return dict(fit_generator(task, settings, store.manifest.to_pylist(), ledger)[0].state_dict())

    first = weights(0.0, None)
    assert all(torch.equal(one, other) for one, other in zip(first.values(), weights(0.9, None).values(), strict=True))
    save_file({name: value.contiguous() for name, value in first.items()}, tmp_path / "w.safetensors")
    led, kept = (weights(keeps, tmp_path / "w.safetensors") for keeps in (0.0, 0.75))
    for name, value in led.items():
        wanted = torch.lerp(value, first[name], 0.75) if value.is_floating_point() else value
        torch.testing.assert_close(kept[name], wanted, atol=1e-6, rtol=1e-5)
    assert any(not torch.equal(value, first[name]) for name, value in led.items())


def test_a_later_round_finetunes_the_classifier_before(store: Store, tmp_path: Path) -> None:
    own = SETTINGS.model_copy(update={"classifier": SETTINGS.classifier.model_copy(update={"finetune_steps": 2})})
    first, _ = fit_classifier(task_in(store, tmp_path), own, examples(store))
    save_file({name: value.contiguous() for name, value in first.state_dict().items()}, tmp_path / "w.safetensors")
    again = replace(task_in(store, tmp_path), start=tmp_path / "w.safetensors", checkpoint=tmp_path / "d.pt")
    tuned, history = fit_classifier(again, own, examples(store))
    assert len(history) == 2
    gap = max(
        float((a - b).detach().abs().max())
        for (name, a), b in zip(first.named_parameters(), tuned.parameters(), strict=True)
        if not name.startswith("shape_profile")
    )
    assert 0 < gap < 10 * own.classifier.finetune_learning_rate
