"""How fast the classifier learns from tubelets and goes through a volume's, and where the time goes.

    python benchmarks/lpc.py [--device cuda] [--tubelets 40] [--json FILE]

Settings are the defaults' (5 views and reformats, 48 px, small network), the quickstart's and the paper's
(configs/deeplesion.yaml: 9 views, 96 and 128 px, ResNet-18). The volumes are made: 64 slices of 450 x 450 pixels of 0.7
mm, 2 mm apart, for the quickstart 20 of 220 x 220 as phantoms are; tubelets are 1 to 8 slices long. One thread on a
CPU, whose processor time is reported.

  crop        milliseconds that a crop takes: sampled (local, global), and through its stream, forward, and forward
              and backward
  step        seconds of a training step of the settings' batch, items made and sampled; of it the network
  volume      seconds for a volume's tubelets, read and scored; the share of the measured peak
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.lpg import peak, row
from benchmarks.lpg_bench import PAPER, Bench, made_hu
from harvester.classifier.crops import VolumeViews, cut, load_views
from harvester.classifier.examples import Examples, network_input
from harvester.classifier.inference import classify, crops_at_once, prepare_for_inference
from harvester.classifier.network import Classifier
from harvester.classifier.views import STREAMS, pixels
from harvester.config.loading import resolve
from harvester.config.settings import Settings
from harvester.models.device import DeviceSpec
from harvester.records import Volume
from harvester.store.slab import GridFrame
from harvester.store.store import Store, finish_store
from tests.builders import write_volume

SCAN, PHANTOM = (64, 450, (2.0, 0.7, 0.7)), (20, 220, (4.0, 1.6, 1.6))
"""Slices, side and spacing of the made volumes."""
CONFIGS: dict[str, tuple[Path | None, Any]] = {
    "defaults": (None, SCAN),
    "quickstart": (PAPER.parent / "quickstart.yaml", PHANTOM),
    "deeplesion": (PAPER, SCAN),
}
PLAIN = ("classifier.weights=''", "generator.weights=''", "compute.compile=false")


def made_tubelets(count: int, frame: GridFrame) -> list[dict[str, Any]]:
    """Boxes of 6 to 35 mm on 1 to 8 slices, anywhere in the middle."""
    rng, (depth, rows, columns) = np.random.default_rng(0), frame.shape_px_zyx
    made = []
    for _ in range(count):
        z, side = int(rng.integers(depth - 8)), float(rng.uniform(6, 35)) / frame.spacing_px_zyx_mm[2]
        x, y = rng.uniform(0.2, 0.7, 2) * (columns, rows)
        slices = list(range(z, z + int(rng.integers(1, 9))))
        ends = {"x1": x, "y1": y, "x2": x + side, "y2": y + side}
        made.append(
            {"z": slices, "slice_score": [0.5] * len(slices), "lpg_score": 0.5}
            | {name: [end] * len(slices) for name, end in ends.items()}
        )
    return made


def made_volumes(folder: Path, count: int, made_as: Any) -> Store:
    """A store of made volumes."""
    slices, side, spacing = made_as
    rows = [
        write_volume(folder, Volume(f"v{index}", f"p{index}", made_hu(slices, side), spacing), "vm", "h")
        for index in range(count)
    ]
    return finish_store(folder, rows, [], [])


def model_of(settings: Settings, spec: DeviceSpec, fast: bool = True) -> Classifier:
    """A classifier with random weights."""
    torch.manual_seed(0)
    model = Classifier(settings.classifier, settings.grid)
    if fast:
        return prepare_for_inference(model, spec)
    spec.move_model(model).train()
    return model


def crop(bench: Bench, settings: Settings, views: VolumeViews) -> dict[str, float]:
    """Milliseconds per crop of each part, in float32."""
    spec, results = DeviceSpec(bench.spec.device, torch.float32), {}
    fast, plain, size = model_of(settings, spec), model_of(settings, spec, False), crops_at_once(spec).size
    for name in STREAMS:
        squares, side = views.squares[name], pixels(name, settings.classifier)
        spans = [squares[start : start + size] for start in range(0, len(squares), size)]
        took = bench.seconds(lambda spans=spans, side=side: [cut(views.hu_zyx, span, side) for span in spans])  # type: ignore[misc]
        results[f"{name}_sampled"] = 1000 * took / len(squares)
        crops = torch.rand((size, 3 * len(settings.grid.windows_hu), side, side), device=spec.device)

        def forward(name: str = name, crops: torch.Tensor = crops) -> Any:
            with torch.inference_mode():
                return fast.features(name, crops)

        def both_ways(name: str = name, crops: torch.Tensor = crops) -> None:
            torch.autograd.backward(plain.features(name, crops).sum())

        results[f"{name}_forward"] = 1000 * bench.seconds(forward) / size
        results[f"{name}_forward_backward"] = 1000 * bench.seconds(both_ways) / size
    return results


def step(bench: Bench, settings: Settings, store: Store, tubelets: int) -> dict[str, float]:
    """Seconds of a training step in float32: items, sampling, both ways through the network."""
    own, spec = settings.classifier, DeviceSpec(bench.spec.device, torch.float32)
    frames = [GridFrame.of(each, settings.grid) for each in store.manifest.to_pylist()]
    examples: dict[int, Any] = {0: [], 1: []}
    for frame in frames:
        for at, each in enumerate(made_tubelets(tubelets, frame)):
            examples[at % 2].append((frame, each))
    items, model = Examples(store.path, examples, own, 1000 * own.volumes_per_step, 0), model_of(settings, spec, False)
    taken = [0]

    def batch() -> dict[str, torch.Tensor]:
        taken[0] += own.volumes_per_step
        raws = [items[taken[0] + at] for at in range(own.volumes_per_step)]
        parts = [network_input(moved(raw, spec), own, settings.grid.windows_hu) for raw in raws]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def learn(views: dict[str, torch.Tensor]) -> None:
        torch.autograd.backward(model(views).sum())

    views = batch()
    return {"items_and_crops": bench.seconds(batch), "network": bench.seconds(lambda: learn(views))}


def moved(raw: dict[str, Any], spec: DeviceSpec) -> dict[str, Any]:
    """An item on the device."""
    return {name: each.to(spec.device) if isinstance(each, torch.Tensor) else each for name, each in raw.items()}


def volume(
    bench: Bench, settings: Settings, store: Store, views: VolumeViews, most: dict[str, float]
) -> dict[str, float]:
    """Seconds of reading, and of scoring in either precision."""
    results = {
        "read": bench.seconds(
            lambda: load_views(store.path, views.frame, views.rows, settings.classifier, bench.spec.device)
        )
    }
    for dtype in (torch.float32, torch.bfloat16):
        spec, name = DeviceSpec(bench.spec.device, dtype), str(dtype).removeprefix("torch.")
        model, batch = model_of(settings, spec), crops_at_once(spec)

        def run(model: Classifier = model, spec: DeviceSpec = spec, batch: Any = batch) -> list[float]:
            return classify(model, views, settings, spec, batch)

        results[f"scored_{name}"] = bench.seconds(run)
        with FlopCounterMode(display=False) as counter:
            run()
        gflops = counter.get_total_flops() / results[f"scored_{name}"] / 1e9
        results[f"share_of_peak_{name}"] = gflops / most[f"gflops_{name}"]
    return results


def main() -> None:
    """Measure and print part by part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tubelets", type=int, default=40)
    parser.add_argument("--only", choices=tuple(CONFIGS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(DeviceSpec.choose(options.device == "cuda", "auto"), 512, 64)
    results: dict[str, Any] = {"device": options.device, "peak": peak(bench)}
    for name, (config, made_as) in CONFIGS.items():
        if options.only not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as folder:
            settings = resolve(config, PLAIN)
            store = made_volumes(Path(folder), settings.classifier.volumes_per_step, made_as)
            results[name] = measured(name, bench, settings, store, options.tubelets, results["peak"])
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


def measured(
    name: str, bench: Bench, settings: Settings, store: Store, tubelets: int, most: dict[str, float]
) -> dict[str, Any]:
    """All parts with some settings, printed as they come."""
    frame, own = GridFrame.of(store.manifest.to_pylist()[0], settings.grid), settings.classifier
    views = load_views(store.path, frame, made_tubelets(tubelets, frame), own, bench.spec.device)
    print(f"{name}: {own.backbone}, {own.views} + {2 * own.reformats} views, {own.local_px} and {own.global_px} px")
    parts: dict[str, Callable[[], dict[str, float]]] = {
        "crop": lambda: crop(bench, settings, views),
        "step": lambda: step(bench, settings, store, tubelets),
        "volume": lambda: volume(bench, settings, store, views, most),
    }
    results: dict[str, Any] = {}
    for part, measure in parts.items():
        results[part] = measure()
        print(f"  {part}: {row(results[part])}", flush=True)
    return results


if __name__ == "__main__":
    main()
