"""Which overlap on one slice agrees best with true 3D IoU: what the evaluators' rules are worth.

    HARVESTER_DATA=... python benchmarks/p3d_iou.py [--json FILE] [--volumes 40] [--seed 0]

A mark is one box on its key slice; a detection is a box on each slice that it has. True 3D IoU needs the lesion's boxes
on all slices: of the 874 lesions of 3D-Box.pkl (ellipsoids that fill their 3D boxes, slices of 1 to 5 mm as given) and
of lesions inserted into real CT (their own voxels). Detections are the true boxes moved and scaled at random, in the
plane (by up to 30 % of the side) and along z (cut or grown at the ends), so that all overlaps occur.

Compared, each with the mark's box on the key slice:
  key-slice IoU   IoU with the detection's own best slice, its largest, wherever that lies: how a detector that gives
                  one box per lesion is scored
  IoBB            intersection over the detection's box on the mark's slice (LENS' rule)
  P3D IoU         IoU with the detection's box on the mark's slice, 0 where it has none (Lesion Harvester's rule)
Printed: rank correlation with true 3D IoU, and how often "overlap >= 0.5" says the same as "true 3D IoU >= T" for the
T at which each rule agrees most, and at T = 0.3.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy.stats import spearmanr

from harvester.config.data import InsertionSettings
from harvester.datasets.insertion import insertion
from harvester.datasets.insertion.backgrounds import load_background_volume, load_backgrounds
from harvester.datasets.insertion.placement import insert_lesions
from harvester.geometry import box_areas, intersections
from harvester.labels.deeplesion.published_tubelets import read_published_boxes3d

Boxes = dict[int, np.ndarray]
"""A lesion's or a detection's box on each of its slices, inclusive ends."""
MOVES: Final = 0.15
"""Standard deviation of what a detection is moved and scaled by, in sides."""
DETECTIONS: Final = 8
"""Of each lesion."""
HIT: Final = 0.5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", type=int, default=40, help="with inserted lesions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    data = Path(os.environ["HARVESTER_DATA"])
    sources = {
        "3D-Box.pkl": list(published(data / "deeplesion" / "3D-Box.pkl")),
        "inserted into real CT": list(inserted(data, options.volumes, options.seed)),
    }
    every = {}
    for name, lesions in sources.items():
        every[name] = figures = compared(lesions, np.random.default_rng(options.seed))
        print(f"{name}: {figures['lesions']} lesions, {figures['detections']} detections")
        for rule in RULES:
            row = figures[rule]
            print(
                f"  {rule:14} rank correlation {row['spearman']:.3f}; agrees in {row['agreement']:.3f} "
                f"(3D IoU >= {row['at']:.2f}), in {row['agreement_at_0.3']:.3f} (>= 0.30)"
            )
    if options.json:
        options.json.write_text(json.dumps(every, indent=1) + "\n")


def published(file: Path) -> Iterator[Boxes]:
    """Ellipsoids that fill the published 3D boxes."""
    for row in read_published_boxes3d(file).table.to_pylist():
        yield ellipsoid(np.array([row[side] for side in ("x1", "y1", "x2", "y2")]), row["z1"], row["z2"])


def ellipsoid(box: np.ndarray, z1: float, z2: float) -> Boxes:
    """Its boxes slice by slice."""
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2] + 1) / 2
    middle, reach = (z1 + z2) / 2, (z2 - z1 + 1) / 2
    boxes = {}
    for z in range(int(z1), int(z2) + 1):
        sides = half * np.sqrt(max(0.0, 1 - ((z - middle) / reach) ** 2))
        boxes[z] = np.concatenate([centre - sides, centre + sides - 1])
    return boxes


def inserted(data: Path, volumes: int, seed: int) -> Iterator[Boxes]:
    """The extents of inserted lesions, slice by slice."""
    settings = InsertionSettings(vm_volumes=volumes, vh_test_volumes=0)
    kept: list[Any] = []

    def watched(target: Any) -> None:
        insert_lesions(target)
        kept.extend(target.inserted)

    insertion.insert_lesions = watched  # type: ignore[attr-defined]  # make gives marks alone
    backgrounds = {each.id: each for each in load_backgrounds(settings, data)}
    for case in insertion.plan(settings, list(backgrounds.values())):
        insertion.make(settings, load_background_volume(backgrounds[case.background_id]), case, seed)
    for lesion in kept:
        z0, y0, x0 = lesion.place_zyx
        boxes = {}
        for at, plane in enumerate(lesion.voxels):
            rows, columns = np.nonzero(plane)
            if len(rows):
                boxes[z0 + at] = np.array(
                    [x0 + columns.min(), y0 + rows.min(), x0 + columns.max(), y0 + rows.max()], float
                )
        yield boxes


def compared(lesions: list[Boxes], rng: np.random.Generator) -> dict[str, Any]:
    """Each rule beside true 3D IoU."""
    pairs = [(lesion, detected(lesion, rng)) for lesion in lesions for _ in range(DETECTIONS)]
    true = np.array([iou_3d(lesion, found) for lesion, found in pairs])
    figures: dict[str, Any] = {"lesions": len(lesions), "detections": len(pairs)}
    for name, rule in RULES.items():
        values = np.array([rule(lesion, found) for lesion, found in pairs])
        cuts = np.linspace(0.05, 0.95, 91)
        agreement = [float(np.mean((values >= HIT) == (true >= cut))) for cut in cuts]
        best = int(np.argmax(agreement))
        figures[name] = {
            "spearman": float(spearmanr(values, true).statistic),
            "agreement": agreement[best],
            "at": float(cuts[best]),
            "agreement_at_0.3": float(np.mean((values >= HIT) == (true >= 0.3))),
        }
    return figures


def detected(lesion: Boxes, rng: np.random.Generator) -> Boxes:
    """The lesion as a detector might find it: all boxes moved and scaled alike, slices gone or added at its ends."""
    spread = rng.choice([0.5, 1.0, 2.0]) * MOVES
    first, last = min(lesion), max(lesion)
    reach = max(1.0, spread * (last - first + 1))
    ends = np.rint(np.array([first, last]) + rng.normal(0, reach, 2)).astype(int)
    shift, scale = rng.normal(0, spread, 2), np.exp(rng.normal(0, spread, 2))
    z1, z2 = min(ends), max(ends)
    key = lesion[key_slice(lesion)]
    boxes = {}
    for z in range(z1, z2 + 1):
        own = lesion[min(max(z, first), last)]
        side = own[2:] - own[:2] + 1
        centre = (own[:2] + own[2:]) / 2 + shift * (key[2:] - key[:2] + 1)
        boxes[z] = np.concatenate([centre - (side * scale - 1) / 2, centre + (side * scale - 1) / 2])
    return boxes


def key_slice(boxes: Boxes) -> int:
    """That of the largest box."""
    return max(boxes, key=lambda z: float(box_areas(boxes[z])))


def iou_3d(one: Boxes, other: Boxes) -> float:
    """Intersections summed over shared slices / (all areas - intersections)."""
    shared = sum(float(intersections(one[z], other[z])) for z in one.keys() & other.keys())
    areas = sum(float(box_areas(box)) for boxes in (one, other) for box in boxes.values())
    return shared / (areas - shared)


def overlap(mark: np.ndarray, box: np.ndarray, of_box: bool = False) -> float:
    """IoU of two boxes, or the intersection's share of the second."""
    shared, area = float(intersections(mark, box)), float(box_areas(box))
    return shared / (area if of_box else area + float(box_areas(mark)) - shared)


def key_slice_iou(lesion: Boxes, found: Boxes) -> float:
    """See above."""
    return overlap(lesion[key_slice(lesion)], found[key_slice(found)])


def iobb(lesion: Boxes, found: Boxes) -> float:
    """See above."""
    z = key_slice(lesion)
    return overlap(lesion[z], found[z], of_box=True) if z in found else 0.0


def p3d_iou(lesion: Boxes, found: Boxes) -> float:
    """See above."""
    z = key_slice(lesion)
    return overlap(lesion[z], found[z]) if z in found else 0.0


RULES: Final[dict[str, Callable[[Boxes, Boxes], float]]] = {
    "key-slice IoU": key_slice_iou,
    "IoBB": iobb,
    "P3D IoU": p3d_iou,
}

if __name__ == "__main__":
    main()
