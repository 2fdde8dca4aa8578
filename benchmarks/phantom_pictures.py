"""Contact sheets of phantom lesions and of distractors: three slices each, the box on the key slice.

python benchmarks/phantom_pictures.py --out DIR [--config configs/quickstart.yaml] [--seed N] [--count 20]
"""

import argparse
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from harvester.config.loading import resolve
from harvester.config.settings import Settings
from harvester.datasets.phantom.phantom import make, plan
from harvester.records import Volume

HALF_PX = 40
IN_LUNG = ("nodule", "lung_vessel", "rib_end", "dome")
LUNG_WINDOW, SOFT_WINDOW = (-1350, 150), (-160, 240)


def main() -> None:
    """Draw volumes until there are enough of both, at most three of each from one volume."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, help="whose phantoms; without it, the defaults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=20)
    options = parser.parse_args()
    settings = resolve(options.config, [])
    options.out.mkdir(parents=True, exist_ok=True)
    lesions, distractors = collect(settings, options.count, options.seed)
    contact_sheet(lesions, options.out / "lesions.png", "lime")
    contact_sheet(distractors, options.out / "distractors.png", "orange")
    whole_slices(lesions, options.out / "slices.png")


def collect(
    chosen: Settings, count: int, seed: int
) -> tuple[list[tuple[Volume, dict[str, Any]]], list[tuple[Volume, dict[str, Any]]]]:
    """`count` lesions and `count` distractors, each with its volume."""
    settings, spacing = chosen.data.phantom, chosen.grid.spacing_zyx_mm
    lesions: list[tuple[Volume, dict[str, Any]]] = []
    distractors: list[tuple[Volume, dict[str, Any]]] = []
    for case in plan(settings)[:: settings.volumes_per_patient]:
        volume, marks, others = make(settings, spacing, case, seed)
        lesions += [(volume, vars(mark)) for mark in marks[:3]]
        distractors += [(volume, other) for other in others[:3]]
        if min(len(lesions), len(distractors)) >= count:
            break
    return lesions[:count], distractors[:count]


def contact_sheet(found: list[tuple[Volume, dict[str, Any]]], file: Path, colour: str) -> None:
    """Four findings a row, the slice below, the key slice and the slice above side by side."""
    rows = -(-len(found) // 4)
    figure, axes = plt.subplots(rows, 12, figsize=(24, 2.1 * rows), squeeze=False)
    for axis in axes.ravel():
        axis.axis("off")
    for i, (volume, one) in enumerate(found):
        for k, step in enumerate((-2, 0, 2)):
            axis = axes[i // 4, 3 * (i % 4) + k]
            draw(axis, volume, one, step, colour if step == 0 else None)
            axis.set_title(f"{one['kind']} {step:+d}" if k else one["kind"], fontsize=8)
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.97, 0.03, 0.12)
    figure.savefig(file, dpi=70)
    plt.close(figure)


def draw(axis: Any, volume: Volume, one: dict[str, Any], step: int, colour: str | None) -> None:
    """One slice around a finding, in the window for its kind."""
    z = min(max(one["z"] + step, 0), volume.hu_zyx.shape[0] - 1)
    x, y = int((one["x1"] + one["x2"]) / 2), int((one["y1"] + one["y2"]) / 2)
    low, high = LUNG_WINDOW if one["kind"] in IN_LUNG else SOFT_WINDOW
    axis.imshow(volume.hu_zyx[z], cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    axis.set_xlim(x - HALF_PX, x + HALF_PX)
    axis.set_ylim(y + HALF_PX, y - HALF_PX)
    if colour:
        corner, width, height = (one["x1"], one["y1"]), one["x2"] - one["x1"], one["y2"] - one["y1"]
        axis.add_patch(plt.Rectangle(corner, width, height, fill=False, ec=colour, lw=0.8))


def whole_slices(found: list[tuple[Volume, dict[str, Any]]], file: Path) -> None:
    """Twelve whole slices without boxes, in the soft-tissue window: they should look like torsos."""
    distinct = list({volume.volume_id: (volume, one) for volume, one in found}.values())[:12]
    figure, axes = plt.subplots(3, 4, figsize=(24, 16))
    for axis, (volume, one) in zip(axes.ravel(), distinct, strict=False):
        axis.imshow(volume.hu_zyx[one["z"]], cmap="gray", vmin=SOFT_WINDOW[0], vmax=SOFT_WINDOW[1])
    for axis in axes.ravel():
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(file, dpi=60)
    plt.close(figure)


if __name__ == "__main__":
    main()
