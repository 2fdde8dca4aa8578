"""Real annotated lesions through a generator: how many does it propose, at how many false positives a scan?

    python benchmarks/real_lesions.py --run runs/real_ct --out DIR
    python benchmarks/real_lesions.py --config real_ct --weights FILE [FILE ..]

The lesions are those of real_scans.py. Of a run, each patient is proposed by the models of the fold that did not see
it, one in no fold by all of them (their mean); what other weights saw is for their giver to know. A lesion is found
where a tubelet's box on its key slice has IoU >= 0.5 with it; loosely where it has 0.3, or the middle of the tubelet's
best box lies in the lesion's box of that slice.

False positives are those of whole scans, outside what configs/backgrounds.yaml avoids and 10 mm round the lesions; the
crops round sarcomas give lesions alone. A whole scan is three to four times as long as a sub-volume of real_ct.
--out writes hits.png, misses.png (at 4 false positives a scan) and tubelets.parquet.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from harvester.config.data import InsertionSettings
from harvester.config.loading import resolve
from harvester.config.settings import Settings
from harvester.config.shipped import named
from harvester.datasets.insertion.backgrounds import load_backgrounds
from harvester.evaluation.bootstrap import Patients, draw_patients, interval, resample
from harvester.evaluation.curves import false_positives, sensitivity_by_lens
from harvester.evaluation.matching import Floats, Overlaps, hits, in_order, overlaps, ranking
from harvester.mining.candidates import outside_ignored
from harvester.models.device import DeviceSpec
from harvester.proposals.inference import Proposals
from harvester.records import IGNORE, TUBELETS, IgnoreTable, Split, TubeletTable, Volume, values
from harvester.run.folder import Run, settings_of, store_of
from harvester.storage.location import Location
from harvester.store.slab import GridFrame
from harvester.store.store import finish_store
from harvester.text import table

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.real_lesion_pictures import box_at, draw
from benchmarks.real_scans import EVERY, SCANS, WHOLE, Lesion, Rows, left_out, lesions_of, marks_of, read_scan
from tests.builders import write_volume

RATES: Final = (1.0, 4.0, 16.0)
STRICT, LOOSE, PICTURED = 0.5, 0.3, 4.0
RESAMPLES: Final = 2000

Files = Callable[[str], Sequence[Path]]


@dataclass(frozen=True, eq=False)
class Outcome:
    """How many lesions are found at each of RATES, by one rule.

    false_positives  (m,) in a scan, when each lesion is found; inf: never
    sensitivity      (rates,), and its 95 % interval (2, rates) by a bootstrap over patients
    """

    false_positives: Floats
    sensitivity: Floats
    interval: Floats


def main() -> None:
    """Read, propose, judge, draw."""
    options = parse()
    data = Path(os.environ.get("HARVESTER_DATA", Path(__file__).parents[2] / "shared" / "data"))
    listed = {each.id: each for each in load_backgrounds(InsertionSettings(), data)}
    settings, files = of_run(options.run, options.store) if options.run else of_files(options.config, options.weights)
    volumes: list[Volume] = []
    lesions: list[Lesion] = []
    regions: Rows = []
    for scan in EVERY:
        volume = read_scan(data / "ct", scan, listed[scan].patient_id if scan in listed else scan)
        own = lesions_of(data / "ct", volume)
        regions += left_out(volume, own, listed.get(scan))
        lesions += own
        volumes.append(volume)
    found = propose(volumes, settings, files)
    tubelets = TubeletTable(pa.Table.from_pylist(found, TUBELETS))
    ignored = IgnoreTable(pa.Table.from_pylist(regions, IGNORE))
    exact = overlaps(tubelets, marks_of(lesions))
    strict = judge(tubelets, lesions, exact, STRICT, ignored)
    loose = judge(tubelets, lesions, loosely(found, lesions, exact), LOOSE, ignored)
    long = np.mean([len(each.hu_zyx) * each.spacing_zyx_mm[0] for each in volumes if each.volume_id in WHOLE])
    print(f"{len(found)} tubelets; false positives in {len(WHOLE)} whole scans, {long:.0f} mm long on average")
    print(report(lesions, strict, loose))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        pq.write_table(tubelets, options.out / "tubelets.parquet")
        early = strict.false_positives <= PICTURED
        for name, chosen in (("hits", early), ("misses", ~early)):
            shown = [(lesions[m], float(strict.false_positives[m])) for m in np.flatnonzero(chosen)]
            draw({each.volume_id: each for each in volumes}, shown, found, options.out / f"{name}.png")


def of_run(folder: Path, store: Path | None) -> tuple[Settings, Files]:
    """A run's settings, and the weights of its newest generator that never saw a patient."""
    where = Location.of(folder)
    settings = settings_of(where)
    folds = Run(where, settings, store_of(where, settings, str(store) if store else None)).folds
    made = [each.parent for each in folder.glob("round-*/generator-*/fold-0.safetensors")]
    newest = max(made, key=lambda each: (int(each.parent.name.split("-")[1]), each.stat().st_mtime))

    def files(patient: str) -> Sequence[Path]:
        own = [folds[patient]] if patient in folds else range(settings.folds)
        return [newest / f"fold-{fold}.safetensors" for fold in own]

    return settings, files


def of_files(config: str, weights: Sequence[Path]) -> tuple[Settings, Files]:
    """The settings of a config, and all the weights for every patient."""
    return resolve(named(Path(config))), lambda _: weights


def propose(volumes: Sequence[Volume], settings: Settings, files: Files) -> Rows:
    """Rows of TUBELETS of all scans, read from a store that does not stay."""
    spec = DeviceSpec.choose(torch.cuda.is_available(), settings.compute.precision)
    with tempfile.TemporaryDirectory() as folder:
        stored = [write_volume(folder, volume, Split.VD_TEST, "") for volume in volumes]
        store = finish_store(Location.of(folder), stored, [], [])
        tasks = [
            (GridFrame.of(row, settings.grid), [Location.of(file) for file in files(row["patient_id"])])
            for row in stored
        ]
        made = Proposals(settings, store.path, spec).over(tasks)
        return [{"patient_id": of["patient_id"]} | row for of, rows in zip(stored, made, strict=True) for row in rows()]


def loosely(found: Rows, lesions: Sequence[Lesion], exact: Overlaps) -> Overlaps:
    """Pairs with IoU >= LOOSE or with the middle of the tubelet's best box in the lesion, each as overlap 1."""
    enough = exact.iou >= LOOSE
    pairs = {*zip(exact.tubelet[enough].tolist(), exact.mark[enough].tolist(), strict=True)}
    for row, tubelet in enumerate(found):
        best = int(np.argmax(tubelet["slice_score"]))
        z, box = tubelet["z"][best], box_at(tubelet, best)
        pairs |= {
            (row, m) for m, each in enumerate(lesions) if each.scan == tubelet["volume_id"] and each.holds(z, box)
        }
    rows, marks = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2).T
    return in_order(rows, marks, np.ones(len(rows)))


def judge(
    tubelets: TubeletTable, lesions: Sequence[Lesion], pairs: Overlaps, least: float, ignored: IgnoreTable
) -> Outcome:
    """Which lesions are found by an overlap >= `least`; what else whole scans have outside `ignored` is false."""
    rows, enough = np.arange(len(tubelets)), pairs.iou >= least
    of_scan, of_mark, whole = (_scans(values(tubelets["volume_id"])), _scans([m.scan for m in lesions]), _scans(WHOLE))
    clear = outside_ignored(TubeletTable(tubelets.append_column("row", pa.array(rows))), ignored)["row"].to_numpy()
    false = np.isin(rows, clear) & np.isin(of_scan, whole)
    kept = np.flatnonzero(np.isin(rows, pairs.tubelet[enough]) | false)
    own = Overlaps(np.searchsorted(kept, pairs.tubelet[enough]), pairs.mark[enough], pairs.iou[enough])
    seen = hits(own, tubelets["lpg_score"].to_numpy()[kept], len(lesions), least)
    before = np.append(false_positives(seen, repeats=False) / len(WHOLE), np.inf)
    when = np.append(ranking(seen.scores)[1], len(kept))[seen.mark_hit_by]  # -1, never, takes the last
    patients = Patients(of_scan[kept], of_mark, whole, len(EVERY))
    draws = draw_patients(len(EVERY), RESAMPLES, seed=0)
    drawn = resample(seen, patients, draws, np.array(RATES), True, np.array([0.5]))["sensitivity"]
    return Outcome(before[when], sensitivity_by_lens(seen, RATES, len(WHOLE)), interval(drawn))


def _scans(names: Sequence[str]) -> NDArray[np.int64]:
    return np.array([EVERY.index(name) for name in names], dtype=np.int64)


def report(lesions: Sequence[Lesion], strict: Outcome, loose: Outcome) -> str:
    """A line a patient, then all: lesions found at each of RATES, strictly and loosely, with intervals by patient."""
    both = (strict, loose)
    rows = [["", "lesions", *(f"{rule} {rate:g} FP" for rule in ("IoU 0.5,", "loose,") for rate in RATES)]]
    found = np.concatenate([each.false_positives[:, None] <= RATES for each in both], axis=1)
    for scan in SCANS:
        mine = np.array([each.scan == scan for each in lesions])
        rows.append([scan, str(mine.sum()), *map(str, found[mine].sum(axis=0))])
    rows.append([f"{len(SCANS)} patients", str(len(lesions)), *map(str, found.sum(axis=0))])
    rows.append(["sensitivity", "", *(f"{value:.2f}" for each in both for value in each.sensitivity)])
    ends = [f"{low:.2f} to {high:.2f}" for each in both for low, high in each.interval.T]
    return "\n".join(table([*rows, ["95 % by patient", "", *ends]]))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", type=Path, help="folder of a harvest")
    source.add_argument("--weights", type=Path, nargs="+", help="safetensors files of generators")
    parser.add_argument("--store", type=Path, help="the run's store, if it is not in its folder")
    parser.add_argument("--config", default="real_ct", help="settings of the weights")
    parser.add_argument("--out", type=Path, help="folder for pictures and tubelets")
    return parser.parse_args()


if __name__ == "__main__":
    main()
