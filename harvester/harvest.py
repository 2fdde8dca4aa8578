"""The method of Lesion Harvester (Cai et al., IEEE TMI 2021), one call per step. Start reading here.

V_M: volumes in which every lesion is marked. V_H: volumes in which one or two are. LPG: lesion proposal generator.
LPC: lesion proposal classifier. Every model comes in folds by patient, and no volume is ever scored by a model
that saw its patient: what is measured on V_M then holds for V_H.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from harvester.certificate.selection import Calibration, CalibrationFiles, SelectedPoint, from_json, nothing_scored
from harvester.config.fingerprint import settings_hash
from harvester.config.models import SuppressionSettings
from harvester.distributed.inference import Proposer, Scorer
from harvester.distributed.sweep import in_tasks
from harvester.distributed.training import FitJob, train_folds
from harvester.distributed.tuning import search
from harvester.distributed.volume_pool import InferenceJob, run_over_volumes
from harvester.errors import NoExamplesError
from harvester.labels import ledger as ledgers
from harvester.mining import negatives
from harvester.mining.candidates import Found
from harvester.mining.probability import probabilities
from harvester.mining.round_view import NEGATIVE_VOLUMES, RoundView, StoreTables
from harvester.models.pretrained import named_by_content
from harvester.records import (
    AcceptedTable,
    LedgerTable,
    Role,
    ScoredTable,
    Source,
    Split,
    TubeletTable,
    empty,
    rows_where,
    values,
)
from harvester.report.build import ReportInputs
from harvester.results.audit_outcome import certified
from harvester.results.completeness import expected_missing
from harvester.results.history import History
from harvester.results.rounds import over_parts, rounds_viewed
from harvester.run.folder import Artifact, Parted, Run
from harvester.run.parted_table import PartedTable
from harvester.run.step_notes import weights_hash
from harvester.run.table_hash import table_hash
from harvester.run.tracking import Tracker
from harvester.storage.location import Location

logger = logging.getLogger(__name__)

CALIBRATION_STEPS: Final = ("candidates", "lesions", "known", "rivals")
"""The tables of a Calibration as steps. Runs and their summaries have always called them so."""


def harvest(run: Run, tracker: Tracker, show: Callable[[ReportInputs], None] = lambda _: None) -> History:
    """Mine until a round changes next to nothing. Tables, models and the summary lie in the run's folder.

    `show` is given what the rounds so far came to, whenever one follows.

    Every round selects anew; the harvest is the list of the last one that was scored, and so is the certificate. A
    round whose models have nothing to learn from is the last, and leaves the list as it was; the summary says why.
    """
    settings, history = run.settings, History(run)
    scored: tuple[PartedTable[ScoredTable], ...] = ()
    known = StoreTables.of(run.store, settings, run.folds, run.data_hash)
    view = rounds_viewed(scored, run.store, settings, in_tasks, known)
    ledger, hits = known.ledger, empty(AcceptedTable)
    start, lpc = run.starting("generator"), run.starting("classifier")
    point = nothing_scored(settings.operating_point, "no round was scored")
    for k in range(settings.rounds):
        try:
            lpg = train_generator(run, k, ledger, start)
            start = next_start(run, k, start, lpg)
            tubelets = propose(run, k, lpg)
            lpc = train_classifier(run, k, tubelets, ledger, lpg, lpc)
        except NoExamplesError as error:
            give_up(k, view, history, tracker, str(error))
            break
        scored = (*scored, classify(run, k, tubelets, lpc).table)
        view = rounds_viewed(scored, run.store, settings, in_tasks, known)
        point = choose_operating_point(run, k, view)
        history.look(k, view, point)
        found = mine(view, point)
        ledger, hits = record(run, k, ledger, found, (lpg, lpc)), found.calibration_hits
        history.append(k, view, point, found, model_hash(lpg, lpc))
        tracker.log_round(k, history.params(), history.metrics())
        if history.is_enough():
            break
        show(history.so_far(ledger))
    (run.folder / "calibration.parquet").write_table(hits)
    history.finish(
        ledger, expected_missing(view, point, history.lesions, history.left_out), certified(run.folder, view.scored)
    )
    return history


def give_up(k: int, view: RoundView, history: History, tracker: Tracker, reason: str) -> None:
    """Record a round that could not learn: nothing scored, and why. Labels, hits and harvest stay as they were."""
    logger.warning("round %d harvests nothing: %s", k, reason)
    settings = history.run.settings
    view = RoundView((), view.store, settings)
    point = nothing_scored(settings.operating_point, reason)
    history.append(k, view, point, mine(view, point), "")
    tracker.log_round(k, history.params(), history.metrics())


def train_generator(run: Run, k: int, ledger: LedgerTable, start: Artifact | None) -> Artifact:
    """LPG on all labels so far, finetuned from `start`: starting weights, from round 1 on those of a round before."""
    settings = run.settings
    own = named_by_content(settings.generator)
    if not len(rows_where(ledger, "role", Role.HARD_NEGATIVE)):
        own = own.model_copy(update={"suppression": SuppressionSettings()})  # there is nothing to suppress
    key = run.key(
        "generator",
        generator=own,
        grid=settings.grid,
        folds=settings.models,
        seed=settings.seed,
        data=run.data_hash,
        precision=settings.compute.precision,
        labels=table_hash(ledger.drop_columns(["run_id"])),
        start=start.key if start else "",
        **({"teacher": settings.teacher} if settings.teacher.cut else {}),
    )
    table = run.table("labels", k, key, lambda: ledgers.extend(ledger, ledgers.from_ignored(run.store.ignore())))
    weights = start.path if start else None
    return run.weights("generator", k, key, lambda out: fit(_job(run, "generator", k, out, table, weights), start))


def next_start(run: Run, k: int, start: Artifact | None, lpg: Artifact) -> Artifact:
    """The LPG that the round after k is finetuned from: round k's, or always round 0's."""
    return start if start and k and run.settings.generator.finetune_from == "first" else lpg


def propose(run: Run, k: int, lpg: Artifact) -> Parted[TubeletTable]:
    """Every volume through the LPG that never saw its patient; boxes linked to tubelets."""
    key = run.key("tubelets", generator_weights=lpg.key, linking=run.settings.linking)
    table = PartedTable(run.partials("tubelets", k, key), TubeletTable)
    job = InferenceJob(run.settings, run.store.path, lpg.path, run.folds, table.partials, ignored=run.store.ignore())
    return run.parted("tubelets", k, key, table, partial(run_over_volumes, Proposer, job, run.mined))


def train_classifier(
    run: Run, k: int, tubelets: Parted[TubeletTable], ledger: LedgerTable, lpg: Artifact, before: Artifact | None
) -> Artifact:
    """LPC on tubelets: lesions against what surely is none; finetuned from starting weights or the round `before`."""
    own = run.settings.classifier
    key = run.key(
        "classifier",
        tubelets=tubelets.key,
        classifier=named_by_content(own).model_copy(update={"poses": 1}),  # those are of scoring alone
        labels=table_hash(ledger.drop_columns(["run_id"])),
        seed=run.settings.seed,
        start=before.key if before else "",
    )

    table = run.table("examples", k, key, lambda: examples(run, tubelets.table, ledger))
    weights = (before or lpg).path
    return run.weights("classifier", k, key, lambda out: fit(_job(run, "classifier", k, out, table, weights), before))


def examples(run: Run, tubelets: PartedTable[TubeletTable], ledger: LedgerTable) -> pa.Table:
    """What the classifier learns from, with its `label`: 1 a lesion, 0 none. Of V_M, and of NEGATIVE_VOLUMES of V_H."""
    own, known = run.settings.classifier, StoreTables.of(run.store, run.settings, run.folds, run.data_hash)
    drawn = values(known.partly_marked(run.settings.seed)[:NEGATIVE_VOLUMES])
    learned = pa.array([*values(rows_where(known.manifest, "split", Split.VM)["volume_id"]), *drawn], pa.string())
    manifest = known.of_volumes(learned).manifest
    labels = LedgerTable(ledger.filter(pc.is_in(ledger["volume_id"], learned)))

    def of_parts(names: Sequence[str]) -> pa.Table:
        table = negatives.to_classify(tubelets.of(names), own.max_tubelets)
        mine = table.filter(pc.is_in(table["volume_id"], learned))
        return negatives.labelled(mine, labels, manifest, own.match_iou)

    return pa.concat_tables(over_parts(of_parts, tubelets.partials.names(), in_tasks)).combine_chunks()


def fit(job: FitJob, before: Artifact | None) -> None:
    """Fit the folds; they stay as `before` where there is nothing to learn and people will prove what is found."""
    try:
        train_folds(job)
    except NoExamplesError as error:
        if before is None or job.settings.operating_point.certificate != "audit":
            raise
        logger.warning("%s; the models stay as they were", error)
        for name in before.path.files():
            (job.out / name).write_bytes((before.path / name).read_bytes())


def classify(run: Run, k: int, tubelets: Parted[TubeletTable], lpc: Artifact) -> Parted[ScoredTable]:
    """Every tubelet through the LPC that never saw its patient."""
    poses = run.settings.classifier.poses
    key = run.key("scored", tubelets=tubelets.key, classifier_weights=lpc.key, poses=poses)
    table = PartedTable(run.partials("scored", k, key), ScoredTable)
    job = InferenceJob(run.settings, run.store.path, lpc.path, run.folds, table.partials, tubelets.table)
    return run.parted("scored", k, key, table, partial(run_over_volumes, Scorer, job, run.mined))


def choose_operating_point(run: Run, k: int, view: RoundView) -> SelectedPoint:
    """The lowest threshold whose precision is proven on V_M, with the settings that find the most known lesions."""
    settings, storage = run.settings.operating_point, run.of_round(k) / "tune"
    calibration = Calibration.of(view)
    tables = dict(zip(CALIBRATION_STEPS, calibration.tables, strict=True))
    hashes = {name: table_hash(table) for name, table in tables.items()}
    key = run.key("operating-point", operating_point=settings, **hashes)

    def published(name: str) -> Location:
        return run.table(name, k, key, lambda: tables[name]).path

    files = CalibrationFiles(tuple(map(published, tables)))
    chosen = run.values("operating-point", k, key, lambda: asdict(search(files, run.settings, storage)))
    return from_json(json.loads(chosen.path.read_text()))


def mine(view: RoundView, selected: SelectedPoint) -> Found:
    """Harvested lesions of V_H, the same rule's answer on V_M, hard negatives of both."""
    fusion, settings = selected.choice, view.settings.mining
    threshold, estimated = selected.point.threshold, selected.naive.threshold
    view.reaching(fusion, min(threshold, estimated))  # V_H is gone through once, for both
    cut, likely = view.cut(fusion, threshold), view.likely(fusion, estimated, threshold)
    calibration = view.accepted(fusion, 0.0)
    return Found(
        cut,
        likely,
        view.accepted(fusion, threshold),
        negatives.sure_hard_negatives(view.completely_marked, view.known, settings),
        # What is left for review may be lesions too, and so may what is likely.
        view.possible_negatives(fusion, min(threshold, estimated)),
        probabilities(calibration, cut.lesions),
        probabilities(calibration, likely),
    )


def record(run: Run, k: int, ledger: LedgerTable, found: Found, models: tuple[Artifact, Artifact]) -> LedgerTable:
    """What archive and reviewers say, with what this round says in place of what the last one said.

    That is: lesions, what is likely one, hard negatives, and what was left for review, where nothing is to be learned.
    """
    origin = (k, model_hash(*models), run.id)
    negative = Role.HARD_NEGATIVE
    return ledgers.extend(
        ledgers.persistent(ledger),
        ledgers.from_tubelets(found.lesions, Role.LESION, Source.HARVESTED, *origin, found.probabilities),
        ledgers.from_tubelets(found.likely, Role.LESION, Source.LIKELY, *origin, found.likely_probabilities),
        ledgers.from_tubelets(found.cut.left, Role.IGNORED, Source.LEFT_FOR_REVIEW, *origin),
        ledgers.from_tubelets(found.sure_negatives, negative, Source.HARD_NEGATIVE_VM, *origin),
        ledgers.from_tubelets(found.possible_negatives, negative, Source.HARD_NEGATIVE_VH, *origin),
    )


def model_hash(lpg: Artifact, lpc: Artifact) -> str:
    """Names the weights of both models."""
    return settings_hash(*(each.content or weights_hash(each.path) for each in (lpg, lpc)))


def _job(run: Run, model: str, k: int, out: Location, table: Artifact, start: Location | None) -> FitJob:
    seed = run.settings.seed * 100 + k
    return FitJob(model, run.settings, run.store.path, out, run.mined, run.folds, table.path, start, seed)
