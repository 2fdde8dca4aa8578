"""python benchmarks/insertion_pictures.py --out DIR: twenty inserted lesions, three slices each.

Look at them before you trust a certificate: lesions must neither jump out nor be invisible. One row a lesion:
the slices before, at and after its key slice, the key slice again with its box, and that whole slice. Lung
window for nodules, soft-tissue window for the rest. Needs the scans of $HARVESTER_DATA (or ../shared/data).
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from harvester.config.data import InsertionSettings
from harvester.datasets.insertion.backgrounds import Background, load_background_volume, load_backgrounds
from harvester.datasets.insertion.insertion import make, plan
from harvester.records import Mark, Volume

REPO = Path(__file__).parents[1]
WINDOWS = {"lung": (-1350, 150), "soft": (-160, 240)}
HALF_PX = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--lesions", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backgrounds", nargs="*", default=[], help="ids; all if none")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    data = Path(os.environ.get("HARVESTER_DATA", REPO.parent / "shared" / "data"))
    settings = InsertionSettings(backgrounds=str(REPO / "configs" / "backgrounds.yaml"))
    listed = load_backgrounds(settings, data)
    chosen = [b for b in listed if b.role != "held_out" and (not args.backgrounds or b.id in args.backgrounds)]
    per_background = -(-args.lesions // len(chosen))
    picked = [pair for b in chosen for pair in lesions_of(b, listed, settings, args.seed, per_background)]
    for start in range(0, min(len(picked), args.lesions), 10):
        file = args.out / f"inserted_{start:02d}.png"
        draw(picked[start : min(start + 10, args.lesions)], file)
        print(file)


def lesions_of(
    background: Background, listed: list[Background], settings: InsertionSettings, seed: int, count: int
) -> list[tuple[str, Volume, Mark]]:
    """The first lesions made in a background, of as many kinds as come."""
    start = time.perf_counter()
    prepared = load_background_volume(background)
    ready = time.perf_counter() - start
    found: dict[str, list[tuple[str, Volume, Mark]]] = {}
    cases = [case for case in plan(settings, listed) if case.background_id == background.id][:6]
    start = time.perf_counter()
    for case in cases:
        volume, marks, _ = make(settings, prepared, case, seed)
        for mark in marks:
            found.setdefault(mark.kind, []).append((background.id, volume, mark))
    each = (time.perf_counter() - start) / len(cases)
    kinds = {kind: len(rows) for kind, rows in found.items()}
    print(f"{background.id}: prepared in {ready:.1f} s, {each:.2f} s a volume, {volume.hu_zyx.shape}, {kinds}")
    turns = [rows[n] for n in range(count) for rows in found.values() if n < len(rows)]
    return turns[:count]


def draw(rows: list[tuple[str, Volume, Mark]], file: Path) -> None:
    figure, axes = plt.subplots(len(rows), 5, figsize=(13, 2.5 * len(rows)), squeeze=False)
    for line, (background, volume, mark) in zip(axes, rows, strict=True):
        low, high = WINDOWS["lung" if mark.kind == "nodule" else "soft"]
        y, x = round((mark.y1 + mark.y2) / 2), round((mark.x1 + mark.x2) / 2)
        for axis, z in zip(line, (mark.z - 1, mark.z, mark.z + 1, mark.z, mark.z), strict=True):
            plane = volume.hu_zyx[min(max(z, 0), len(volume.hu_zyx) - 1)]
            shown: NDArray[Any] = plane if axis is line[4] else around(plane, y, x)
            axis.imshow(shown, cmap="gray", vmin=low, vmax=high, interpolation="bilinear")
            axis.axis("off")
        box = (mark.x1 - x + HALF_PX, mark.y1 - y + HALF_PX)
        size = (mark.x2 - mark.x1, mark.y2 - mark.y1)
        line[3].add_patch(Rectangle(box, *size, fill=False, color="lime" if mark.clinical else "cyan", lw=0.8))
        line[0].set_title(f"{background} {mark.kind} {size[0] * 1.6 - 6.4:.0f} mm", fontsize=7)
    figure.tight_layout(pad=0.2)
    figure.savefig(file, dpi=80)
    plt.close(figure)


def around(plane: NDArray[np.int16], y: int, x: int) -> NDArray[np.int16]:
    padded = np.pad(plane, HALF_PX, constant_values=-1024)
    return padded[y : y + 2 * HALF_PX, x : x + 2 * HALF_PX]


if __name__ == "__main__":
    main()
