"""What each stage of finished runs is worth on V_H^test, round by round, with intervals by patient.

    python benchmarks/stages.py RUN [RUN ...] [--vm] [--json FILE]

Per run and round: sensitivity of the generator (LPG) at 1, 4 and 16 false positives a volume, on unmarked lesions; AP
of LPG and of the classifier (LPC); recall where the realised precision is 0.90 (the farthest point of the ranking with
at least that, hindsight) of both, and of the score that the loop selects by ("fused": both, over all rounds so
far); and LPC - LPG and what each AP gained over the round before, paired. Of several runs (other seeds) also mean and
spread. Runs are scored against the truth of their stores; nothing here is chosen by it. --vm: the same of V_M, out of
fold, to choose settings by ("fused" is then flattered: its gates were found there).
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from harvester.certificate.selection import Calibration
from harvester.cli.places import run_folder
from harvester.evaluation.bootstrap import Patients, draw_patients, interval, resample
from harvester.evaluation.curves import average_precision, precision_recall, sensitivity_at
from harvester.evaluation.matching import Hits, hits, overlaps
from harvester.mining.candidates import candidates, split_of
from harvester.mining.fusion import fuse, fusions
from harvester.mining.round_view import RoundView, StoreTables
from harvester.records import PooledTable, Split
from harvester.results.scored import last_round, scored_rounds
from harvester.results.truth import FP_RATES, TruthEvaluator
from harvester.run.folder import settings_of, store_of
from harvester.storage.location import Location

PRECISION: Final = 0.90
RESAMPLES: Final = 2000
STAGES: Final = {"lpg": "lpg_score", "lpc": "lpc_score", "fused": "fused"}
NO_RECALLS: Final = np.zeros(0)


def main() -> None:
    """Score and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--store", help="the runs' store, where it is not their own")
    parser.add_argument("--vm", action="store_true", help="V_M's lesions, out of fold, in place of V_H^test's")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    every: dict[str, list[dict[str, Any]]] = {}
    for name in options.runs:
        every[name] = rounds_of(run_folder(name), options.store, options.vm)
        for k, row in enumerate(every[name]):
            print(f"{name} round {k}: {said(row)}")
    if len(every) > 1:
        for k in range(min(map(len, every.values()))):
            print(f"all {len(every)} runs, round {k}: {over_runs([rows[k] for rows in every.values()])}")
    if options.json:
        options.json.write_text(json.dumps(every, indent=1))


def rounds_of(folder: Location, at: str | None, on_vm: bool) -> list[dict[str, Any]]:
    """The figures of each scored round."""
    settings = settings_of(folder)
    store = store_of(folder, settings, at)
    view = RoundView((), StoreTables.of(store, settings), settings)
    split = Split.VM if on_vm else Split.VH_TEST
    rows: list[dict[str, Any]] = []
    before: dict[str, tuple[float, Any]] = {}
    for scored in (each.whole() for each in scored_rounds(folder, last_round(folder))):
        view = view.then(scored)
        row, aps = of_round(view, *asked(view, TruthEvaluator(store, settings), split), split)
        rows.append(row | {f"{name}_ap_gained": less(aps[name], before[name]) for name in before})
        before = aps
    return rows


def asked(view: RoundView, truth: TruthEvaluator, split: Split) -> tuple[pa.Table, pa.Table]:
    """The split's tubelets with the score that the loop selects by, and the lesions that they should find."""
    calibration = Calibration.of(view)
    fusion = max(fusions(view.settings.operating_point), key=calibration.known_recall)

    def fused(tubelets: PooledTable) -> pa.Table:
        return tubelets.append_column("fused", pa.array(fuse(tubelets, fusion)))

    if split == Split.VM:
        return fused(view.calibration), view.targets
    mine = split_of(view.tubelets, truth.manifest, split)
    return fused(candidates(mine, truth.known_places, view.settings.mining)), truth.lesions


def of_round(
    view: RoundView, mine: pa.Table, lesions: pa.Table, split: Split
) -> tuple[dict[str, Any], dict[str, tuple[float, Any]]]:
    """Figures by name, with intervals, and LPC less LPG, resampled alike; AP of each stage and its resamples."""
    manifest = [row for row in view.store.manifest.to_pylist() if row["split"] == split]
    patients = patients_of(manifest, mine, lesions)
    draws = draw_patients(patients.count, RESAMPLES, 0)
    pairs = overlaps(mine, lesions)
    row: dict[str, Any] = {}
    aps: dict[str, tuple[float, Any]] = {}
    row["lesions"], row["volumes"], row["patients"] = len(lesions), len(manifest), patients.count
    for stage, column in STAGES.items():
        found = hits(pairs, mine[column].to_numpy(), len(lesions), view.settings.operating_point.match_iou)
        figures = resample(found, patients, draws, np.array(FP_RATES), False, NO_RECALLS)
        aps[stage] = average_precision(found), figures["ap"]
        row[f"{stage}_ap"] = with_interval(*aps[stage])
        row[f"{stage}_recall_at_precision_{PRECISION:g}"] = recall_at(found)
        for rate, value, sampled in zip(
            FP_RATES, sensitivity_at(found, FP_RATES, len(manifest)), figures["sensitivity"].T, strict=True
        ):
            row[f"{stage}_at_{rate:g}"] = with_interval(float(value), sampled)
    row["lpc_ap_less_lpg_ap"] = less(aps["lpc"], aps["lpg"])
    return row, aps


def less(one: tuple[float, Any], other: tuple[float, Any]) -> dict[str, float]:
    """The difference of two figures that were resampled alike."""
    return with_interval(one[0] - other[0], one[1] - other[1])


def patients_of(manifest: list[dict[str, Any]], mine: pa.Table, lesions: pa.Table) -> Patients:
    """Numbers of the split's patients."""
    of = {row["volume_id"]: row["patient_id"] for row in manifest}
    number = {patient: at for at, patient in enumerate(sorted(set(of.values())))}
    numbers = [
        np.array([number[of[volume]] for volume in volumes], np.int64)
        for volumes in (mine["volume_id"].to_pylist(), lesions["volume_id"].to_pylist(), list(of))
    ]
    return Patients(numbers[0], numbers[1], numbers[2], len(number))


def recall_at(found: Hits) -> float:
    """The highest recall at which the precision is PRECISION or more; 0 where it nowhere is."""
    curve = precision_recall(found)
    enough = curve.recall[curve.precision >= PRECISION]
    return float(enough.max(initial=0.0))


def with_interval(value: float, sampled: Any) -> dict[str, float]:
    """A figure and its 95 % interval."""
    low, high = interval(sampled)
    return {"value": round(value, 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def said(row: Mapping[str, Any]) -> str:
    """A round in one line."""
    parts = []
    for name, value in row.items():
        if isinstance(value, dict):
            parts.append(f"{name} {value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]")
        else:
            parts.append(f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}")
    return "; ".join(parts)


def over_runs(rows: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over runs of each figure."""
    parts = []
    for name, first in rows[0].items():
        values = [row[name]["value"] if isinstance(first, dict) else float(row[name]) for row in rows]
        parts.append(f"{name} {np.mean(values):.3f} +- {np.std(values, ddof=1):.3f}")
    return "; ".join(parts)


if __name__ == "__main__":
    main()
