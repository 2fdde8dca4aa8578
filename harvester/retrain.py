"""What a harvest is worth: detectors trained on an archive's labels with and without it, scored on V_D^test.

Each detector is trained on each label set (results/label_sets.py) with each seed: the same images, steps and draws, so
that labels are all that differs. Slices outside labels count as background, as whoever trains on such an archive takes
them.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa

from harvester.config.fingerprint import settings_hash
from harvester.config.settings import Settings
from harvester.detectors.detector import build, content_of, short_name
from harvester.distributed.retraining import DetectorFit, RetrainJob
from harvester.distributed.training import train_folds
from harvester.errors import LabelError, NoExamplesError, StoreError
from harvester.evaluation.scorecard import Scorecard
from harvester.mining.candidates import split_of
from harvester.records import (
    LedgerTable,
    MarkTable,
    Role,
    ScoredTable,
    Split,
    TubeletTable,
    checked,
    rows_where,
    values,
)
from harvester.results.label_sets import FULL_TRUTH, GRADES, HARVEST, LabelSets, graded
from harvester.results.retraining import Comparison, HeldOutSet, SetScores
from harvester.results.scored import last_round, scored_round
from harvester.run.journal import read_run
from harvester.run.retraining import Retraining
from harvester.run.table_hash import table_hash
from harvester.storage.location import Location
from harvester.storage.table_parts import is_table
from harvester.store.slab import GridFrame
from harvester.store.store import Store

logger = logging.getLogger(__name__)

FITS: Final = "fits"
LABELS: Final = "labels"


@dataclass(frozen=True, eq=False)
class Archive:
    """What is learned from and what is scored: a run and its store, and the store of the volumes that are scored.

    test_rows    manifest rows of completely marked volumes of patients that nothing was learned from
    test_marks   every lesion in them
    scored       what the run's last round could harvest; None: the newest that lies in its folder
    ledger       its labels; None: those in its folder
    """

    run: Location
    settings: Settings
    store: Store
    tested: Store
    test_rows: list[dict[str, Any]]
    test_marks: MarkTable
    scored: ScoredTable | None = None
    ledger: LedgerTable | None = None

    @classmethod
    def of(cls, run: Location, settings: Settings, store: Store, other: Store | None = None) -> "Archive":
        """Scored are V_D^test of the run's store, or all completely marked volumes of another one.

        Raises StoreError where there is none, LabelError where a patient is in both.
        """
        tested = other or store
        splits = (Split.VD_TEST,) if other is None else (Split.VD_TEST, Split.VH_TEST, Split.VM)
        rows = [row for row in tested.manifest.to_pylist() if row["split"] in splits]
        if not rows:
            raise StoreError(
                f"{tested.path}: has no volume of vd_test, so nothing to score detectors on; name patients whose "
                "scans are completely marked vd_test in volumes.csv (harvester prepare --help), or give a store of "
                "such scans with --test"
            )
        ids, marks = {row["volume_id"] for row in rows}, MarkTable(_all_marks(tested))
        if not ids & set(marks["volume_id"].to_pylist()):
            raise StoreError(f"{tested.path}: no lesion is marked in the {len(rows)} volumes to be scored")
        learned = {row["patient_id"] for row in store.manifest.to_pylist() if row["split"] != Split.VD_TEST}
        if both := learned & {row["patient_id"] for row in rows}:
            raise LabelError(f"{len(both)} patients are in both the archive and the volumes to be scored; want none")
        return cls(run, settings, store, tested, rows, marks)

    def with_settings(self, settings: Settings) -> "Archive":
        """The same with settings that are decided."""
        return replace(self, settings=settings)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Manifest rows of what is learned from."""
        return [row for row in self.store.manifest.to_pylist() if row["split"] != Split.VD_TEST]


def retrain(archive: Archive, out: Location, command: str) -> Retraining:
    """Fit what is not fitted yet, score, compare; retrain.json and the label sets lie in `out`.

    Raises StoreError for a run that harvested nothing, NoExamplesError for an archive without a mark.
    """
    settings = archive.settings
    require_detectors(settings)
    sets = label_sets(archive)
    for name, table in sets.items():
        (out / LABELS / f"{name}.parquet").write_table(table)
    plan = plan_fits(archive, sets, out)
    left = [fit for fit in plan if not (out / FITS / f"{fit.name}.json").is_file()]
    logger.info("%d fits, %d of them done before", len(plan), len(plan) - len(left))
    if left:
        job = RetrainJob(
            settings, archive.store.path, archive.rows, unknown_slices(archive), archive.tested.path,
            archive.test_rows, out / FITS, left,
        )  # fmt: skip
        train_folds(job)
    done = compare(archive, sets, out, command)
    done.write(out)
    return done


def require_detectors(settings: Settings) -> None:
    """Build each detector once: what is wrong with one is said before hours of the others. Raises SettingsError."""
    for name in settings.retrain.detectors:
        build(name, settings)


def label_sets(archive: Archive) -> dict[str, LedgerTable]:
    """The label sets of the run by name, without those that hold no lesion.

    Raises StoreError for a folder that is no finished harvest or harvested nothing, NoExamplesError without any mark.
    """
    run, settings = archive.run, archive.settings
    ledger = read_ledger(run) if archive.ledger is None else archive.ledger
    scored = scored_round(run, last_round(run)).whole() if archive.scored is None else archive.scored
    sets = LabelSets(archive.store, ledger, scored, settings.mining, settings.seed)
    if not sets.knows_all:
        logger.warning(
            "the truth of V_H is not known: what the full truth would gain (%s), and the exchange rate of precision "
            "and recall, are left out", FULL_TRUTH,
        )  # fmt: skip
    tables = {name: sets.table(name) for name in sets.names(settings.retrain.exchange_rate)}
    bare = [name for name, table in tables.items() if not len(rows_where(table, "role", Role.LESION))]
    if len(bare) == len(tables):
        raise NoExamplesError(f"{archive.store.path}: no lesion is marked anywhere, there is nothing to learn from")
    if bare:
        logger.warning("no detector is trained on %s: no lesion is marked there", ", ".join(bare))
    return {name: table for name, table in tables.items() if name not in bare}


def read_ledger(run: Location) -> LedgerTable:
    """A finished harvest's labels. Raises StoreError for a folder that is none."""
    file = run / "ledger.parquet"
    if not is_table(file):
        raise StoreError(f"{run}: no ledger.parquet; give the folder of a finished harvest with --run")
    return checked(LedgerTable, file.read_table(), file)


def plan_fits(archive: Archive, sets: Mapping[str, LedgerTable], out: Location) -> list[DetectorFit]:
    """All fits, named by the hash of all that they depend on; the graded label sets are the first detector's alone."""
    settings, own = archive.settings, archive.settings.retrain
    of_a_fit = own.model_dump(mode="json", exclude={"detectors", "seeds", "exchange_rate", "resamples"})
    data = (archive.store.data_hash(), archive.tested.data_hash(), settings.compute.precision)
    inputs = (of_a_fit, *data, settings.grid, settings.generator, settings.linking)
    hashes = {name: table_hash(table.drop_columns(["run_id"])) for name, table in sets.items()}
    grades = {graded(*each) for each in GRADES}
    plan = []
    for number in range(own.seeds):
        seed = settings.seed * 1000 + number
        for detector in own.detectors:
            for name in sets:
                if name in grades and detector != own.detectors[0]:
                    continue
                key = settings_hash(content_of(detector), seed, hashes[name], *inputs)
                file = f"{short_name(detector)}-{name}-seed{number}-{key}"
                labels = out / LABELS / f"{name}.parquet"
                plan.append(DetectorFit(file, detector, name, labels, seed, name == HARVEST and number == 0))
    return plan


def unknown_slices(archive: Archive) -> frozenset[tuple[str, int]]:
    """Slices of the grid on which a region lies that nobody annotated (records.IGNORE)."""
    frames = {row["volume_id"]: GridFrame.of(row, archive.settings.grid) for row in archive.rows}
    return frozenset(
        (region["volume_id"], int(z))
        for region in archive.store.ignore().to_pylist()
        if region["volume_id"] in frames
        for z in frames[region["volume_id"]].slices_to_grid(np.arange(region["z1"], region["z2"] + 1))
    )


def cards_of(
    archive: Archive, sets: Mapping[str, LedgerTable], out: Location, draw_seed: int = 0
) -> dict[str, dict[str, list[Scorecard]]]:
    """A scorecard for each seed of each label set of each detector, of fits that are done.

    draw_seed   which draws of patients the resamples are
    """
    own = archive.settings.retrain
    test = HeldOutSet.of(archive.test_rows, archive.test_marks, archive.tested.ignore())
    cards: dict[str, dict[str, list[Scorecard]]] = {}
    for fit in plan_fits(archive, sets, out):
        tubelets = read_tubelets(out / FITS, fit.name)
        of_detector = cards.setdefault(short_name(fit.detector), {})
        of_detector.setdefault(fit.label_set, []).append(test.score(tubelets, own.resamples, draw_seed))
    return cards


def read_tubelets(fits: Location, name: str) -> TubeletTable:
    """What a fit found. Raises StoreError where its file is broken: then it counts as not done any more."""
    try:
        return checked(TubeletTable, (fits / f"{name}.parquet").read_table(), name)
    except (StoreError, OSError) as error:
        (fits / f"{name}.json").delete()
        raise StoreError(
            f"{fits / name}.parquet: is gone or broken; start the same command again: this fit is made anew"
        ) from error


def compare(archive: Archive, sets: Mapping[str, LedgerTable], out: Location, command: str) -> Retraining:
    """Every fit scored, the label sets side by side."""
    took = [(out / FITS / f"{fit.name}.json").read_json() or {} for fit in plan_fits(archive, sets, out)]
    record, own = read_run(archive.run), archive.settings.retrain
    lesions = marks_in(archive.test_marks, archive.test_rows)
    return Retraining(
        command=command,
        run_id=record.id if record else "",
        data_hash=archive.store.data_hash(),
        settings=own.model_dump(mode="json"),
        seeds=own.seeds,
        labels={name: len(rows_where(table, "role", Role.LESION)) for name, table in sets.items()},
        volumes=len(archive.test_rows),
        patients=len({row["patient_id"] for row in archive.test_rows}),
        lesions=lesions,
        seconds=sum(each["fit_seconds"] + each["detect_seconds"] for each in took),
        detectors=tuple(
            Comparison(name, {label_set: SetScores.of(each) for label_set, each in cards.items()}).figures()
            for name, cards in cards_of(archive, sets, out).items()
        ),
    )


def marks_in(marks: MarkTable, rows: Sequence[Mapping[str, Any]]) -> int:
    """How many of the marks lie in these volumes."""
    ids = {row["volume_id"] for row in rows}
    return sum(volume_id in ids for volume_id in values(marks["volume_id"]))


def _all_marks(store: Store) -> pa.Table:
    """Of the completely marked volumes: V_M's marks are the archive's, those of test splits its hidden truth."""
    vm = split_of(store.marks(), store.manifest, Split.VM)
    return pa.concat_tables([vm, split_of(store.truth(), store.manifest, Split.VD_TEST, Split.VH_TEST)])
