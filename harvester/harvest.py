"""The method of Lesion Harvester (Cai et al., IEEE TMI 2021), one call a step. Start reading here.

V_M: volumes in which every lesion is marked. V_H: volumes in which one or two are. LPG: lesion proposal generator.
LPC: lesion proposal classifier. Every model comes in folds by patient, and no volume is ever scored by a model
that saw its patient: what is measured on V_M then holds for V_H.
"""

import json
import logging

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.certificate.selection import Rehearsal, Solved, as_json, from_json, nothing_scored
from harvester.config.loading import settings_hash
from harvester.distributed.inference import InferenceJob, Proposer, Scorer, run_over_volumes
from harvester.distributed.training import FitJob, train_folds
from harvester.distributed.tuning import search
from harvester.errors import NoExamplesError
from harvester.labels import ledger as ledgers
from harvester.mining import calibration, candidates, fusion, negatives
from harvester.mining.candidates import outside_ignored
from harvester.models.pretrained import named_by_content
from harvester.records import ACCEPTED, LEDGER, PARTLY_MARKED, SCORED
from harvester.results.completeness import rank_volumes
from harvester.results.summary import History
from harvester.run.folder import Output, Run, table_hash, weights_hash
from harvester.run.tracking import Tracker
from harvester.storage.location import Location

logger = logging.getLogger(__name__)


def harvest(run: Run, tracker: Tracker) -> History:
    """Mine until a round finds next to nothing. Tables, models and the summary lie in the run's folder.

    A round whose models have nothing to learn from harvests nothing and is the last; the summary says why.
    """
    ledger = ledgers.known_before(run.store.marks(), run.store.reviewed())
    rehearsed = ACCEPTED.empty_table()
    history = History(run)
    start: Output | None = None
    lpc: Output | None = None
    scored, point = SCORED.empty_table(), nothing_scored(run.settings.operating_point, "no round was scored")
    for k in range(run.settings.rounds):
        try:
            lpg = train_generator(run, k, ledger, start)
            start = next_start(run, start, lpg)
            tubelets = propose(run, k, lpg)
            lpc = train_classifier(run, k, tubelets, ledger, lpg, lpc)
        except NoExamplesError as error:
            give_up(run, k, history, tracker, str(error))
            break
        scored = classify(run, k, tubelets, lpc)
        point = choose_operating_point(run, k, scored, ledger, rehearsed)
        found = mine(run, scored, ledger, point, rehearsed)
        ledger = record(run, k, ledger, found, (lpg, lpc))
        rehearsed = pa.concat_tables([rehearsed, found.rehearsed])
        history.add(k, scored, point, found, model_hash(lpg, lpc))
        tracker.log_round(k, history.params(), history.metrics())
        if history.gain() <= run.settings.min_gain:
            break
    (run.folder / "rehearsed.parquet").write_table(rehearsed)
    history.finish(ledger, rank_missing(run, scored, ledger, point, rehearsed))
    return history


def give_up(run: Run, k: int, history: History, tracker: Tracker, reason: str) -> None:
    """Tell a round that could not learn: nothing harvested, and why. Labels and rehearsal stay as they were."""
    logger.warning("round %d harvests nothing: %s", k, reason)
    point = nothing_scored(run.settings.operating_point, reason)
    found = mine(run, SCORED.empty_table(), LEDGER.empty_table(), point, ACCEPTED.empty_table())
    history.add(k, SCORED.empty_table(), point, found, "")
    tracker.log_round(k, history.params(), history.metrics())


def train_generator(run: Run, k: int, ledger: pa.Table, start: Output | None) -> Output:
    """LPG on all labels so far; from round 1 on finetuned from `start` with the suppression loss."""
    settings = run.settings
    key = run.key(
        generator=named_by_content(settings.generator),
        grid=settings.grid,
        folds=settings.folds,
        seed=settings.seed,
        data=run.data_hash,
        precision=settings.compute.precision,
        labels=table_hash(ledger.drop_columns(["run_id"])),
        start=start.key if start else "",
    )
    table = run.table(
        "labels", k, key, lambda: ledgers.extend(ledger, ledgers.from_ignored(run.store.ignore()))
    )
    weights = start.path if start else None
    return run.weights(
        "generator", k, key, lambda out: train_folds(_job(run, "generator", k, out, table, weights))
    )


def next_start(run: Run, start: Output | None, lpg: Output) -> Output:
    """The LPG that the next round's is finetuned from: this round's, or always round 0's."""
    return start if start and run.settings.generator.finetune_from == "first" else lpg


def propose(run: Run, k: int, lpg: Output) -> Output:
    """Every volume through the LPG that never saw its patient; boxes linked to tubelets."""
    key = run.key(generator_weights=lpg.key, linking=run.settings.linking)
    counts: dict[str, float] = {"slices": run.slices}

    def make() -> pa.Table:
        partials = run.partials("tubelets", k, key)
        job = InferenceJob(run.settings, run.store.path, lpg.path, run.folds, partials)
        table, measured = run_over_volumes(Proposer, job, run.mined)
        counts.update(measured)
        return outside_ignored(table, run.store.ignore())

    return run.table("tubelets", k, key, make, counts)


def train_classifier(
    run: Run, k: int, tubelets: Output, ledger: pa.Table, lpg: Output, before: Output | None
) -> Output:
    """LPC on tubelets: lesions against what surely is none; from round 1 on finetuned."""
    own = run.settings.classifier
    key = run.key(
        tubelets=tubelets.key,
        classifier=named_by_content(own),
        labels=table_hash(ledger.drop_columns(["run_id"])),
        seed=run.settings.seed,
        start=before.key if before else "",
    )

    def label() -> pa.Table:
        table = negatives.to_classify(tubelets.path.read_table(), own.max_tubelets)
        lesion, other = negatives.classifier_examples(table, ledger, run.store.manifest, own.match_iou)
        kept = np.flatnonzero(lesion | other)
        return table.take(kept).append_column("label", pa.array(lesion[kept].astype(np.int32)))

    table = run.table("examples", k, key, label)
    return run.weights(
        "classifier",
        k,
        key,
        lambda out: train_folds(_job(run, "classifier", k, out, table, (before or lpg).path)),
    )


def classify(run: Run, k: int, tubelets: Output, lpc: Output) -> pa.Table:
    """Every tubelet through the LPC that never saw its patient."""
    key = run.key(tubelets=tubelets.key, classifier_weights=lpc.key)
    counts: dict[str, float] = {"slices": run.slices}

    def make() -> pa.Table:
        job = InferenceJob(
            run.settings, run.store.path, lpc.path, run.folds, run.partials("scored", k, key), tubelets.path
        )
        table, measured = run_over_volumes(Scorer, job, run.mined)
        counts.update(measured)
        return table

    return run.table("scored", k, key, make, counts).path.read_table()


def choose_operating_point(
    run: Run, k: int, scored: pa.Table, ledger: pa.Table, rehearsed: pa.Table
) -> Solved:
    """The lowest threshold whose precision is proven on V_M, with the settings that find the most known lesions."""
    settings = run.settings.operating_point
    known = ledgers.spread(ledger, run.store.manifest)
    free = calibration.rehearsal_candidates(scored, run.store.manifest, known, rehearsed, run.settings.mining)
    lesions = calibration.rehearsal_lesions(run.store.marks(), run.store.manifest)
    finds = calibration.clinical_finds(scored, ledger, settings.match_iou)
    tables = {"candidates": free, "lesions": lesions, "rehearsed": rehearsed, "known": finds}
    last = k + 1 == run.settings.rounds
    hashes = {name: table_hash(table) for name, table in tables.items()}
    key = run.key(operating_point=settings, last=last, **hashes)
    files = {name: run.table(name, k, key, lambda table=table: table).path for name, table in tables.items()}  # type: ignore[misc]
    rehearsal = Rehearsal(files["candidates"], files["lesions"], files["rehearsed"], files["known"], last)
    storage = run.of_round(k) / "tune"
    point = run.values("operating-point", k, key, lambda: as_json(search(rehearsal, settings, storage)))
    return from_json(json.loads(point.path.read_text()))


def mine(
    run: Run, scored: pa.Table, ledger: pa.Table, solved: Solved, rehearsed: pa.Table
) -> candidates.Found:
    """Harvested lesions of V_H, the same rule's answer on V_M, hard negatives of both."""
    settings, manifest = run.settings.mining, run.store.manifest
    known = ledgers.spread(ledger, manifest)
    partly = candidates.split_of(scored, manifest, *PARTLY_MARKED)
    free = candidates.candidates(partly, ledgers.settled(known), settings)
    lesions = fusion.select(free, solved.choice, solved.point.threshold)
    practice = calibration.rehearsal_candidates(scored, manifest, known, rehearsed, settings)
    accepted = fusion.select(practice, solved.choice, solved.point.threshold)
    targets = calibration.rehearsal_lesions(run.store.marks(), manifest)
    correct, _ = calibration.judge(accepted, targets, run.settings.operating_point.match_iou)
    with_lesions = ledgers.extend(known, ledgers.from_tubelets(lesions, "lesion", "harvested", 0, "", ""))
    return candidates.Found(
        lesions,
        accepted.append_column("correct", pa.array(correct)),
        negatives.sure_hard_negatives(candidates.split_of(scored, manifest, "vm"), known, settings),
        negatives.possible_hard_negatives(partly, with_lesions, settings),
    )


def record(
    run: Run, k: int, ledger: pa.Table, found: candidates.Found, models: tuple[Output, Output]
) -> pa.Table:
    """The ledger with this round's lesions, and with its hard negatives in place of the last round's mined ones."""
    origin = (k, model_hash(*models), run.id)
    return ledgers.extend(
        ledgers.lasting(ledger),
        ledgers.from_tubelets(found.lesions, "lesion", "harvested", *origin),
        ledgers.from_tubelets(found.sure_negatives, "hard_negative", "hard_negative_vm", *origin),
        ledgers.from_tubelets(found.possible_negatives, "hard_negative", "hard_negative_vh", *origin),
    )


def rank_missing(
    run: Run, scored: pa.Table, ledger: pa.Table, solved: Solved, rehearsed: pa.Table
) -> pa.Table:
    """V_H's volumes by how many lesions they miss: those harvested and those that the last round left unproven."""
    settings, manifest = run.settings, run.store.manifest
    known = ledgers.spread(ledger, manifest)
    partly = candidates.split_of(scored, manifest, *PARTLY_MARKED)
    free = candidates.candidates(partly, ledgers.settled(known), settings.mining)
    practice = calibration.rehearsal_candidates(scored, manifest, known, rehearsed, settings.mining)
    left, practice = (fusion.select(table, solved.choice, 0.0) for table in (free, practice))
    targets = calibration.rehearsal_lesions(run.store.marks(), manifest)
    correct, _ = calibration.judge(practice, targets, settings.operating_point.match_iou)
    harvested = ledger.filter(pc.equal(ledger["source"], "harvested"))
    practice = practice.append_column("correct", pa.array(correct))
    return rank_volumes(manifest, run.store.marks(), harvested, left, practice, PARTLY_MARKED)


def model_hash(lpg: Output, lpc: Output) -> str:
    """Names the weights of both models."""
    return settings_hash(weights_hash(lpg.path), weights_hash(lpc.path))


def _job(run: Run, model: str, k: int, out: Location, table: Output, start: Location | None) -> FitJob:
    seed = run.settings.seed * 100 + k
    return FitJob(model, run.settings, run.store.path, out, run.mined, run.folds, table.path, start, seed)
