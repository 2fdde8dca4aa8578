"""A process that finds boxes in less memory than it asks for: python tests/model/little_memory.py MIB [MIB ...]

First in batches of 2 with all the memory there is; then, for each MIB, in batches of 64 slices with so many MiB more
than the process holds. Prints what it logs, and `same boxes` where nothing else came out.
"""

import logging
import resource
import sys
from pathlib import Path

import numpy as np
import torch

from harvester.config.models import GeneratorSettings, GridSettings
from harvester.config.settings import Settings
from harvester.models.batch_size import AutoBatchSize
from harvester.models.device import DeviceSpec
from harvester.proposals.detect import Boxes, find_boxes, prepare_for_inference
from harvester.proposals.network import CONTEXT, Generator
from harvester.store.slab import GridFrame

GRID = GridSettings(windows_hu=((-1024.0, 1024.0),))
SETTINGS = Settings(grid=GRID, generator=GeneratorSettings(body_mask=False, score_floor=0.02, top_k=5, stride=4))
SPEC = DeviceSpec(torch.device("cpu"), torch.float32)
DEPTH = 64


def main(*mib: str) -> None:
    """Find, limit, find again."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = prepare_for_inference(Generator(SETTINGS.generator, GRID), SPEC)
    slab = torch.randint(-900, 900, (DEPTH + 2 * CONTEXT, 256, 256), dtype=torch.int16)
    frame = GridFrame("v", (DEPTH, 256, 256), (2.0, 1.0, 1.0), (2.0, 1.0, 1.0))
    free = find_boxes([model], slab, frame, SETTINGS, SPEC, AutoBatchSize("slices", 2))
    for each in mib:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + int(each) * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
        tight = find_boxes([model], slab, frame, SETTINGS, SPEC, AutoBatchSize("slices", DEPTH))
        print("same boxes" if same(tight, free) else "other boxes", flush=True)


def same(tight: Boxes, free: Boxes) -> bool:
    """Equal but for rounding, and no empty answer."""
    return (
        len(free.z) > 100
        and np.array_equal(tight.z, free.z)
        and bool(abs(tight.boxes_xyxy - free.boxes_xyxy).max() < 1e-3)
        and bool(abs(tight.scores - free.scores).max() < 1e-5)
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
