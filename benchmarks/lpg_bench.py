"""What the generator is timed on: made volumes, random weights, and the clock (lpg.py, lpg_stages.py)."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harvester.config.loading import resolve
from harvester.config.models import GeneratorSettings
from harvester.config.settings import Settings
from harvester.models.batch_size import AutoBatchSize
from harvester.models.device import DeviceSpec
from harvester.proposals.detect import Carries, prepare_for_inference, slice_maps
from harvester.proposals.network import CONTEXT, Generator
from harvester.records import Volume
from harvester.store.store import Store, finish_store

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.builders import write_volume

PAPER = Path(__file__).parents[1] / "configs" / "deeplesion.yaml"
PEAKS_PER_SLICE = 20


@dataclass(frozen=True)
class Bench:
    """What every part measures on."""

    spec: DeviceSpec
    side: int
    slices: int

    def seconds(self, work: Callable[[], Any], warm: Callable[[], Any] | None = None, repeats: int = 3) -> float:
        """Least of some runs after one that warms up: of the processor, or of the wall with a GPU awaited."""
        gpu = self.spec.device.type == "cuda"
        clock = time.perf_counter if gpu else time.process_time
        (warm or work)()
        took = []
        for _ in range(repeats):
            began = clock()
            work()
            if gpu:
                torch.cuda.synchronize()
            took.append(clock() - began)
        return min(took)

    def slab(self, slices: int) -> Tensor:
        """HU of a made volume with its context, on the device."""
        return torch.from_numpy(made_hu(slices + 2 * CONTEXT, self.side)).to(self.spec.device)


def settings_of(backbone: str, more: tuple[str, ...] = ()) -> Settings:
    """The paper's configuration with another backbone; the small one keeps the widths it has by default."""
    own: tuple[str, ...] = (
        "compute.compile=false",
        f"generator.backbone={backbone}",
        "generator.weights=''",
        "classifier.weights=''",
    )
    if backbone == "small":
        small = GeneratorSettings()
        own += (f"generator.channels={small.channels}", f"generator.head_channels={small.head_channels}")
        own += ("classifier.backbone=small", "classifier.views=3", "classifier.local_px=32")
        own += ("classifier.global_px=32",)
    return resolve(PAPER, (*own, f"generator.top_k={PEAKS_PER_SLICE}", "generator.score_floor=0.0001", *more))


def made_hu(slices: int, side: int) -> Any:
    """An ellipse of tissue with two lungs and noise, int16 (slices, side, side)."""
    y, x = np.mgrid[:side, :side] / side - 0.5
    hu = np.where((x / 0.42) ** 2 + (y / 0.3) ** 2 < 1, 40.0, -1000.0)
    hu[((np.abs(x) - 0.17) / 0.12) ** 2 + (y / 0.19) ** 2 < 1] = -850
    rng = np.random.default_rng(0)
    return (hu + rng.normal(0, 15, (slices, side, side))).astype(np.int16)


def made_store(folder: Path, bench: Bench, volumes: int = 1, pixel_mm: float = 0.7) -> Store:
    """Volumes of 512 x 512 pixels, that the grid resamples to about `side`, with slices as thick as the grid's."""
    hu = made_hu(bench.slices, round(bench.side * 0.8 / pixel_mm))
    rows = [
        write_volume(folder, Volume(f"v{index}", f"p{index}", hu, (2.0, pixel_mm, pixel_mm)), "vh", "h")
        for index in range(volumes)
    ]
    return finish_store(folder, rows, [], [])


def model_of(settings: Settings, spec: DeviceSpec, fast: bool = True) -> Generator:
    """A generator with random weights and lived-in batch norms."""
    torch.manual_seed(0)
    model = Generator(settings.generator, settings.grid)
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d) and norm.running_var is not None:
            norm.running_var.uniform_(0.5, 2)
    if fast:
        return prepare_for_inference(model, spec, settings.compute.compile)
    spec.move_model(model).eval()
    return model


def volume_maps(
    model: Generator, slab: Tensor, settings: Settings, spec: DeviceSpec, batch: AutoBatchSize
) -> Iterator[dict[str, Tensor]]:
    """The heads' maps of a volume, batch by batch, as find_boxes makes them."""
    carries: Carries = [None]
    for span in batch.spans(len(slab) - 2 * CONTEXT):
        with span:
            maps, carries = slice_maps([model], slab, span, carries, settings, spec)
        if span.done:
            yield maps


def joined(parts: Iterator[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Maps of batches to those of the volume."""
    every = list(parts)
    return {name: torch.cat([part[name].float() for part in every]) for name in every[0]}
