"""Features once per slice equal the recomputed nine-slice window; the network's shapes, seeds and weight files."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from harvester.classifier.network import Classifier
from harvester.config.models import ClassifierSettings, GeneratorSettings, GridSettings, SuppressionSettings
from harvester.config.settings import Settings
from harvester.errors import SettingsError
from harvester.imaging.hounsfield import windowed
from harvester.models.backbones import STRIDES, build_backbone
from harvester.models.batch_size import AutoBatchSize
from harvester.models.device import DeviceSpec
from harvester.proposals.boxes import SliceBoxes
from harvester.proposals.detect import Carries, prepare_for_inference, slice_maps
from harvester.proposals.inference import load_generator
from harvester.proposals.losses import generator_losses
from harvester.proposals.network import CONTEXT, GROUPS, Generator, slice_groups, stack_groups
from harvester.proposals.targets import SlabLabels, build_targets
from harvester.storage.location import Location

GRID = GridSettings()
FLOAT = DeviceSpec(torch.device("cpu"), torch.float32)
WINDOW = 2 * CONTEXT + 1
LOOSE = 1e-4


def generator(backbone: Any = "small", seed: int = 0, **more: Any) -> Generator:
    torch.manual_seed(seed)
    model = Generator(GeneratorSettings(backbone=backbone, channels=16, head_channels=8, **more), GRID)
    for module in model.modules():
        # Fresh batch norms do nothing; those of a trained net do.
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean = torch.randn_like(module.running_mean) * 0.1  # type: ignore[arg-type]
            module.running_var = torch.rand_like(module.running_var) + 0.5  # type: ignore[arg-type]
    return model.eval()


def volume(depth: int, side: int = 32) -> Any:
    return np.random.default_rng(1).integers(-1000, 400, (depth, side, side)).astype(np.int16)


@torch.inference_mode()
def recomputed(model: Generator, window: Tensor) -> dict[str, Tensor]:
    """The output for the middle slice of (windows, 9, y, x): its three groups one by one, nothing shared."""
    assert window.shape[1] == WINDOW
    maps = []
    for centre in (1, CONTEXT, WINDOW - 2):
        group = torch.cat([window[:, centre - 1], window[:, centre], window[:, centre + 1]])
        maps.append(model.features(group[None]))
    return model.fuse([torch.cat(level, dim=1) for level in zip(*maps, strict=True)])


@torch.inference_mode()
def volume_maps(model: Generator, hu_zyx: Any, chunk: int = 4) -> dict[str, Tensor]:
    """The heads' maps of a whole volume, as find_boxes goes through it."""
    slab, batch = torch.from_numpy(hu_zyx), AutoBatchSize("slices", chunk)
    parts: list[dict[str, Tensor]] = []
    carries: Carries = [None]
    for span in batch.spans(len(slab) - 2 * CONTEXT):
        with span:
            maps, carries = slice_maps([model], slab, span, carries, Settings(grid=GRID), FLOAT)
            parts.append(maps)
    assert len(parts) == -(-(len(hu_zyx) - 2 * CONTEXT) // chunk)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@pytest.mark.parametrize("backbone", ["small", "resnet18", "densenet121"])
@torch.inference_mode()
def test_features_once_equal_the_recomputed_window(backbone: str) -> None:
    model, depth = generator(backbone), 2
    slab = torch.from_numpy(windowed(volume(depth + 2 * CONTEXT), GRID.windows_hu))
    once = model(slab[None])
    for z in range(depth):
        for name, out in recomputed(model, slab[:, z : z + WINDOW]).items():
            assert float((once[name][0, z] - out[0]).abs().max()) <= LOOSE


@pytest.mark.parametrize(
    ("backbone", "depth", "chunk", "stride"),
    [("small", 1, 16, 2), ("small", 9, 3, 2), ("small", 9, 3, 4), ("resnet18", 4, 3, 4), ("densenet121", 3, 2, 2)],
)
def test_a_volumes_maps_equal_the_recomputed_window_to_its_ends(
    backbone: str, depth: int, chunk: int, stride: int
) -> None:
    model, hu, side = generator(backbone, stride=stride), volume(depth), 32 // stride
    beyond = np.concatenate([np.repeat(hu[:1], CONTEXT, 0), hu, np.repeat(hu[-1:], CONTEXT, 0)])
    maps = volume_maps(prepare_for_inference(deepcopy(model), FLOAT), beyond, chunk)
    assert {name: tuple(out.shape) for name, out in maps.items()} == {
        "heat": (depth, 1, side, side), "size": (depth, 2, side, side), "offset": (depth, 2, side, side)
    }  # fmt: skip
    slab = torch.from_numpy(windowed(beyond, GRID.windows_hu))
    for z in range(depth):
        for name, out in recomputed(model, slab[:, z : z + WINDOW]).items():
            assert float((maps[name][z] - out[0]).abs().max()) <= LOOSE


@torch.inference_mode()
def test_an_output_sees_nine_slices_and_no_more() -> None:
    model = generator()
    slab = torch.from_numpy(windowed(volume(WINDOW + 4), GRID.windows_hu))[None]
    before = model(slab)["heat"][0]
    for z in range(WINDOW + 4):
        other = slab.clone()
        other[:, :, z] = 1 - other[:, :, z]
        changed = {i for i in range(5) if not torch.equal(model(other)["heat"][0, i], before[i])}
        assert changed == {i for i in range(5) if abs(i + CONTEXT - z) <= CONTEXT}


def test_groups_are_neighbours_and_stacks_three_apart() -> None:
    slab = torch.arange(2.0 * 10).view(1, 2, 10, 1, 1)
    groups = slice_groups(slab)
    assert groups.shape == (1, 8, 6, 1, 1)
    assert groups[0, 3, :, 0, 0].tolist() == [3, 13, 4, 14, 5, 15]
    stacked = stack_groups(groups, [[z + step for z in range(2)] for step in GROUPS])
    assert stacked.shape == (1, 2, 18, 1, 1)
    assert stacked[0, 1, :, 0, 0].tolist() == [v for at in (1, 4, 7) for v in groups[0, at, :, 0, 0].tolist()]


def losses(seed: int) -> dict[str, float]:
    torch.manual_seed(seed)
    model = Generator(GeneratorSettings(), GRID).train()
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.random((2, 3, 3 + 2 * CONTEXT, 64, 64), dtype=np.float32))
    boxes = np.array([[10.0, 12.0, 25.0, 30.0], [33.0, 20.0, 50.0, 41.0]])
    lesions, negatives = SliceBoxes.of(zip((1, 2), boxes, strict=True)), SliceBoxes.of([(1, boxes[1])])
    known = SlabLabels(lesions, negatives, SliceBoxes.of(), np.ones(3, np.float32))
    maps = build_targets(known, 64, 64, GeneratorSettings().stride)
    targets = {name: torch.from_numpy(np.stack([values, values])) for name, values in maps.items()}
    terms = generator_losses(model(images), targets, SuppressionSettings())
    torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    return {name: float(term.detach()) for name, term in terms.items()} | {"gradient": float(norm)}


def test_the_losses_of_a_seed_are_the_same_run_to_run() -> None:
    first = losses(7)
    assert first == losses(7)
    assert first != losses(8)


def test_a_new_generator_believes_in_few_lesions() -> None:
    torch.manual_seed(0)
    model = Generator(GeneratorSettings(), GRID).eval()
    with torch.inference_mode():
        p = torch.sigmoid(model(torch.rand(1, 3, 1 + 2 * CONTEXT, 64, 64))["heat"])
    assert 0.03 < float(p.mean()) < 0.25


@pytest.mark.parametrize("backbone", ["small", "resnet18", "densenet121"])
def test_backbones_give_maps_at_their_strides_for_any_channels(backbone: str) -> None:
    for channels_in in (3, 6):
        net = build_backbone(backbone, channels_in, 16, "").eval()
        with torch.inference_mode():
            maps = net(torch.rand(1, channels_in, 64, 96))
        assert [tuple(m.shape[1:]) for m in maps] == [
            (channels, 64 // stride, 96 // stride) for channels, stride in zip(net.out_channels, STRIDES, strict=True)
        ]


def test_weights_come_back_from_their_file(tmp_path: Path) -> None:
    net = build_backbone("small", 9, 16, "")
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    torch.save(net.state_dict(), tmp_path / "w.pt")
    for name in ("w.safetensors", "w.pt"):
        back = build_backbone("small", 9, 16, str(tmp_path / name)).state_dict()
        assert all(torch.equal(back[key], value) for key, value in net.state_dict().items())
    with pytest.raises(SettingsError, match="no such file"):
        build_backbone("small", 9, 16, str(tmp_path / "nothing.pt"))
    with pytest.raises(SettingsError, match="do not fit"):
        build_backbone("small", 3, 16, str(tmp_path / "w.pt"))
    with pytest.raises(SettingsError, match="want small"):
        build_backbone("vgg", 3, 16, "")


def test_a_saved_generator_answers_as_before(tmp_path: Path) -> None:
    settings = Settings(generator=GeneratorSettings(channels=16, head_channels=8, weights="gone.pt"))
    model, hu = generator(), volume(3 + 2 * CONTEXT)
    # As distributed.training publishes it: all values as float32, batch norm's counters too.
    state = {name: value.detach().contiguous().float() for name, value in model.state_dict().items()}
    save_file(state, tmp_path / "fold-0.safetensors")
    back = load_generator(Location.of(tmp_path) / "fold-0.safetensors", settings, FLOAT)
    for name, out in volume_maps(model, hu).items():
        torch.testing.assert_close(volume_maps(back, hu)[name], out, atol=1e-5, rtol=0)


def test_the_classifier_takes_the_maximum_over_views() -> None:
    torch.manual_seed(0)
    model = Classifier(ClassifierSettings(channels=8), GRID).eval()
    views = {
        "local": torch.rand(3, 4, 9, 32, 32),
        "global": torch.rand(3, 4, 9, 48, 48),
        "shape_profile": torch.rand(3, 6),
    }
    with torch.inference_mode():
        logits = model(views)
        assert logits.shape == (3,)
        profile = {"shape_profile": views.pop("shape_profile")}
        turned = {name: view.flip(1) for name, view in views.items()}
        torch.testing.assert_close(model(turned | profile), logits)
        twice = {name: torch.cat([view, view[:, :1]], dim=1) for name, view in views.items()}
        torch.testing.assert_close(model(twice | profile), logits)
        views |= profile
        alone = torch.cat([model({name: view[i : i + 1] for name, view in views.items()}) for i in range(3)])
        torch.testing.assert_close(alone, logits)
