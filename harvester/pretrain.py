"""Starting weights for other archives: both stages, fitted to volumes in which every lesion is known.

The steps are a harvest's round 0 without the harvest: generator, proposals, classifier, each in folds by patient, so
that the card's figures are of patients that no model saw. One more model of each stage is fitted on all patients.
"""

import hashlib
import json
import logging
import time
from typing import Any

import harvester
from harvester.evaluation.matching import hits, overlaps
from harvester.harvest import classify, propose, train_classifier, train_generator
from harvester.mining.candidates import outside_ignored, split_of
from harvester.mining.round_view import StoreTables
from harvester.records import ScoredTable, Split, each_row, rows_where
from harvester.results.truth import ProposalScores
from harvester.run.folder import Artifact, Run
from harvester.run.tracking import Tracker
from harvester.storage.location import writing
from harvester.weights.starting import STAGES, Card, StartingWeights, networks_of

logger = logging.getLogger(__name__)


def pretrain(run: Run, tracker: Tracker, scans: dict[str, str]) -> StartingWeights:
    """Fit, score out of fold, write the weights and their card into the run's folder (`weights/`).

    scans   voxel_hash: patient_id of the scans that the volumes are cut from
    """
    ledger = StoreTables.of(run.store, run.settings).ledger
    lpg = train_generator(run, 0, ledger, run.starting("generator"))
    tubelets = propose(run, 0, lpg)
    lpc = train_classifier(run, 0, tubelets, ledger, lpg, run.starting("classifier"))
    figures = measure(run, classify(run, 0, tubelets, lpc).table.whole())
    tracker.log_round(0, {}, figures)
    return publish(run, {"generator": lpg, "classifier": lpc}, scans, figures)


def measure(run: Run, scored: ScoredTable) -> dict[str, float]:
    """Of the completely marked volumes, out of fold: the generator's sensitivity at FP_RATES, AP of both stages."""
    store, iou = run.store, run.settings.operating_point.match_iou
    lesions = split_of(store.marks(), store.manifest, Split.VM).combine_chunks()
    mine = outside_ignored(split_of(scored, store.manifest, Split.VM), store.ignore())
    volumes = len(rows_where(store.manifest, "split", Split.VM))
    figures = {"lesions": float(len(lesions)), "volumes": float(volumes)}
    for stage, score in (("lpg", "lpg_score"), ("lpc", "lpc_score")):
        found = hits(overlaps(mine, lesions), mine[score].to_numpy(), len(lesions), iou)
        scores = ProposalScores.of(found, volumes)
        figures[f"{stage}_ap"] = scores.ap or 0.0
        figures |= {f"{stage}_sensitivity_at_{rate}": value for rate, value in (scores.sensitivity or {}).items()}
    return {name: round(value, 4) for name, value in figures.items()}


def publish(run: Run, models: dict[str, Artifact], scans: dict[str, str], figures: dict[str, float]) -> StartingWeights:
    """The folder `weights` of the run: every model's file, the card last."""
    out, settings = run.folder / "weights", run.settings
    files: dict[str, str] = {}
    with writing(out):
        for stage in STAGES:
            for fold in range(settings.models):
                name = f"{stage}-{fold}" if fold < settings.folds else stage
                data = (models[stage].path / f"fold-{fold}.safetensors").read_bytes()
                (out / f"{name}.safetensors").write_bytes(data)
                files[f"{name}.safetensors"] = hashlib.sha256(data).hexdigest()
        card_of(run, files, scans, figures).write(out)
    return StartingWeights.open(out)


def card_of(run: Run, files: dict[str, str], scans: dict[str, str], figures: dict[str, float]) -> Card:
    """Everything that somebody who starts from the weights must know."""
    settings, seen = run.settings, [row for row in each_row(run.store.manifest) if is_a_scan(row)]
    before = run.start.card if run.start else None
    return Card(
        harvester=harvester.__version__,
        networks=json.loads(json.dumps(networks_of(settings))),
        folds=settings.folds,
        patients=(before.patients if before else {})
        | {row["patient_id"]: run.folds[row["patient_id"]] for row in seen},
        scans=(before.scans if before else {}) | scans,
        files=files,
        seed=settings.seed,
        steps={stage: _steps(settings, stage) for stage in STAGES},
        volumes=len(run.store.manifest),
        seconds=round(time.monotonic() - run.began, 1),
        start=run.start.digest if run.start else "",
        figures=figures,
    )


def is_a_scan(row: dict[str, Any]) -> bool:
    """Whether a volume is, or comes from, a scan that may be met again. Phantoms are drawn anew by every seed."""
    return not row["volume_id"].startswith("ph-")


def _steps(settings: Any, stage: str) -> int:
    model = getattr(settings, stage)
    return int(model.finetune_steps if settings.starting_weights else model.steps)
