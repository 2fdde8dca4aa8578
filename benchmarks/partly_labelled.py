"""How partly labelled volumes are best treated: a generator's choices, each fitted and measured alike. One table.

    python benchmarks/partly_labelled.py RUN --work FOLDER [--seeds 0 1 2] [--only TEXT]
        [--vm-patients N] [--json FILE]

RUN is a finished harvest (two rounds or more) of an archive whose V_H^test has a hidden truth. Rows, all else being the
run's settings:
  unmarked slices   round 0: the weight of V_H's slices without a label (0 ignored, 1 background)
  suppression       round 1: the mode of the loss, from the run's round 0, its harvest and its hard negatives
  start             round 2: last (the row suppression signed) or first (the run's round 0), on the run's last ledger
  mean of weights   round 0 with ignored slices: an exponential mean of the weights of the same fits
Models come in the run's folds by patient; each proposes for V_H^test patients that it never saw, and is measured on the
lesions there that no mark shows: sensitivity at 1, 4 and 16 false positives a volume, and average precision. Told are
the mean and the range over the seeds of training. --vm-patients keeps the first patients of V_M alone: an archive has
few. --only takes the rows whose name has the text. What is done is kept in FOLDER, so that a stopped run goes on. Plain
PyTorch on one thread, no Ray.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from harvester.config.fingerprint import settings_hash
from harvester.config.settings import Settings
from harvester.labels import ledger as ledgers
from harvester.labels.folds import patient_folds
from harvester.mining.candidates import outside_ignored
from harvester.models.data_parallel import Ranks
from harvester.models.device import DeviceSpec
from harvester.models.fit import FoldTask
from harvester.proposals.detect import find_boxes
from harvester.proposals.inference import load_generator, read_with_context, tubelet_rows
from harvester.proposals.training import fit_generator
from harvester.records import TUBELETS
from harvester.results.truth import TruthEvaluator
from harvester.run.folder import settings_of, store_of
from harvester.run.step_notes import weights_hash
from harvester.run.table_hash import table_hash
from harvester.storage.location import Location
from harvester.store.slab import GridFrame
from harvester.store.store import Store

EMA_DECAY = 0.99
"""Looks back over 100 steps: a quarter of the quickstart's."""
FIGURES = ("@1", "@4", "@16", "AP")
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """A line of the table: a setting's value, in which round, and where its generators start."""

    name: str
    round: int
    override: str
    start: str = ""
    mean: bool = False


IGNORED, SIGNED, RUN = "unmarked slices ignored", "suppression signed", "the run's round 0"
ROWS = (
    Row(IGNORED, 0, "generator.unmarked_slice_weight=0"),
    Row("unmarked slices weigh 0.1", 0, "generator.unmarked_slice_weight=0.1"),
    Row("unmarked slices weigh 0.5", 0, "generator.unmarked_slice_weight=0.5"),
    Row("unmarked slices background", 0, "generator.unmarked_slice_weight=1"),
    Row("mean of weights (slices ignored)", 0, "generator.unmarked_slice_weight=0", mean=True),
    Row("suppression off", 1, "generator.suppression.mode=off", RUN),
    Row(SIGNED, 1, "generator.suppression.mode=signed", RUN),
    Row("suppression additive", 1, "generator.suppression.mode=additive", RUN),
    Row("start last", 2, "generator.finetune_from=last", SIGNED),
    Row("start first", 2, "generator.finetune_from=first", RUN),
)


class MeanOfWeights(Ranks):
    """An exponential mean of a model's weights, kept beside a fit that calls it once per step (as its only rank)."""

    def __init__(self) -> None:
        super().__init__()
        self.state: dict[str, Tensor] = {}

    def all_reduce_grads(self, model: nn.Module) -> None:
        """Take in the weights of the step before."""
        for name, value in model.state_dict().items():
            if name in self.state and value.is_floating_point():
                self.state[name].lerp_(value, 1 - EMA_DECAY)
            else:
                self.state[name] = value.clone()


@dataclass(frozen=True)
class Bench:
    """A finished run, opened, and the folder that keeps what this script makes of it."""

    run: Path
    work: Path
    store: Store
    rows: Rows
    folds: dict[str, int]

    @classmethod
    def open(cls, run: Path, work: Path, vm_patients: int | None) -> "Bench":
        """With the run's own folds; V_M cut down to some patients, if asked for."""
        settings = settings_of(run)
        store = store_of(run, settings, None)
        rows = store.manifest.to_pylist()
        folds = patient_folds(rows, settings.folds, settings.seed)
        complete = sorted({row["patient_id"] for row in rows if row["split"] == "vm"})
        left_out = () if vm_patients is None else complete[vm_patients:]
        mined = [row for row in rows if row["split"] != "vd_test" and row["patient_id"] not in left_out]
        return cls(run, work, store, mined, folds)

    def settings(self, row: Row) -> Settings:
        """The run's settings with the row's own value."""
        return settings_of(self.run, [row.override])

    def figures(self, row: Row, seed: int) -> dict[str, float]:
        """The row's figures with one seed: kept ones, or made now."""
        folder = self.models(row, seed)
        file = folder / ("mean.json" if row.mean else "figures.json")
        if not file.exists():
            Location.of(file).write_text(json.dumps(self._measured(row, folder)))
        return json.loads(file.read_text())

    def models(self, row: Row, seed: int) -> Path:
        """The folder of the row's generators (and their means), fitted if they are not there."""
        start = self._start(row, seed)
        settings = self.settings(row)
        taught = (self.store.data_hash(), sorted(each["volume_id"] for each in self.rows), self.folds)
        key = settings_hash(
            settings.generator, settings.grid, row.round, seed, weights_hash(start) if start else "",
            table_hash(self._ledger(row)), *taught,
        )  # fmt: skip
        folder = self.work / f"round-{row.round}-{key}"
        folder.mkdir(parents=True, exist_ok=True)
        for fold in range(settings.folds):
            if not (folder / f"fold-{fold}.safetensors").exists():
                self._fit(row, seed, fold, start, folder)
        return folder

    def _ledger(self, row: Row) -> pa.Table:
        """What the run's generator of the row's round learned from, or would have: the round may be after its last."""
        labels = newest(self.run / f"round-{row.round}", "labels-*.parquet")
        if labels is not None:
            return pq.read_table(labels)
        last = pq.read_table(self.run / "ledger.parquet")
        return ledgers.extend(last, ledgers.from_ignored(self.store.ignore()))

    def _start(self, row: Row, seed: int) -> Path | None:
        if row.start == RUN:
            return newest(self.run / "round-0", "generator-*[0-9a-f]")
        return self.models(next(each for each in ROWS if each.name == row.start), seed) if row.start else None

    def _fit(self, row: Row, seed: int, fold: int, start: Path | None, folder: Path) -> None:
        file = folder / f"fold-{fold}.safetensors"
        checkpoint = file.with_suffix(".checkpoint.pt")
        checkpoint.unlink(missing_ok=True)  # the mean of the weights does not go on from it
        mean = MeanOfWeights()
        task = FoldTask(
            self.store.path,
            (seed * 100 + row.round) * 1000 + fold,  # as a run of that seed counts
            start / file.name if start else None,
            checkpoint,
            gpu=False,
            ranks=mean,
            log=lambda line: print(f"  {row.name}, seed {seed}, fold {fold}: {line}", flush=True),
        )
        others = [each for each in self.rows if self.folds[each["patient_id"]] != fold]
        model, _ = fit_generator(task, self.settings(row), others, self._ledger(row))
        save(mean.state, folder / "mean" / file.name)
        save(model.state_dict(), file)
        checkpoint.unlink(missing_ok=True)

    def _measured(self, row: Row, folder: Path) -> dict[str, float]:
        settings = self.settings(row)
        found = list(self._proposed(folder / "mean" if row.mean else folder, settings))
        tubelets = outside_ignored(pa.Table.from_pylist(found, TUBELETS), self.store.ignore())
        scores = TruthEvaluator(self.store, settings).proposals(tubelets, "lpg_score")
        return dict(zip(FIGURES, (*scores.sensitivity.values(), scores.ap), strict=True))

    def _proposed(self, folder: Path, settings: Settings) -> Iterator[dict[str, Any]]:
        """Tubelets of V_H^test, each volume's by the generator that never saw its patient."""
        spec = DeviceSpec.choose(False, settings.compute.precision)
        for fold in range(settings.folds):
            models = [load_generator(Location.of(folder) / f"fold-{fold}.safetensors", settings, spec)]
            for row in self.rows:
                if row["split"] == "vh_test" and self.folds[row["patient_id"]] == fold:
                    frame = GridFrame.of(row, settings.grid)
                    slab = read_with_context(self.store.path, frame, spec)
                    for tubelet in tubelet_rows(find_boxes(models, slab, frame, settings, spec), frame, settings):
                        yield {"patient_id": row["patient_id"]} | tubelet


def newest(folder: Path, pattern: str) -> Path | None:
    """The last made of a step's outputs."""
    return max(folder.glob(pattern), key=lambda path: path.stat().st_mtime, default=None)


def save(state: dict[str, Tensor], file: Path) -> None:
    """Weights as load_generator reads them; aside first, so that there is never half a file."""
    file.parent.mkdir(exist_ok=True)
    aside = file.with_suffix(".part")
    save_file({name: value.detach().contiguous() for name, value in state.items()}, aside)
    aside.replace(file)


def main() -> None:
    """Every row with every seed, one seed after the other; the table at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", default="")
    parser.add_argument("--vm-patients", type=int)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench.open(options.run, options.work, options.vm_patients)
    rows = [row for row in ROWS if options.only in row.name]
    by_choice: dict[str, list[dict[str, float]]] = {row.name: [] for row in rows}
    for seed in options.seeds:
        for row in rows:
            by_choice[row.name].append(bench.figures(row, seed))
            print(f"{row.name}, seed {seed}: {by_choice[row.name][-1]}", flush=True)
    print(table(by_choice))
    if options.json:
        options.json.write_text(json.dumps(by_choice, indent=1))


def table(by_choice: dict[str, list[dict[str, float]]]) -> str:
    """Mean and range over the seeds, a row a choice."""
    lines = [f"{'':34s}" + "".join(f"{name:^22s}" for name in FIGURES)]
    for name, figures in by_choice.items():
        columns = [np.array([each[figure] for each in figures]) for figure in FIGURES]
        lines.append(f"{name:34s}" + "".join(f"{c.mean():8.3f} ({c.min():.3f}-{c.max():.3f})" for c in columns))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
