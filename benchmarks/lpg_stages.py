"""Where a volume's time goes, from the store to scored tubelets: stage by stage, and as an actor does it (lpg.py)."""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from harvester.classifier.crops import cut, in_windows, load_views
from harvester.classifier.inference import classify, crops_at_once
from harvester.classifier.inference import prepare_for_inference as prepare_classifier
from harvester.classifier.network import Classifier
from harvester.classifier.views import STREAMS, pixels
from harvester.config.settings import Settings
from harvester.imaging.body_mask import BODY_HU, body_mask, coarse_step
from harvester.proposals.decoding import above, best_peaks
from harvester.proposals.detect import Boxes, slices_at_once
from harvester.proposals.inference import Proposals, read_with_context, tubelet_rows
from harvester.proposals.network import CONTEXT, group_images
from harvester.store.slab import GridFrame, read_pixels
from harvester.store.store import Store

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.lpg_bench import Bench, joined, made_store, model_of, settings_of, volume_maps


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
    scores, boxes = best_peaks(maps, own.top_k, own.stride)
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
        "peaks": bench.seconds(lambda: above(*best_peaks(maps, own.top_k, own.stride), own.score_floor)),
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
    views = load_views(store.path, frame, best, settings.classifier, spec.device)
    torch.manual_seed(0)
    model = prepare_classifier(Classifier(settings.classifier, settings.grid), spec)

    def crops() -> None:
        for name in STREAMS:
            squares, side = views.squares[name], pixels(name, settings.classifier)
            for start in range(0, len(squares), size):
                hu = cut(views.hu_zyx, squares[start : start + size], side)
                in_windows(hu, settings.grid.windows_hu)

    batch = crops_at_once(spec)
    size = batch.size
    cutting = bench.seconds(crops)
    whole = bench.seconds(lambda: classify(model, views, settings, spec, batch))
    return {
        "read again": bench.seconds(lambda: load_views(store.path, frame, best, settings.classifier, spec.device)),
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
