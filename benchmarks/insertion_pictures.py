"""python benchmarks/insertion_pictures.py --out DIR: inserted lesions of every kind, and real ones beside them.

Look at them before you trust a certificate: lesions must neither jump out nor be invisible. A picture a kind, a
row a lesion: its key slice before and after, the slices beside it, the key slice with its box, and that slice
whole; each of the first five 100 mm wide (150 for masses). `real.png` has annotated lesions of the scans'
own in the same manner. Needs the scans of $HARVESTER_DATA (or ../shared/data). Prints seconds and kinds.
"""

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy import ndimage

from harvester.config.data import InsertionSettings, LesionKind
from harvester.datasets.insertion.backgrounds import Background, Prepared, load_background_volume, load_backgrounds
from harvester.datasets.insertion.insertion import InsertionCase, make
from harvester.imaging.nifti.reader import read_nifti

REPO = Path(__file__).parents[1]
WINDOWS = {"lung": (-1350, 150), "soft": (-160, 240), "bone": (-300, 1000)}
LUNG_KINDS = ("nodule", "part_solid", "ground_glass", "cavitary", "calcified")


@dataclass(frozen=True, eq=False)
class Shown:
    """A lesion to be drawn: the image without and with it, its slice and box, and what it is."""

    title: str
    kind: str
    before: NDArray[Any]
    after: NDArray[Any]
    z: int
    box: tuple[float, float, float, float]
    spacing: tuple[float, float, float]


def main() -> None:
    """Draw rows for each kind, from several backgrounds, and the real lesions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=8, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=[*get_args(LesionKind), "real"])
    parser.add_argument("--backgrounds", nargs="*", default=[], help="ids; all if none")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    data = Path(os.environ.get("HARVESTER_DATA", REPO.parent / "shared" / "data"))
    listed = load_backgrounds(InsertionSettings(backgrounds=str(REPO / "configs" / "backgrounds.yaml")), data)
    found: dict[str, list[Shown]] = {kind: [] for kind in args.kinds}
    for background in listed:
        if background.role == "held_out" or (args.backgrounds and background.id not in args.backgrounds):
            continue
        start = time.perf_counter()
        prepared = load_background_volume(background)
        ready, start, per_background = time.perf_counter() - start, time.perf_counter(), 1 + args.rows // 4
        for kind in found:
            found[kind] += (
                real(background, prepared) if kind == "real" else inserted(prepared, kind, args.seed)[:per_background]
            )
        kinds = {kind: len(rows) for kind, rows in found.items()}
        print(
            f"{background.id}: ready in {ready:.1f} s, drawn in {time.perf_counter() - start:.1f} s, {kinds}",
            flush=True,
        )
    for kind, rows in found.items():
        if rows:
            spread = np.linspace(0, len(rows) - 1, min(args.rows, len(rows))).round().astype(int)
            draw([rows[n] for n in spread], args.out / f"{kind}.png")
            print(args.out / f"{kind}.png")


def inserted(prepared: Prepared, kind: str, seed: int) -> list[Shown]:
    """Lesions of one kind in a sub-volume or two."""
    settings = InsertionSettings(kind_weights={kind: 1.0}, lesions_per_volume=3)
    rows: list[Shown] = []
    for number in range(2):
        case = InsertionCase(f"in-{number:012x}", "p", prepared.background.id, "vm")
        # The draws before the lesions are the same, so is the sub-volume.
        bare, _, _ = make(settings.model_copy(update={"lesions_per_volume": 1e-9}), prepared, case, seed)
        volume, marks, _ = make(settings, prepared, case, seed)
        for mark in marks:
            across = (mark.x2 - mark.x1) * volume.spacing_zyx_mm[2] - 8
            title = f"{prepared.background.id} {mark.kind} {across:.0f} mm, slices of {volume.spacing_zyx_mm[0]:g} mm"
            box = (mark.x1, mark.y1, mark.x2, mark.y2)
            rows.append(Shown(title, kind, bare.hu_zyx, volume.hu_zyx, mark.z, box, volume.spacing_zyx_mm))
    return rows


def real(background: Background, prepared: Prepared) -> list[Shown]:
    """The largest annotated lesions of the background itself."""
    if background.mask is None:
        return []
    mask = read_nifti(background.mask, background.id, "p")
    labels, count = ndimage.label(mask.hu_zyx > 0, np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel())[1:]
    rows: list[Shown] = []
    for label in 1 + np.argsort(-sizes)[: min(count, 4)]:
        z = int((labels == label).sum(axis=(1, 2)).argmax())
        y, x = np.nonzero(labels[z] == label)
        across = (x.max() - x.min() + 1) * mask.spacing_zyx_mm[2]
        hu, box = prepared.volume.hu_zyx, (x.min() - 5, y.min() - 5, x.max() + 5, y.max() + 5)
        rows.append(Shown(f"{background.id} REAL {across:.0f} mm", "real", hu, hu, z, box, mask.spacing_zyx_mm))
    return rows


def draw(rows: list[Shown], file: Path) -> None:
    """One picture."""
    figure, axes = plt.subplots(len(rows), 6, figsize=(15, 2.6 * len(rows)), squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        x1, y1, x2, y2 = row.box
        y, x = round((y1 + y2) / 2), round((x1 + x2) / 2)
        half = round((75 if row.kind in ("mass", "real") else 50) / row.spacing[2])
        low, high = window(row, y, x)
        shown = [(row.before, row.z), (row.after, row.z), *((row.after, row.z + step) for step in (-1, 1, 0, 0))]
        for axis, (volume, z) in zip(line, shown, strict=True):
            plane = volume[min(max(z, 0), len(volume) - 1)]
            picture = plane if axis is line[5] else around(plane, y, x, half)
            aspect = row.spacing[1] / row.spacing[2]
            axis.imshow(picture, cmap="gray", vmin=low, vmax=high, interpolation="bilinear", aspect=aspect)
            axis.axis("off")
        line[4].add_patch(Rectangle((x1 - x + half, y1 - y + half), x2 - x1, y2 - y1, fill=False, color="lime", lw=0.8))
        line[5].add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color="lime", lw=0.6))
        line[0].set_title(row.title, fontsize=7)
    figure.tight_layout(pad=0.2)
    figure.savefig(file, dpi=75)
    plt.close(figure)


def window(row: Shown, y: int, x: int) -> tuple[int, int]:
    """That of the lesion's tissue: lung where its surroundings are lung before."""
    if row.kind.startswith("bone"):
        return WINDOWS["bone"]
    lung = row.kind in LUNG_KINDS or (around(row.before[row.z], y, x, 25) < -600).mean() > 0.3
    return WINDOWS["lung" if lung else "soft"]


def around(plane: NDArray[np.int16], y: int, x: int, half: int) -> NDArray[np.int16]:
    """A square of a slice, air beyond it."""
    padded = np.pad(plane, half, constant_values=-1024)
    return padded[y : y + 2 * half, x : x + 2 * half]


if __name__ == "__main__":
    main()
