"""The real tumour of lung_dx_a0001 through the generator of a finished run (real_ct): is it proposed, and where?

    python benchmarks/real_tumour.py --run runs/real_ct --out DIR

The scan's patient is in no fold, so the folds' answers are averaged. The score threshold is the one at which the run's
own proposals make 4 false positives a volume on V_H^test. A slice counts as proposed where a tubelet above it overlaps
the radiologist's box by IoU >= 0.5 (>= 0.1 is printed too). Prints figures, writes tumour.png with both boxes.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harvester.config.loading import resolve
from harvester.evaluation.curves import false_positives
from harvester.evaluation.matching import hits, overlaps
from harvester.geometry import iou_matrix
from harvester.imaging.dicom.reader import read_dicom_series
from harvester.mining import candidates
from harvester.models.device import DeviceSpec
from harvester.proposals.detect import find_boxes
from harvester.proposals.inference import load_generator, read_with_context, tubelet_rows
from harvester.records import TUBELETS
from harvester.results.truth import TruthEvaluator
from harvester.storage.location import Location
from harvester.store.slab import GridFrame
from harvester.store.store import Store, finish_store

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.builders import write_volume

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main() -> None:
    """Read, propose, compare, draw."""
    options = parse()
    settings = resolve(options.run / "settings.yaml")
    last = max(options.run.glob("round-*"), key=lambda folder: int(folder.name.split("-")[1]))
    weights = sorted(next(last.glob("generator-*/")).glob("fold-*.safetensors"))
    store = Store.open(options.store or options.run / "store")
    threshold = threshold_at(settings, store, pq.read_table(next(last.glob("tubelets-*.parquet"))), 4.0)
    data = Path(os.environ["HARVESTER_DATA"]) / "ct"
    volume = read_dicom_series(data / "lung_dx_a0001", "held-out", "held-out")
    row = write_volume(options.out / "store", volume, "vd_test", "")
    finish_store(options.out / "store", [row], [], [])
    spec = DeviceSpec.choose(False, settings.compute.precision)
    models = [load_generator(Location.of(file), settings, spec) for file in weights]
    frame = GridFrame.of(row, settings.grid)
    slab = read_with_context(Location.of(options.out / "store"), frame, spec)
    found = tubelet_rows(find_boxes(models, slab, frame, settings, spec), frame, settings)
    pq.write_table(pa.Table.from_pylist(found, TUBELETS), options.out / "tubelets.parquet")
    truth = json.loads((data / "lung_dx_a0001.boxes.json").read_text())
    boxes = truth["boxes"] if isinstance(truth, dict) else truth
    kept = [one for one in found if one["lpg_score"] >= threshold]
    best = {box["z"]: overlap(box, kept) for box in boxes}
    print(f"threshold at 4 FP a volume: {threshold:.3f}; tubelets above it in the scan: {len(kept)} of {len(found)}")
    for share in (0.5, 0.1):
        proposed = sum(iou >= share for iou in best.values())
        print(f"slices of the tumour proposed at IoU >= {share}: {proposed} of {len(best)}")
    draw(volume.hu_zyx, boxes, kept, options.out / "tumour.png")


def threshold_at(settings, store, tubelets, rate):
    """The generator score at which V_H^test's proposals make `rate` false positives a volume."""
    judge = TruthEvaluator(store, settings)
    mine = candidates.split_of(tubelets, store.manifest, "vh_test")
    mine = candidates.candidates(mine, judge.known_places, settings.mining)
    scored = hits(overlaps(mine, judge.lesions), mine["lpg_score"].to_numpy(), len(judge.lesions))
    per_volume = false_positives(scored, repeats=False) / judge.volumes
    return scored.scores[scored.order][np.searchsorted(per_volume, rate, side="right") - 1]


def overlap(box, tubelets):
    """Highest IoU of a radiologist's box with any tubelet's box on its slice."""
    ious = [0.0]
    for one in tubelets:
        for i, z in enumerate(one["z"]):
            if z == box["z"]:
                own = np.array([[one[side][i] for side in ("x1", "y1", "x2", "y2")]])
                ious.append(float(iou_matrix(own, np.array([box["box_xyxy"]], float))[0, 0]))
    return max(ious)


def draw(hu_zyx, boxes, tubelets, file):
    """Every slice of the tumour: the radiologist's box green, proposals blue."""
    figure, axes = plt.subplots(2, -(-len(boxes) // 2), figsize=(2.6 * -(-len(boxes) // 2), 5.4))
    for axis in axes.flat:
        axis.axis("off")
    for axis, box in zip(axes.flat, boxes, strict=False):
        axis.imshow(hu_zyx[box["z"]], cmap="gray", vmin=-1350, vmax=150)
        rows = [("lime", box["box_xyxy"])]
        for one in tubelets:
            rows += [
                ("deepskyblue", [one[side][i] for side in ("x1", "y1", "x2", "y2")])
                for i, z in enumerate(one["z"])
                if z == box["z"]
            ]
        for colour, (x1, y1, x2, y2) in rows:
            axis.add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=colour, lw=1))
        axis.set_title(f"slice {box['z']}", fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=90)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--store", type=Path, help="the run's store, if it is not in its folder")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
