"""How fast the generator goes through volumes, what bounds it, and what else a user could take.

    python benchmarks/lpg.py [--device cuda] [--side 512] [--slices 96] [--no-peers] [--json FILE]

The grid is the paper's (configs/deeplesion.yaml), the volume is made (tissue, lungs, noise) and read from a store.
Weights are random: speed depends on them only through the peaks that survive, which are fixed at 20 per slice, as those
of fitted generators are. On a CPU there is one thread and processor time is reported, so that rates are a core's.

  once        features of a slice group computed once, against the nine-slice window computed anew for every slice
  rates       slices per second by backbone and precision; operations and bytes per slice, and their share of the
              device's own measured peaks (matrix product, copy): what bounds it, here and on another device
  finer       how many times as long the small network takes with cells of 2 pixels as with cells of 4
  compiled    how many times as fast torch.compile makes it, and what the compiling takes
  stages      where a volume's time goes, from the store to scored tubelets
  pipeline    the same as an actor does it, in three threads: wall time, and how busy a GPU was
  peers       Faster R-CNN slice by slice and a 3D RetinaNet by sliding window (peers.py), on the same grid
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from harvester.config.settings import Settings
from harvester.models.acceleration import Compiled
from harvester.models.batch_size import AutoBatchSize
from harvester.models.device import DeviceSpec
from harvester.proposals.decoding import best_peaks
from harvester.proposals.detect import slices_at_once
from harvester.proposals.network import CONTEXT, GROUPS, Generator, group_images

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.lpg_bench import PEAKS_PER_SLICE, Bench, joined, made_hu, model_of, settings_of, volume_maps
from benchmarks.lpg_stages import pipeline, stages

BACKBONES = ("small", "resnet18", "densenet121")
PEERS_SLICES = 32
SIZES = {"cpu": (2, 4), "cuda": (8, 32)}


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
            best_peaks(maps, PEAKS_PER_SLICE, settings.generator.stride)

    some = slab[: 4 + 2 * CONTEXT]
    took = bench.seconds(run, lambda: run(some), 2)
    cells = bench.side // settings.generator.stride
    top = torch.zeros(1, settings.generator.channels, cells, cells, device=spec.device)
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
def finer(bench: Bench) -> dict[str, float]:
    """How many times as long a slice takes the small network at 2 pixels a cell as at 4, in float32, by turns."""
    spec, slab = DeviceSpec(bench.spec.device, torch.float32), bench.slab(bench.slices)
    took = {2: float("inf"), 4: float("inf")}
    for _ in range(3):
        for stride in took:
            settings = settings_of("small", (f"generator.stride={stride}",))
            model, batch = model_of(settings, spec), slices_at_once(spec)

            def run(model: Generator = model, settings: Settings = settings, batch: AutoBatchSize = batch) -> None:
                for maps in volume_maps(model, slab, settings, spec, batch):
                    best_peaks(maps, PEAKS_PER_SLICE, settings.generator.stride)

            took[stride] = min(took[stride], bench.seconds(run, run, 1))
    return {"times_as_long": took[2] / took[4]} | {
        f"ms_per_slice_stride_{stride}": 1000 * seconds / bench.slices for stride, seconds in took.items()
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
    results["finer"] = finer(bench)
    print(f"finer cells, small: {row(results['finer'])}", flush=True)
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
