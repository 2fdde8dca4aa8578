"""Tubelets to probabilities: volumes at once, little memory and several models change no score."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from harvester.classifier.crops import load_views
from harvester.classifier.examples import Examples, network_input
from harvester.classifier.inference import Scoring, classify, crops_at_once, prepare_for_inference
from harvester.classifier.network import Classifier
from harvester.config.models import ClassifierSettings, GridSettings
from harvester.config.settings import Settings
from harvester.errors import StoreError
from harvester.models.batch_size import AutoBatchSize
from harvester.models.device import DeviceSpec
from harvester.store.slab import GridFrame
from harvester.store.store import Store
from tests.builders import tubelet

FLOAT = DeviceSpec(torch.device("cpu"), torch.float32)
GRID = GridSettings(windows_hu=((-1024.0, 1024.0),))
OWN = ClassifierSettings(channels=8, views=3, poses=1, local_px=16, global_px=20, global_mm=48.0)
SETTINGS = Settings(grid=GRID, classifier=OWN)


ROWS = [
    tubelet("v", (10, 20, 19, 29), [3]),
    tubelet("v", (30.5, 12.25, 42.5, 24.25), [2, 3, 4]),
    tubelet("v", (40, 40, 45, 45), [0]),
    tubelet("v", (5, 50, 13, 58), list(range(8))),
]


def model(settings: Settings = SETTINGS, seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    made = Classifier(settings.classifier, settings.grid)
    for norm in made.modules():
        if isinstance(norm, torch.nn.BatchNorm2d) and norm.running_var is not None:
            norm.running_var.uniform_(0.5, 2)
    return made.eval()


@pytest.fixture
def opened(make_store: Callable[..., Store], frames_of: Any) -> tuple[Store, GridFrame]:
    store = make_store({"v": ("vh", np.random.default_rng(0).normal(0, 200, (8, 64, 72)))})
    return store, frames_of(store, GRID)["v"]


def trained_on(made: Classifier, opened: tuple[Store, GridFrame]) -> list[float]:
    """Each tubelet by itself, as training sees it where nothing is varied."""
    store, frame = opened
    own, scores = OWN.model_copy(update={"augment": False, "tubelets_per_volume": 1}), []
    for each in ROWS:
        # Even items are lesions: the one that is given.
        items = Examples(store.path, {1: [(frame, each)], 0: [(frame, ROWS[0])]}, own, 1, 0)
        items.lesion_share = {1: 1.0, 0: 0.0}
        with torch.inference_mode():
            scores.append(float(torch.sigmoid(made(network_input(items[0], own, GRID.windows_hu)))))
    return scores


def test_scores_are_those_of_training_without_augmentation(opened: Any) -> None:
    made = model()
    expected = trained_on(made, opened)
    assert len(set(expected)) == len(ROWS)
    store, frame = opened
    views = load_views(store.path, frame, ROWS, OWN, FLOAT.device)
    assert classify(made, views, SETTINGS, FLOAT) == pytest.approx(expected, abs=1e-5)
    faster = prepare_for_inference(model(), FLOAT)
    assert classify(faster, views, SETTINGS, FLOAT) == pytest.approx(expected, abs=1e-5)


def test_a_tubelet_in_several_poses_has_the_mean_logit_of_volumes_that_lie_so(
    make_store: Callable[..., Store], frames_of: Any
) -> None:
    hu = np.random.default_rng(0).normal(0, 200, (8, 64, 64))
    turned = np.rot90(hu[::-1], 2, (1, 2))
    lying = {"as": hu, "mirrored": hu[:, :, ::-1], "upside_down": turned, "quarter": np.rot90(hu, -1, (1, 2))}
    boxes = {
        "as": lambda x1, y1, x2, y2: (x1, y1, x2, y2),
        "mirrored": lambda x1, y1, x2, y2: (63 - x2, y1, 63 - x1, y2),
        "upside_down": lambda x1, y1, x2, y2: (63 - x2, 63 - y2, 63 - x1, 63 - y1),
        "quarter": lambda x1, y1, x2, y2: (63 - y2, x1, 63 - y1, x2),
    }
    # The middle of the slices is a slice: none is rounded to another one upside down.
    box, z, scores = (20.0, 11.0, 32.0, 25.0), np.arange(2, 5), np.array([0.2, 0.9, 0.6])
    store = make_store({name: ("vh", np.ascontiguousarray(each)) for name, each in lying.items()})
    frames, made = frames_of(store, GRID), model()
    with torch.no_grad():
        made.logit[-1].weight.mul_(2000)  # type: ignore[operator, union-attr]

    def scored(name: str, poses: int) -> float:
        upside_down = name == "upside_down"
        row = tubelet(name, boxes[name](*box), list(7 - z[::-1] if upside_down else z))
        row["slice_score"] = list(scores[::-1] if upside_down else scores)
        views = load_views(store.path, frames[name], [row], OWN.model_copy(update={"poses": poses}), FLOAT.device)
        return classify(made, views, SETTINGS, FLOAT)[0]

    alone = [scored(name, 1) for name in lying]
    assert len({round(each, 3) for each in alone}) == 4
    logits = np.log(alone) - np.log1p(-np.array(alone))
    for poses in (1, 2, 3, 4):
        assert scored("as", poses) == pytest.approx(1 / (1 + np.exp(-logits[:poses].mean())), abs=1e-5)


def test_a_volume_that_runs_out_of_memory_has_the_same_scores(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store, frame = opened
    made, tried = model(), []
    inputs = load_views(store.path, frame, ROWS, OWN, FLOAT.device)
    expected = classify(made, inputs, SETTINGS, FLOAT, crops_at_once(FLOAT))
    real = made.features

    def little_room(name: str, crops: torch.Tensor) -> torch.Tensor:
        tried.append(len(crops))
        if len(crops) > 5:
            raise torch.OutOfMemoryError("no room")
        return real(name, crops)

    monkeypatch.setattr(made, "features", little_room)
    assert classify(made, inputs, SETTINGS, FLOAT, AutoBatchSize("crops", 16)) == pytest.approx(expected, abs=1e-6)
    assert tried[:4] == [16, 8, 4, 4]
    assert max(tried[2:]) == 4


def test_volumes_are_scored_by_the_mean_of_their_models(opened: Any, tmp_path: Path) -> None:
    store, frame = opened
    files = [tmp_path / f"fold-{fold}.safetensors" for fold in range(2)]
    for seed, file in enumerate(files):
        save_file(model(seed=seed).state_dict(), file)
    views = load_views(store.path, frame, ROWS, OWN, FLOAT.device)
    alone = [classify(model(seed=seed), views, SETTINGS, FLOAT) for seed in range(2)]
    missing = GridFrame("gone", frame.shape_px_zyx, frame.spacing_px_zyx_mm, frame.spacing_zyx_mm)
    empty = GridFrame("empty", frame.shape_px_zyx, frame.spacing_px_zyx_mm, frame.spacing_zyx_mm)
    scoring = Scoring(SETTINGS, store.path, FLOAT, {"v": ROWS, "gone": ROWS, "empty": []}.__getitem__)
    both, gone, one, none = scoring.over([(frame, files), (missing, files), (frame, files[1:]), (empty, files)])
    rows = both()
    assert [each | {"lpc_score": 0.5} for each in rows] == ROWS
    means = [sum(pair) / 2 for pair in zip(*alone, strict=True)]
    assert [each["lpc_score"] for each in rows] == pytest.approx(means, abs=1e-5)
    # A volume that cannot be read costs no other one.
    with pytest.raises(StoreError, match="gone"):
        gone()
    assert [each["lpc_score"] for each in one()] == pytest.approx(alone[1], abs=1e-5)
    assert none() == []
