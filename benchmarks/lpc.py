"""How fast the classifier goes through a volume's tubelets, and what its shortcuts are worth.

    python benchmarks/lpc.py [--device cuda] [--tubelets 40] [--json FILE]

Settings are the paper's (configs/deeplesion.yaml: 9 views, 96 and 128 px, ResNet-18) and the small network's; the
volume is made, 512 x 512 on a grid of 0.8 mm and 2 mm, tubelets are 1 to 8 slices long. One thread on a CPU, whose
processor time is reported.

  rates       tubelets per second, read and scored, by backbone and precision; the share of the measured peak
  stages      where a volume's time goes
  sharing     equal views seen once against all of them: how many times as fast, and the largest difference of a score
  crops       cut on the device in batches (roi_align), against one by one in numpy
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lpg import Bench, made_store, peak, row, settings_of, shares  # beside this file
from torch.utils.flop_counter import FlopCounterMode

from harvester.classifier.inference import classify, crops_at_once, distinct_views, prepare_for_inference
from harvester.classifier.network import Classifier
from harvester.classifier.views import STREAMS, VolumeViews, cut_crops, load_views, pixels, shape_profile, view_corners
from harvester.config.settings import Settings
from harvester.imaging.hounsfield import windowed
from harvester.models.batch_size import AutoBatchSize
from harvester.models.device import DeviceSpec
from harvester.store.slab import GridFrame

BACKBONES = {"small": "small", "resnet18": "densenet121"}
"""The classifier's backbone, and the generator's of the settings that it comes in."""


def made_tubelets(count: int, frame: GridFrame) -> list[dict[str, Any]]:
    """Boxes of 6 to 40 mm on 1 to 8 slices, anywhere in the middle."""
    rng, (depth, rows, columns) = np.random.default_rng(0), frame.shape_px_zyx
    made = []
    for _ in range(count):
        z, side = int(rng.integers(depth - 8)), float(rng.uniform(8, 50))
        x, y = rng.uniform(0.2, 0.7, 2) * (columns, rows)
        slices = list(range(z, z + int(rng.integers(1, 9))))
        ends = {"x1": x, "y1": y, "x2": x + side, "y2": y + side}
        made.append(
            {"z": slices, "slice_score": [0.5] * len(slices)}
            | {name: [end] * len(slices) for name, end in ends.items()}
        )
    return made


def model_of(settings: Settings, spec: DeviceSpec) -> Classifier:
    """A classifier with random weights."""
    torch.manual_seed(0)
    return prepare_for_inference(Classifier(settings.classifier, settings.grid), spec, settings.compute.compile)


@torch.inference_mode()
def rate(
    bench: Bench, settings: Settings, views: VolumeViews, dtype: torch.dtype, most: dict[str, float]
) -> dict[str, float]:
    """Tubelets per second of crops and both streams."""
    spec = DeviceSpec(bench.spec.device, dtype)
    model, batch = model_of(settings, spec), crops_at_once(spec)

    def run() -> list[float]:
        return classify(model, views, settings, spec, batch)

    took = bench.seconds(run)
    with FlopCounterMode(display=False) as counter:
        run()
    gflops = counter.get_total_flops() / took / 1e9
    crops = sum(len(views_of(settings, views, name)[0]) for name in STREAMS)
    return {
        "tubelets_per_second": len(views.rows) / took,
        "crops_per_second": crops / took,
        "share_of_peak": gflops / most[f"gflops_{str(dtype).removeprefix('torch.')}"],
        "batch": batch.size,
    }


def views_of(settings: Settings, views: VolumeViews, name: str) -> tuple[Any, Any]:
    """The distinct views of a stream: slices from the slab's first, and corners."""
    corners = view_corners(name, views.boxes_xyxy, settings.classifier, views.frame)
    distinct, _ = distinct_views(views.z, corners)
    return distinct[:, 0].astype(np.int64) - views.first, distinct[:, 1:]


@torch.inference_mode()
def stages(bench: Bench, settings: Settings, store: Any, views: VolumeViews) -> dict[str, float]:
    """Seconds of each stage, one after the other, in the device's own precision."""
    spec = bench.spec
    model, batch = model_of(settings, spec), crops_at_once(spec)
    results = {
        "read": bench.seconds(
            lambda: load_views(store.path, views.frame, views.rows, settings.classifier.views, spec.device)
        )
    }
    results["crops"] = 0.0
    for name in STREAMS:
        z, corners = views_of(settings, views, name)
        side = pixels(name, settings.classifier)
        spans = [slice(start, start + batch.size) for start in range(0, len(z), batch.size)]

        def cut(z: Any = z, corners: Any = corners, side: int = side, spans: Any = spans) -> list[torch.Tensor]:
            return [cut_crops(views.hu_zyx, z[span], corners[span], side, settings.grid) for span in spans]

        made = cut()
        results["crops"] += bench.seconds(cut)
        with spec.autocast():
            results[f"{name} stream"] = bench.seconds(
                lambda name=name, made=made: [model.features(name, crops) for crops in made]  # type: ignore[misc]
            )
    results["shape profile"] = bench.seconds(lambda: shape_profile(views.tubelets, views.frame))
    return results


@torch.inference_mode()
def sharing(bench: Bench, settings: Settings, views: VolumeViews) -> dict[str, float]:
    """Each distinct view once, against every view of every tubelet, in float32."""
    spec = DeviceSpec(bench.spec.device, torch.float32)
    model, size = model_of(settings, spec), crops_at_once(spec).size

    def shared() -> list[float]:
        return classify(model, views, settings, spec, AutoBatchSize("crops", size))

    def every() -> list[float]:
        scores: list[float] = []
        for start in range(0, len(views.rows), 4):
            some = slice(start, start + 4)
            z, boxes = views.z[some] - views.first, views.boxes_xyxy[some]
            features = []
            for name in STREAMS:
                corners = view_corners(name, boxes, settings.classifier, views.frame).reshape(-1, 4)
                side = pixels(name, settings.classifier)
                crops = cut_crops(views.hu_zyx, z.ravel(), corners, side, settings.grid)
                features.append(model.features(name, crops).unflatten(0, z.shape))
            profile = torch.from_numpy(shape_profile(views.tubelets, views.frame)[some]).to(spec.device)
            scores += torch.sigmoid(model.logits(features[0], features[1], profile)).tolist()
        return scores

    slow, fast = bench.seconds(every), bench.seconds(shared)
    difference = max(abs(a - b) for a, b in zip(every(), shared(), strict=True))
    return {"speedup": slow / fast, "max_abs_difference": difference}


def crops_against_numpy(bench: Bench, settings: Settings, views: VolumeViews) -> dict[str, float]:
    """The local stream's crops: in batches on the device, and one by one in numpy, both windowed."""
    z, corners = views_of(settings, views, "local")
    side, batch = settings.classifier.local_px, crops_at_once(bench.spec).size
    hu = views.hu_zyx.cpu().numpy()

    def batched() -> list[torch.Tensor]:
        return [
            cut_crops(views.hu_zyx, z[at : at + batch], corners[at : at + batch], side, settings.grid)
            for at in range(0, len(z), batch)
        ]

    def one_by_one() -> list[Any]:
        return [numpy_crop(hu[at - 1 : at + 2], own, side, settings) for at, own in zip(z, corners, strict=True)]

    ours = torch.cat(batched()).cpu().numpy()
    slow, fast = bench.seconds(one_by_one), bench.seconds(batched)
    difference = float(np.abs(ours - np.stack(one_by_one())).max())
    return {"speedup": slow / fast, "ms_per_crop": 1000 * fast / len(z), "max_abs_difference": difference}


def numpy_crop(planes: Any, corners: Any, side: int, settings: Settings) -> Any:
    """Three slices read bilinearly at the pixels' centres, ends repeated: (3 windows, side, side)."""
    taps = []
    for low, high, count in ((corners[1], corners[3], planes.shape[1]), (corners[0], corners[2], planes.shape[2])):
        at = np.clip(low + (np.arange(side) + 0.5) * (high - low) / side - 0.5, 0, count - 1)
        first = np.minimum(at.astype(np.int64), count - 2)
        taps.append((first, (at - first).astype(np.float32)))
    (y, fy), (x, fx) = taps
    rows = planes[:, y] * (1 - fy[:, None]) + planes[:, y + 1] * fy[:, None]
    cut = rows[:, :, x] * (1 - fx) + rows[:, :, x + 1] * fx
    return np.concatenate(list(windowed(cut, settings.grid.windows_hu)))


def main() -> None:
    """Measure and print part by part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tubelets", type=int, default=40)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(DeviceSpec.choose(options.device == "cuda", "auto"), 512, 64)
    results: dict[str, Any] = {"device": options.device, "peak": peak(bench)}
    with tempfile.TemporaryDirectory() as folder:
        store = made_store(Path(folder), bench)
        for name, generator in BACKBONES.items():
            results[name] = measured(bench, settings_of(generator), store, options.tubelets, results["peak"])
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


def measured(bench: Bench, settings: Settings, store: Any, tubelets: int, most: dict[str, float]) -> dict[str, Any]:
    """All parts with one backbone, printed as they come."""
    frame = GridFrame.of(store.manifest.to_pylist()[0], settings.grid)
    rows = made_tubelets(tubelets, frame)
    views = load_views(store.path, frame, rows, settings.classifier.views, bench.spec.device)
    own = settings.classifier
    print(f"{own.backbone}: {own.views} views, {own.local_px} and {own.global_px} px, {tubelets} tubelets")
    results: dict[str, Any] = {}
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        results[name] = rate(bench, settings, views, dtype, most)
        print(f"  rate, {name}: {row(results[name])}", flush=True)
    results["stages"] = {name: 1000 * took / tubelets for name, took in stages(bench, settings, store, views).items()}
    print(f"  stages ({bench.spec.dtype}), ms per tubelet:\n{shares(results['stages'])}")
    results["sharing"] = sharing(bench, settings, views)
    print(f"  sharing equal views: {row(results['sharing'])}")
    whole = settings.model_copy(update={"classifier": own.model_copy(update={"global_mm": 0.0})})
    results["sharing_whole_slices"] = sharing(bench, whole, views)
    print(f"  the same with whole slices as the global view: {row(results['sharing_whole_slices'])}")
    results["crops"] = crops_against_numpy(bench, settings, views)
    print(f"  crops in batches against one by one in numpy: {row(results['crops'])}", flush=True)
    return results


if __name__ == "__main__":
    main()
