"""A study: every arm on every archive with every seed, then detectors on the harvests, then the table.

STUDY/<archive>/seed-<s>/       the full loop's run folder; its steps are shared by all arms that have the same store
STUDY/<archive>/seed-<s>/arms/  the run folders of other arms; arms of other data have a store and steps of their own
STUDY/<archive>/seed-<s>/rows/  what each arm came to, named by all that it follows from: it is made once
STUDY/study.json                rows, comparisons with intervals, headline; written anew after every archive and seed
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from harvester.config.fingerprint import settings_hash
from harvester.config.settings import Settings
from harvester.distributed.precision import fastest_everywhere
from harvester.distributed.preparation import prepare
from harvester.errors import StoreError
from harvester.evaluation.scorecard import Scorecard
from harvester.labels.ledger import extend, from_tubelets
from harvester.records import LedgerTable, Role, Source
from harvester.results.retraining import Comparison, SetScores
from harvester.retrain import Archive, cards_of, label_sets, read_ledger, retrain
from harvester.run.first_start import decided
from harvester.run.folder import Run
from harvester.run.study import StudyDetectors, StudyResult, StudyRow
from harvester.storage.location import Location
from harvester.store.store import Store
from harvester.study.arms import OF_THE_FULL_LOOP, RULES, Looped, Outcome, oracle_audit
from harvester.study.compare import Rankings, result
from harvester.study.ranking import Ranking
from harvester.study.settings import FULL, StudyArm, StudySettings

logger = logging.getLogger(__name__)

ROWS_VERSION: Final = 2
"""Raised where a release makes a row otherwise from the same inputs."""


@dataclass
class Study:
    """A study in its folder.

    data    the root of what is read from files ($HARVESTER_DATA), or None
    rows, rankings, detectors   what is done so far
    """

    settings: StudySettings
    folder: Location
    data: Path | None
    command: str
    rows: list[StudyRow] = field(default_factory=list)
    rankings: Rankings = field(default_factory=dict)
    detectors: list[StudyDetectors] = field(default_factory=list)
    fitted_seconds: float = 0.0

    def run(self) -> StudyResult:
        """All of it; what was done before is taken as it is. Raises HarvesterError."""
        for archive in self.settings.archives:
            for seed in self.settings.seeds:
                self.run_arms(archive, seed)
                self.result().write(self.folder)
        for archive in self.settings.retrain:
            self.detectors.append(self.retrain(archive))
        done = self.result()
        done.write(self.folder)
        return done

    def result(self) -> StudyResult:
        """What is done so far."""
        return result(self.settings, self.rows, self.rankings, self.detectors, self.command, self.fitted_seconds)

    def base(self, archive: str, seed: int) -> Location:
        """The folder of an archive with a seed."""
        return self.folder / archive / f"seed-{seed}"

    def of(self, archive: str, seed: int, overrides: Sequence[str] = ()) -> Settings:
        """The settings of an arm, decided as the full loop's are."""
        settings = self.settings.settings(archive, seed, overrides)
        return decided(settings, self.base(archive, seed), fastest_everywhere)

    def store(self, settings: Settings, folder: Location) -> Store:
        """An archive's volumes."""
        return prepare(settings, self.data, folder / "store")

    def run_arms(self, archive: str, seed: int) -> None:
        """A row for each arm of an archive with a seed."""
        base, settings = self.base(archive, seed), self.of(archive, seed)
        store = self.store(settings, base)
        opened: list[Looped] = []

        def full() -> Looped:
            """The full loop, opened when somebody first needs it."""
            if not opened:
                opened.append(Looped.of(Run.open(base, settings, store)))
            return opened[0]

        arms = self.settings.arms_of(archive)
        harvest = self.settings.harvest_of(archive)
        for name, arm in arms.items():
            own = self.of(archive, seed, arm.set)
            key = row_key(own, store, arm)
            row = read_row(base, name, key)
            if row is None:
                logger.info("%s seed %d: %s ...", archive, seed, name)
                began = time.monotonic()
                outcome = self.outcome(base, name, arm, own, full)
                row = row_of((archive, seed, name, key), outcome, time.monotonic() - began)
                write_row(base, row, outcome.ranking)
            logger.info("%s seed %d: %s: %s", archive, seed, name, row.said())
            row = row.model_copy(update={"is_harvest": name == harvest})
            self.rows.append(row)
            self.rankings[archive, seed, name] = read_ranking(base, row)

    def outcome(
        self, base: Location, name: str, arm: StudyArm, settings: Settings, full: Callable[[], Looped]
    ) -> Outcome:
        """What an arm comes to."""
        looped = full()
        if name == FULL or arm.rule in OF_THE_FULL_LOOP:
            return RULES[arm.rule](looped.run, looped)
        folder, store, steps = base / "arms" / name, looped.run.store, base
        if settings.data != looped.run.settings.data:
            store, steps = self.store(settings, folder), folder
        run = Run.open(folder, settings, store, steps_in=steps)
        return RULES[arm.rule](run, None if arm.rule == "loop" else looped)

    def retrain(self, archive: str) -> StudyDetectors:
        """Detectors on the full loop's harvests of an archive, all seeds together."""
        cards: dict[str, dict[str, list[Scorecard]]] = {}
        seeds = patients = lesions = 0
        for seed in self.settings.seeds:
            base, settings = self.base(archive, seed), self.of(archive, seed, self.settings.retrain_set)
            looped = Looped.of(Run.open(base, self.of(archive, seed), Store.open(base / "store")))
            # Other arms' tubelets lie beside the full loop's.
            own = replace(Archive.of(base, settings, looped.run.store), scored=looped.view.scored)
            if self.settings.archives[archive].proof == "audit":
                own = replace(own, ledger=audited(looped, read_ledger(base)))
            try:
                done = retrain(own, base / "retrain", self.command)
            except StoreError as error:  # a harvest that was refused trains nobody
                logger.warning("%s seed %d: no detector is trained: %s", archive, seed, error)
                continue
            seeds, patients, lesions = seeds + 1, patients + done.patients, lesions + done.lesions
            self.fitted_seconds += done.seconds
            for detector, sets in cards_of(own, label_sets(own), base / "retrain", draw_seed=seed).items():
                for name, each in sets.items():
                    cards.setdefault(detector, {}).setdefault(name, []).extend(each)
        figures = tuple(
            Comparison(detector, {name: SetScores.of(each) for name, each in sets.items()}).figures()
            for detector, sets in cards.items()
        )
        return StudyDetectors(archive=archive, seeds=seeds, patients=patients, lesions=lesions, detectors=figures)


def audited(looped: Looped, ledger: LedgerTable) -> LedgerTable:
    """The labels of a loop with what a reader who knows the truth proved in place of what V_M did."""
    taken, _ = oracle_audit(looped, looped.run.settings.operating_point.level)
    harvested = pc.is_in(ledger["source"], pa.array([Source.HARVESTED.value]))
    others = LedgerTable(ledger.filter(pc.invert(harvested)))
    return extend(others, from_tubelets(taken, Role.LESION, Source.HARVESTED, looped.last, "", looped.run.id))


def row_key(settings: Settings, store: Store, arm: StudyArm) -> str:
    """Names all that an arm's row follows from."""
    tree = settings.model_dump(mode="json", exclude={"compute", "report", "retrain", "name"})
    return settings_hash(ROWS_VERSION, arm.rule, tree, settings.compute.precision, store.data_hash())


def row_of(named: tuple[str, int, str, str], outcome: Outcome, seconds: float) -> StudyRow:
    """An outcome in numbers. named: archive, seed, arm and key."""
    archive, seed, arm, key = named
    ranking = outcome.ranking
    harvested, right = int(ranking.taken.sum()), int((ranking.taken * (ranking.found > 0)).sum())
    return StudyRow(
        archive=archive,
        seed=seed,
        arm=arm,
        key=key,
        certified=outcome.certified,
        harvested=harvested,
        right=right,
        precision=right / harvested if harvested else None,
        recall=float(ranking.recall()[0]),
        recall_at_90=float(ranking.recall_at_precision()[0]),
        lesions=tuple(ranking.lesions.tolist()),
        reviewed=outcome.reviewed,
        seconds=round(seconds, 1),
    )


def read_row(base: Location, arm: str, key: str) -> StudyRow | None:
    """The row that was made before from the same; None where it is to be made."""
    file = base / "rows" / f"{arm}-{key}.json"
    if not file.is_file():
        return None
    try:
        return StudyRow.model_validate_json(file.read_bytes())
    except ValidationError:
        logger.warning("%s: not as harvester writes it; the arm is made again", file)
        return None


def write_row(base: Location, row: StudyRow, ranking: Ranking) -> None:
    """The ranking, then the row: a row that is there has its ranking."""
    (base / "rows" / f"{row.arm}-{row.key}.parquet").write_table(ranking.table())
    (base / "rows" / f"{row.arm}-{row.key}.json").write_text(row.model_dump_json(indent=1) + "\n")


def read_ranking(base: Location, row: StudyRow) -> Ranking:
    """The ranking of a row."""
    return Ranking.from_table((base / "rows" / f"{row.arm}-{row.key}.parquet").read_table(), row.lesions)
