"""What it brings that a peak's score counts the heat of the cells near by (proposals/decoding.py, shared_heat).

    python benchmarks/shared_heat.py RUN [--every 7] [--background 1 0.4 0.3 0.25 0.2]

V_M's volumes of a run or a pretraining (every so-many-th) are proposed for again by round 0's generators that have not
seen their patients, once per value of BACKGROUND: heat above it counts, and above 1 there is none (each peak's own cell
alone). Prints AP and sensitivity at 1, 4 and 16 false positives a volume, of all lesions and by their size in mm.
"""

import argparse
from itertools import pairwise
from typing import Any, Final
from unittest.mock import patch

import numpy as np
import pyarrow as pa

from harvester.cli.places import run_folder
from harvester.evaluation.curves import average_precision, sensitivity_at
from harvester.evaluation.matching import Hits, hits, overlaps
from harvester.models.device import DeviceSpec
from harvester.proposals import decoding
from harvester.proposals.inference import Proposals
from harvester.records import Split
from harvester.results.truth import FP_RATES
from harvester.run.folder import Run, settings_of, store_of
from harvester.storage.location import Location
from harvester.store.slab import GridFrame
from harvester.store.store import Store

SIZES_MM: Final = (0.0, 20.0, 40.0, 1000.0)


def main() -> None:
    """Propose once per value, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--store", help="the run's store, where it is not its own")
    parser.add_argument("--every", type=int, default=7, help="of so many volumes one")
    parser.add_argument("--background", type=float, nargs="+", default=[1.0, 0.4, 0.3, 0.25, 0.2])
    options = parser.parse_args()
    folder = run_folder(options.run)
    settings = settings_of(folder)
    store = store_of(folder, settings, options.store)
    rows = [row for row in store.manifest.to_pylist() if row["split"] == Split.VM][:: options.every]
    lesions = lesions_of(store, {row["volume_id"] for row in rows})
    sizes = longest_mm(lesions, {row["volume_id"]: row for row in rows})
    run = Run(folder, settings, store)
    for background in options.background:
        with patch.object(decoding, "BACKGROUND", background):
            found = proposed(run, rows)
        matched = hits(overlaps(found, lesions), found["lpg_score"].to_numpy(), len(lesions), 0.5)
        print(f"background {background:g}: {said(matched, sizes, len(rows))}", flush=True)


def lesions_of(store: Store, volumes: set[str]) -> Any:
    """The marks of these volumes."""
    marks = store.marks()
    return marks.filter(pa.array([name in volumes for name in marks["volume_id"].to_pylist()]))


def longest_mm(lesions: Any, manifest: dict[str, dict[str, Any]]) -> Any:
    """(n,) longest side of each mark."""
    rows = lesions.to_pylist()
    return np.array(
        [
            max(row["x2"] - row["x1"] + 1, row["y2"] - row["y1"] + 1) * manifest[row["volume_id"]]["spacing_x_mm"]
            for row in rows
        ]
    )


def proposed(run: Run, rows: list[dict[str, Any]]) -> pa.Table:
    """Tubelets of volumes, each from the generator that has not seen its patient."""
    weights = fitted(run.folder / "round-0")
    proposals = Proposals(run.settings, run.store.path, DeviceSpec.choose(False, run.settings.compute.precision))
    tasks = [
        (GridFrame.of(row, run.settings.grid), [weights / f"fold-{run.folds[row['patient_id']]}.safetensors"])
        for row in rows
    ]
    found: list[dict[str, Any]] = []
    for work, row in zip(proposals.over(tasks), rows, strict=True):
        found += [{"patient_id": row["patient_id"], **tubelet} for tubelet in work()]
    return pa.Table.from_pylist(found)


def fitted(folder: Location) -> Location:
    """The round's generators."""
    return next(folder / name for name in folder.folders() if name.startswith("generator-"))


def said(matched: Hits, sizes_mm: Any, volumes: int) -> str:
    """AP and sensitivities; by size: of the lesions of that size, at the same thresholds."""
    parts = [f"AP {average_precision(matched):.3f}"]
    wrong = np.cumsum(~matched.correct[matched.order])
    place = np.empty(len(matched.order), np.int64)
    place[matched.order] = np.arange(len(matched.order))
    by = matched.mark_hit_by
    for rate, whole in zip(FP_RATES, sensitivity_at(matched, FP_RATES, volumes), strict=True):
        last = np.searchsorted(wrong, rate * volumes, side="right")
        hit = (by >= 0) & (place[np.maximum(by, 0)] < last)
        of_size = [
            f"{low:g} to {high:g} mm {hit[some].mean():.2f} of {some.sum()}"
            for low, high in pairwise(SIZES_MM)
            if (some := (sizes_mm >= low) & (sizes_mm < high)).any()
        ]
        parts.append(f"at {rate:g} {whole:.3f} ({', '.join(of_size)})")
    return "; ".join(parts)


if __name__ == "__main__":
    main()
