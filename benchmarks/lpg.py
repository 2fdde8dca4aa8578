"""How fast the generator goes through volumes, what bounds it, and what else a user could take.

    python benchmarks/lpg.py [--device cuda] [--side 512] [--slices 96] [--no-peers] [--json FILE]

The grid is the paper's (configs/deeplesion.yaml), the volume is made (tissue, lungs, noise) and read from a store.
Weights are random: speed depends on them only through the peaks that survive, which are fixed at 20 per slice, as those
of fitted generators are. On a CPU there is one thread and processor time is reported, so that rates are a core's.

  once        features of a slice group computed once, against the nine-slice window computed anew for every slice
  rates       slices per second by backbone and precision; operations and bytes per slice, and their share of the
              device's own measured peaks (matrix product, copy): what bounds it, here and on another device
  compiled    how many times as fast torch.compile makes it, and what the compiling takes
  stages      where a volume's time goes, from the store to scored tubelets
  pipeline    the same as an actor does it, in three threads: wall time, and how busy a GPU was
  peers       Faster R-CNN slice by slice and a 3D RetinaNet by sliding window (peers.py), on the same grid
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from harvester.classifier.inference import classify, crops_at_once, distinct_views
from harvester.classifier.inference import prepare_for_inference as prepare_classifier
from harvester.classifier.network import Classifier
from harvester.classifier.views import STREAMS, cut_crops, load_views, pixels, view_corners
from harvester.config.loading import resolve
from harvester.config.settings import GeneratorSettings, Settings
from harvester.imaging.body_mask import BODY_HU, body_mask, coarse_step
from harvester.models.acceleration import Compiled
from harvester.models.batch_size import AutoBatchSize
from harvester.models.device import DeviceSpec
from harvester.proposals.decoding import above, best_peaks
from harvester.proposals.detect import Boxes, Carries, prepare_for_inference, slice_maps, slices_at_once
from harvester.proposals.inference import Proposals, read_with_context, tubelet_rows
from harvester.proposals.network import CONTEXT, GROUPS, Generator, group_images
from harvester.records import Volume
from harvester.store.slab import GridFrame, read_pixels
from harvester.store.store import Store, finish_store

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.builders import write_volume

PAPER = Path(__file__).parents[1] / "configs" / "deeplesion.yaml"
PEAKS_PER_SLICE = 20
BACKBONES = ("small", "resnet18", "densenet121")
PEERS_SLICES = 32
SIZES = {"cpu": (2, 4), "cuda": (8, 32)}


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


@torch.inference_mode()
def once_against_recomputed(bench: Bench, backbone: str) -> dict[str, float]:
    """Both in float32 with the same model, at the batch that is faster for each; the windows on some of the slices."""
    spec, settings = DeviceSpec(bench.spec.device, torch.float32), settings_of(backbone)
    model, slab = model_of(settings, spec), bench.slab(bench.slices)
    some = slab[: 8 + 2 * CONTEXT]

    def once(hu: Tensor, size: int) -> dict[str, Tensor]:
        return joined(volume_maps(model, hu, settings, spec, AutoBatchSize("slices", size)))

    def recomputed(hu: Tensor, size: int) -> dict[str, Tensor]:
        return joined(windows_recomputed(model, hu, settings, spec, size))

    ways = {"once": (once, slab), "recomputed": (recomputed, some)}
    took = {name: float("inf") for name in ways}
    # By turns, so that what else the machine does meets both.
    for size in 3 * SIZES[spec.device.type]:
        for name, (way, hu) in ways.items():
            seconds = bench.seconds(
                lambda way=way, hu=hu, size=size: way(hu, size),  # type: ignore[misc]
                lambda way=way, size=size: way(some, size),  # type: ignore[misc]
                1,
            )
            took[name] = min(took[name], seconds / (len(hu) - 2 * CONTEXT))
    a, b = once(some, 4), recomputed(some, 4)
    return {
        "speedup": took["recomputed"] / took["once"],
        "ms_per_slice_once": 1000 * took["once"],
        "ms_per_slice_recomputed": 1000 * took["recomputed"],
        "max_abs_difference": max(float((a[name] - b[name]).abs().max()) for name in a),
    }


def windows_recomputed(
    model: Generator, slab: Tensor, settings: Settings, spec: DeviceSpec, size: int
) -> Iterator[dict[str, Tensor]]:
    """Each slice's nine-slice window by itself: three groups per slice through the backbone, nothing kept."""
    depth = len(slab) - 2 * CONTEXT
    for start in range(0, depth, size):
        batch = range(start, min(depth, start + size))
        groups = torch.cat(
            [
                group_images(slab[z + step : z + step + 3], settings.grid.windows_hu, spec.dtype)
                for step in GROUPS
                for z in batch
            ]
        ).contiguous(memory_format=torch.channels_last)
        levels = [torch.cat(level.chunk(len(GROUPS)), dim=1) for level in model.features(groups)]
        yield model.fuse(levels)


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


@torch.inference_mode()
def peak(bench: Bench) -> dict[str, float]:
    """What the device can do at most: a large matrix product (GFLOP/s) and a copy (GB/s, read and written)."""
    device, results = bench.spec.device, {}
    side = 2048 if device.type == "cpu" else 8192
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
        name = str(dtype).removeprefix("torch.")
        results[f"gflops_{name}"] = 2 * side**3 / bench.seconds(lambda a=a, b=b: a @ b) / 1e9  # type: ignore[misc]
    source = torch.rand(1 << 26, device=device)
    target = torch.empty_like(source)
    results["copy_gb"] = 2 * source.nbytes / bench.seconds(lambda: target.copy_(source)) / 1e9
    return results


@torch.inference_mode()
def rate(bench: Bench, backbone: str, dtype: torch.dtype, most: dict[str, float]) -> dict[str, float]:
    """Slices per second of windows, features, heads and peaks; operations per slice by torch's own count."""
    spec, settings = DeviceSpec(bench.spec.device, dtype), settings_of(backbone)
    model, slab, batch = model_of(settings, spec), bench.slab(bench.slices), slices_at_once(spec)

    def run(slab: Tensor = slab) -> None:
        for maps in volume_maps(model, slab, settings, spec, batch):
            best_peaks(maps, PEAKS_PER_SLICE)

    some = slab[: 4 + 2 * CONTEXT]
    took = bench.seconds(run, lambda: run(some), 2)
    top = torch.zeros(1, settings.generator.channels, bench.side // 4, bench.side // 4, device=spec.device)
    whole, heads = counted(lambda: run(some)), counted(lambda: heads_alone(model, top, spec))
    # Of ten groups for four slices; a long volume has one group per slice.
    groups, slices = len(some) - 2, len(some) - 2 * CONTEXT
    gflop, gb = (((all_of - slices * own) / groups + own) / 1e9 for all_of, own in zip(whole, heads, strict=True))
    done = bench.slices / took
    name = str(dtype).removeprefix("torch.")
    return {
        "slices_per_second": done,
        "gflop_per_slice": gflop,
        "share_of_peak": done * gflop / most[f"gflops_{name}"],
        "gb_per_slice": gb,
        "share_of_copy": done * gb / most["copy_gb"],
        "batch": batch.size,
        "memory_mib": spec.memory_mib(),
    }


@torch.inference_mode()
def compiled(bench: Bench, backbone: str) -> dict[str, float]:
    """A compiled backbone against one that is not, by turns, on as many slices as five batches have."""
    spec, settings, batch = bench.spec, settings_of(backbone), slices_at_once(bench.spec)
    slab, took = bench.slab(5 * batch.size), {False: float("inf"), True: float("inf")}
    models = {False: model_of(settings, spec), True: model_of(settings, spec)}
    models[True].backbone = Compiled(models[True].backbone)

    def run(compile_it: bool) -> None:
        for _ in volume_maps(models[compile_it], slab, settings, spec, batch):
            pass

    began = time.perf_counter()
    run(compile_it=True)
    first = time.perf_counter() - began
    for _ in range(3):
        for compile_it in models:
            again = partial(run, compile_it)
            took[compile_it] = min(took[compile_it], bench.seconds(again, lambda: None, 1))
    return {"seconds_to_compile": first, "speedup": took[False] / took[True]}


def heads_alone(model: Generator, top: Tensor, spec: DeviceSpec) -> None:
    """The part of a step that is done once per slice, not once per group."""
    with spec.autocast():
        model.heads_forward(top.to(spec.dtype))


def counted(work: Callable[[], Any]) -> tuple[int, int]:
    """Operations, and bytes that are read and written if every operator does it by itself."""
    with FlopCounterMode(display=False) as flops, Traffic() as traffic:
        work()
    return flops.get_total_flops(), traffic.bytes


class Traffic(TorchDispatchMode):
    """Counts what the operators that are no views take and give."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            touched = [each for each in tree_leaves((args, kwargs, out)) if isinstance(each, Tensor)]
            self.bytes += sum(each.numel() * each.element_size() for each in touched)
        return out


@torch.inference_mode()
def stages(bench: Bench, backbone: str, folder: Path) -> dict[str, float]:
    """Milliseconds per slice of each stage, one after the other."""
    spec, settings = bench.spec, settings_of(backbone)
    store = made_store(folder / backbone, bench)
    frame = GridFrame.of(store.manifest.to_pylist()[0], settings.grid)
    model, own = model_of(settings, spec), settings.generator
    slab = read_with_context(store.path, frame, spec)
    depth, batch = frame.shape_zyx[0], slices_at_once(spec)
    images = group_images(slab[: batch.size + 2], settings.grid.windows_hu, spec.dtype)
    maps = joined(volume_maps(model, slab, settings, spec, batch))
    scores, boxes = best_peaks(maps, own.top_k)
    z, boxes, scores = above(scores, boxes, own.score_floor)
    step = coarse_step(frame.spacing_zyx_mm[2])
    dense = slab[CONTEXT:-CONTEXT, ::step, ::step] > BODY_HU
    found = Boxes(z.cpu().numpy(), boxes.cpu().double().numpy(), scores.cpu().double().numpy(), None, step)
    decode = bench.seconds(lambda: read_pixels(store.path, frame, -CONTEXT, depth + CONTEXT))
    whole = bench.seconds(lambda: joined(volume_maps(model, slab, settings, spec, batch)))
    windows = bench.seconds(lambda: group_images(slab[: batch.size + 2], settings.grid.windows_hu, spec.dtype))
    results = {
        "decode": decode,
        "resample, copy": bench.seconds(lambda: read_with_context(store.path, frame, spec)) - decode,
        "windows": windows * depth / len(images),
        "LPG forward": whole - windows * depth / len(images),
        "peaks": bench.seconds(lambda: above(*best_peaks(maps, own.top_k), own.score_floor)),
        "body": bench.seconds(lambda: body_mask(dense.cpu().numpy())),
        "link": bench.seconds(lambda: tubelet_rows(found, frame, settings)),
    }
    results |= classifier_stages(bench, settings, store, frame, tubelet_rows(found, frame, settings))
    return {name: 1000 * seconds / depth for name, seconds in results.items()}


def classifier_stages(
    bench: Bench, settings: Settings, store: Store, frame: GridFrame, rows: list[dict[str, Any]]
) -> dict[str, float]:
    """Seconds for the volume's best tubelets; its slices are read again, as the scoring step does."""
    best, spec = rows[: settings.classifier.max_tubelets], bench.spec
    views = load_views(store.path, frame, best, settings.classifier.views, spec.device)
    torch.manual_seed(0)
    model = prepare_classifier(Classifier(settings.classifier, settings.grid), spec)

    def crops() -> None:
        for name in STREAMS:
            corners = view_corners(name, views.boxes_xyxy, settings.classifier, frame)
            distinct, _ = distinct_views(views.z, corners)
            for start in range(0, len(distinct), size):
                part = distinct[start : start + size]
                z = part[:, 0].astype(np.int64) - views.first
                cut_crops(views.hu_zyx, z, part[:, 1:], pixels(name, settings.classifier), settings.grid)

    batch = crops_at_once(spec)
    size = batch.size
    cutting = bench.seconds(crops)
    whole = bench.seconds(lambda: classify(model, views, settings, spec, batch))
    return {
        "read again": bench.seconds(
            lambda: load_views(store.path, frame, best, settings.classifier.views, spec.device)
        ),
        "crops": cutting,
        "LPC forward": whole - cutting,
    }


@torch.inference_mode()
def pipeline(bench: Bench, backbone: str, folder: Path, volumes: int) -> dict[str, float]:
    """An actor's way through some volumes by wall time, and a GPU's utilisation meanwhile."""
    settings = settings_of(backbone)
    store = made_store(folder / f"{backbone}-pipeline", bench, volumes)
    weights = folder / f"{backbone}.safetensors"
    model = model_of(settings, bench.spec, fast=False)
    save_file({name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}, weights)
    frames = [GridFrame.of(row, settings.grid) for row in store.manifest.to_pylist()]
    proposals = Proposals(settings, store.path, bench.spec)
    for work in proposals.over([(frames[0], [weights])]):  # warms up
        work()
    with utilisation() as busy:
        began = time.perf_counter()
        for work in proposals.over((frame, [weights]) for frame in frames):
            work()
        took = time.perf_counter() - began
    results = {"slices_per_second": sum(frame.shape_zyx[0] for frame in frames) / took}
    results["memory_mib"] = bench.spec.memory_mib()
    return results | ({"gpu_busy_percent": statistics.mean(busy)} if busy else {})


@contextmanager
def utilisation() -> Iterator[list[float]]:
    """Samples of how busy the GPU is, in percent, five per second; none where there is no nvidia-smi."""
    results: list[float] = []
    watch = None
    with suppress(FileNotFoundError):
        query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
        watch = subprocess.Popen(["nvidia-smi", *query], stdout=subprocess.PIPE, text=True)
    try:
        yield results
    finally:
        if watch is not None:
            watch.terminate()
            results += [float(line) for line in watch.communicate()[0].split()]


def main() -> None:
    """Measure and print part by part, so that a stopped run has said something."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--side", type=int, default=512, help="of the grid, in pixels")
    parser.add_argument("--slices", type=int, default=96)
    parser.add_argument("--volumes", type=int, default=4, help="for the pipeline")
    parser.add_argument("--backbones", nargs="+", default=BACKBONES, choices=BACKBONES)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(DeviceSpec.choose(options.device == "cuda", "auto"), options.side, options.slices)
    results = measured(bench, options)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


def measured(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """All parts, printed as they come."""
    device = bench.spec.device.type
    print(f"{device}, {options.side} x {options.side}, {options.slices} slices")
    results: dict[str, Any] = {"device": device, "peak": peak(bench), "rates": {}, "stages": {}, "pipeline": {}}
    print("peak:", ", ".join(f"{name} {value:.0f}" for name, value in results["peak"].items()))
    results["once"] = {name: once_against_recomputed(bench, name) for name in ("small", "densenet121")}
    for name, figures in results["once"].items():
        print(f"features once, {name}: {row(figures)}")
    for name in options.backbones:
        for dtype in (torch.float32, torch.bfloat16):
            key = f"{name} {str(dtype).removeprefix('torch.')}"
            results["rates"][key] = rate(bench, name, dtype, results["peak"])
            print(f"rate, {key}: {row(results['rates'][key])}", flush=True)
    results["compiled"] = {name: compiled(bench, name) for name in ("small", "densenet121")}
    for name, figures in results["compiled"].items():
        print(f"compiled, {name} ({bench.spec.dtype}): {row(figures)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("small", "densenet121"):
            results["stages"][name] = stages(bench, name, Path(folder))
            print(f"stages, {name} ({bench.spec.dtype}), ms per slice:")
            print(shares(results["stages"][name]))
            few = options.volumes if name == "small" or device == "cuda" else 1
            results["pipeline"][name] = pipeline(bench, name, Path(folder), few)
            print(f"pipeline, {name}: {row(results['pipeline'][name])}", flush=True)
    if not options.no_peers:
        from peers import PEERS  # beside this file; needs the extra `bench`

        results["peers"] = {}
        for name, peer in PEERS.items():
            timed = peer(made_hu(PEERS_SLICES, bench.side), bench.spec)
            results["peers"][name] = timed.per_second
            print(f"peer, {name}: {timed.per_second:.3f} slices per second ({timed.notes})", flush=True)
    return results | headline(results)


def headline(results: dict[str, Any]) -> dict[str, Any]:
    """The figures that are asked for by name."""
    rates = {name: figures["slices_per_second"] for name, figures in results["rates"].items()}
    named = {
        "features_once_speedup": results["once"]["densenet121"]["speedup"],  # the paper's; the small one's is beside it
        "max_abs_difference": max(figures["max_abs_difference"] for figures in results["once"].values()),
        "slices_per_second": rates,
    }
    if "peers" in results:
        fastest = max(results["peers"].values())
        small = max(rate for name, rate in rates.items() if name.startswith("small"))
        named["ratio_to_fastest_peer"] = small / fastest
        named["densenet121_ratio_to_fastest_peer"] = (
            max(rate for name, rate in rates.items() if name.startswith("densenet121")) / fastest
        )
        print(f"small against the fastest peer: {named['ratio_to_fastest_peer']:.1f} times")
        print(f"densenet121 against it: {named['densenet121_ratio_to_fastest_peer']:.2f} times")
    return named


def row(figures: dict[str, float]) -> str:
    """Figures on a line."""
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())


def shares(figures: dict[str, float]) -> str:
    """A line a stage with its share."""
    total = sum(figures.values())
    lines = [f"  {name:16s}{value:9.2f}{value / total:7.1%}" for name, value in figures.items()]
    return "\n".join([*lines, f"  {'in all':16s}{total:9.2f}"])


if __name__ == "__main__":
    main()
