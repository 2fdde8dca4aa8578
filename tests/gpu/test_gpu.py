"""A GPU gives what a CPU gives: slices, boxes, scores, training images, a training step; and it survives little memory.

    pytest tests/gpu -q

How fast it is: python benchmarks/lpg.py --device cuda --slices 256, and lpc.py.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from harvester.classifier.crops import cut, load_views
from harvester.classifier.inference import classify
from harvester.classifier.inference import prepare_for_inference as prepare_classifier
from harvester.classifier.network import Classifier
from harvester.classifier.training import fit_classifier
from harvester.classifier.views import STREAMS, pixels
from harvester.config.models import ClassifierSettings, GeneratorSettings, GridSettings
from harvester.config.settings import Settings
from harvester.detectors.detector import SHIPPED, build
from harvester.detectors.images import Archive
from harvester.detectors.inference import detect
from harvester.detectors.training import fit_detector
from harvester.labels.ledger import by_volume, from_marks
from harvester.models.acceleration import Compiled
from harvester.models.batch_size import AutoBatchSize
from harvester.models.device import DeviceSpec
from harvester.models.device_slab import load_to_device
from harvester.models.fit import FoldTask
from harvester.proposals.augment import to_network_input
from harvester.proposals.detect import find_boxes, prepare_for_inference, slices_at_once
from harvester.proposals.inference import Proposals, read_with_context
from harvester.proposals.labels import volume_labels
from harvester.proposals.network import CONTEXT, Generator
from harvester.proposals.slabs import SlabDataset
from harvester.proposals.training import fit_generator
from harvester.records import Mark
from harvester.store.slab import GridFrame, read_slab
from harvester.store.store import Store
from tests.builders import tubelet

CPU = DeviceSpec(torch.device("cpu"), torch.float32)
GRID = GridSettings(spacing_zyx_mm=(2.0, 0.8, 0.8), windows_hu=((-1024.0, 1024.0),))
SETTINGS = Settings(
    folds=2,
    grid=GRID,
    generator=GeneratorSettings(
        width=8, channels=16, head_channels=8, slab_depth=2, crop_px=48, batch_slabs=2, steps=1,
        body_mask=False, score_floor=0.02, top_k=60,
    ),
    classifier=ClassifierSettings(
        channels=8, views=9, local_px=16, global_px=20, global_mm=48.0, batch_size=4, steps=1
    ),
)  # fmt: skip
BATCHES = (1, 3, 16)


@pytest.fixture
def store(make_store: Callable[..., Store]) -> Store:
    rng = np.random.default_rng(0)
    volumes = {name: ("vm", rng.integers(-900, 900, (20, 72, 61))) for name in ("a", "b", "c", "d")}
    marks = [Mark(name, f"m-{name}", 9, 20, 24, 33, 39, clinical=True) for name in volumes]
    return make_store(volumes, marks, spacing_zyx_mm=(2.5, 0.9, 0.7))


@pytest.fixture
def frame(store: Store, frames_of: Any) -> GridFrame:
    made: GridFrame = frames_of(store, GRID)["a"]
    return made


def generator(settings: Settings = SETTINGS) -> Generator:
    """Random weights, the heat's stronger: peaks everywhere, of every height."""
    torch.manual_seed(0)
    made = Generator(settings.generator, settings.grid)
    with torch.no_grad():
        made.heads["heat"][-1].weight *= 1000  # type: ignore[operator, index]
    return made


def test_slices_are_the_cpus_to_the_last_hu(store: Store, frame: GridFrame, spec: DeviceSpec) -> None:
    for z_start, z_end in ((-CONTEXT, frame.shape_zyx[0] + CONTEXT), (3, 5)):
        got = load_to_device(store.path, frame, z_start, z_end, spec.device)
        assert got.device.type == spec.device.type
        np.testing.assert_array_equal(got.cpu().numpy(), read_slab(store.path, frame, z_start, z_end))


@pytest.mark.parametrize("batch", BATCHES)
def test_boxes_are_the_cpus(store: Store, frame: GridFrame, spec: DeviceSpec, batch: int) -> None:
    def found(where: DeviceSpec) -> Any:
        slab = read_with_context(store.path, frame, where)
        size = AutoBatchSize("slices", batch)
        return find_boxes([prepare_for_inference(generator(), where)], slab, frame, SETTINGS, where, size)

    here, there = found(CPU), found(spec)
    assert len(here.z) > 20
    np.testing.assert_array_equal(there.z, here.z)
    np.testing.assert_allclose(there.boxes_xyxy, here.boxes_xyxy, atol=1e-2)
    np.testing.assert_allclose(there.scores, here.scores, atol=1e-4)


def test_three_stages_give_every_volume_its_own_tubelets(
    store: Store, frames_of: Any, spec: DeviceSpec, tmp_path: Path
) -> None:
    weights = tmp_path / "generator.safetensors"
    save_file(generator().state_dict(), weights)
    frames = list(frames_of(store, GRID).values()) * 5

    def rows(where: DeviceSpec) -> list[Any]:
        calls = Proposals(SETTINGS, store.path, where).over((frame, [weights]) for frame in frames)
        return [call() for call in calls]

    for here, there in zip(rows(CPU), rows(spec), strict=True):
        assert len(here) == len(there) > 5
        for name in ("volume_id", "z"):
            assert [row[name] for row in there] == [row[name] for row in here]
        np.testing.assert_allclose([row["lpg_score"] for row in there], [row["lpg_score"] for row in here], atol=1e-4)


def test_little_memory_means_smaller_batches_and_the_same_boxes(
    store: Store, frame: GridFrame, cuda: DeviceSpec, caplog: pytest.LogCaptureFixture
) -> None:
    deep = replace(frame, shape_zyx=(512, 256, 256))
    hu = np.random.default_rng(0).integers(-900, 900, (512 + 2 * CONTEXT, 256, 256), dtype=np.int16)
    slab, model = torch.from_numpy(hu).to(cuda.device), prepare_for_inference(generator(), cuda)
    expected = find_boxes([model], slab, deep, SETTINGS, cuda, AutoBatchSize("slices", 4))
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(cuda.device).total_memory
    room = torch.cuda.memory_reserved(cuda.device) + 300 * 2**20
    try:
        torch.cuda.set_per_process_memory_fraction(room / total)
        with caplog.at_level(logging.WARNING):
            got = find_boxes([model], slab, deep, SETTINGS, cuda, AutoBatchSize("slices", 512))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert any("out of memory: on with" in record.getMessage() for record in caplog.records)
    np.testing.assert_array_equal(got.z, expected.z)
    np.testing.assert_allclose(got.boxes_xyxy, expected.boxes_xyxy, atol=1e-2)


def test_the_batch_grows_into_free_memory(store: Store, frame: GridFrame, cuda: DeviceSpec) -> None:
    batch = slices_at_once(cuda)
    first, slab = batch.size, read_with_context(store.path, frame, cuda)
    find_boxes([prepare_for_inference(generator(), cuda)], slab, frame, SETTINGS, cuda, batch)
    assert batch.settled
    assert batch.size > first


ROWS = [
    tubelet("a", (10, 20, 19, 29), [3]),
    tubelet("a", (30.5, 12.25, 42.5, 24.25), [2, 3, 4]),
    tubelet("a", (5, 50, 13, 58), list(range(8))),
]


def test_crops_are_the_cpus(store: Store, frame: GridFrame, spec: DeviceSpec) -> None:
    here, there = (load_views(store.path, frame, ROWS, SETTINGS.classifier, where.device) for where in (CPU, spec))
    np.testing.assert_array_equal(there.hu_zyx.cpu().numpy(), here.hu_zyx.numpy())
    for name in STREAMS:
        side = pixels(name, SETTINGS.classifier)
        crops = [cut(views.hu_zyx, views.squares[name], side).cpu().numpy() for views in (here, there)]
        # Noise of 1,800 HU from voxel to voxel: a rounded place shows.
        np.testing.assert_allclose(crops[1], crops[0], atol=0.1)


def test_scores_are_the_cpus(store: Store, frame: GridFrame, spec: DeviceSpec) -> None:
    torch.manual_seed(0)
    weights = Classifier(SETTINGS.classifier, GRID).state_dict()

    def scores(where: DeviceSpec) -> list[float]:
        model = Classifier(SETTINGS.classifier, GRID)
        model.load_state_dict(weights)
        views = load_views(store.path, frame, ROWS, SETTINGS.classifier, where.device)
        return classify(prepare_classifier(model, where), views, SETTINGS, where)

    np.testing.assert_allclose(scores(spec), scores(CPU), atol=1e-3)


def test_a_classifiers_training_step_has_the_cpus_loss(
    store: Store, frame: GridFrame, spec: DeviceSpec, tmp_path: Path
) -> None:
    examples = {1: [(frame, ROWS[1])], 0: [(frame, ROWS[0]), (frame, ROWS[2])]}
    precise = SETTINGS.model_copy(update={"compute": SETTINGS.compute.model_copy(update={"precision": "float32"})})

    def loss(gpu: bool) -> dict[str, float]:
        task = FoldTask(store.path, 3, None, tmp_path / f"c-{gpu}.pt", gpu, log=lambda line: None)
        return fit_classifier(task, precise, examples)[1][0]

    # Dropout draws other numbers on a GPU.
    assert loss(spec.device.type == "cuda")["classify"] == pytest.approx(loss(False)["classify"], rel=0.5)


def test_training_images_are_the_cpus(store: Store, frames_of: Any, spec: DeviceSpec) -> None:
    own, frames = SETTINGS.generator, list(frames_of(store, GRID).values())
    labels = {frame.volume_id: volume_labels([], frame, complete=True) for frame in frames}
    items = SlabDataset(store.path, frames, labels, own, 4, seed=1)
    for raw, _ in (items[i] for i in range(4)):
        here = to_network_input(raw, torch.from_numpy(items.noise), GRID.windows_hu)
        there = to_network_input(moved(raw, spec), torch.from_numpy(items.noise).to(spec.device), GRID.windows_hu)
        np.testing.assert_array_equal(there.cpu().numpy(), here.numpy())


def test_a_training_step_has_the_cpus_loss(store: Store, spec: DeviceSpec, tmp_path: Path) -> None:
    rows = store.manifest.to_pylist()
    ledger = from_marks(store.marks())

    def losses(gpu: bool) -> dict[str, float]:
        task = FoldTask(store.path, 3, None, tmp_path / f"{gpu}.pt", gpu, log=lambda line: None)
        precise = SETTINGS.model_copy(update={"compute": SETTINGS.compute.model_copy(update={"precision": "float32"})})
        return fit_generator(task, precise, rows, ledger)[1][0]

    there, here = losses(spec.device.type == "cuda"), losses(False)
    assert here == pytest.approx(there, rel=1e-3)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_detector_is_fitted_and_finds_boxes_there(
    store: Store, frames_of: Any, spec: DeviceSpec, name: str, tmp_path: Path
) -> None:
    small = SETTINGS.retrain.model_copy(update={"steps": 2, "batch_images": 2, "crop_px": 64, "score_floor": 0.0})
    compute = SETTINGS.compute.model_copy(update={"precision": "float32"})
    settings = SETTINGS.model_copy(update={"retrain": small, "compute": compute})
    frames = list(frames_of(store, GRID).values())
    labelled = by_volume(from_marks(store.marks()))
    labels = {each.volume_id: volume_labels(labelled[each.volume_id], each, complete=True) for each in frames}
    losses = {}
    for gpu in {False, spec.device.type == "cuda"}:
        torch.manual_seed(0)
        detector = build(name, settings)
        task = FoldTask(store.path, 3, None, tmp_path / f"{gpu}.pt", gpu, log=lambda line: None)
        losses[gpu] = fit_detector(task, settings, detector, Archive(store.path, frames), labels)[0]
    # Of the two stages' proposals some are drawn, by each device's own generator.
    names = [each for each in losses[False] if name != "faster_rcnn"]
    assert [losses[max(losses)][each] for each in names] == pytest.approx(
        [losses[False][each] for each in names], rel=1e-3
    )
    found = list(detect(detector, store.path, frames[:1], settings, spec))
    assert found[0] and all(np.isfinite(row["lpg_score"]) for row in found[0])


@pytest.mark.parametrize("compile_it", [False, True])
def test_bfloat16_is_close_and_a_compiled_network_too(
    store: Store, frame: GridFrame, cuda: DeviceSpec, compile_it: bool, caplog: pytest.LogCaptureFixture
) -> None:
    fast = DeviceSpec(cuda.device, torch.bfloat16)
    slab = read_with_context(store.path, frame, cuda)
    exact = find_boxes([prepare_for_inference(generator(), cuda)], slab, frame, SETTINGS, cuda)
    with caplog.at_level(logging.WARNING):
        model = prepare_for_inference(generator(), fast, compile_it)
        quick = find_boxes([model], slab, frame, SETTINGS, fast)
    assert any(isinstance(part, Compiled) for part in model.modules()) == compile_it
    assert not caplog.records
    assert quick.scores.mean() == pytest.approx(exact.scores.mean(), rel=0.05)


def moved(values: Any, spec: DeviceSpec) -> Any:
    if isinstance(values, dict):
        return {name: moved(each, spec) for name, each in values.items()}
    return values.to(spec.device)
