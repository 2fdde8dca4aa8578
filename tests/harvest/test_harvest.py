"""The whole loop on a local Ray: small phantoms, small networks, a target low enough that something is harvested."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from harvester.config.loading import dump, resolve
from harvester.config.settings import Settings
from harvester.distributed.training import FitJob, train_folds
from harvester.errors import NoExamplesError
from harvester.frontier import narrowed, trace
from harvester.labels.folds import patient_folds
from harvester.mining.fusion import fusions
from harvester.pretrain import pretrain
from harvester.results.scored import last_round, scored_rounds
from harvester.run.folder import Run
from harvester.run.summary import read_summary
from harvester.run.tracking import Tracker
from harvester.storage.location import Location
from harvester.store.store import Store
from harvester.weights.starting import STAGES, starting_weights
from tests.tiny_harvest import harvested

# Two rounds are four fits of Ray Train, 14 to 20 seconds each before their first step.
pytestmark = pytest.mark.timeout(500)


def test_a_run_leaves_its_harvest_ledger_summary_report_and_models(night: Path, store: Store) -> None:
    summary = json.loads((night / "summary.json").read_text())
    assert [row["round"] for row in summary["rounds"]] == [0, 1]
    assert read_summary(night).model_dump(mode="json") == summary
    found = pq.read_table(night / "harvest.parquet")
    assert len(found) == summary["final"]["harvested"] > 0
    splits = {row["volume_id"]: row["split"] for row in store.manifest.to_pylist()}
    assert {splits[v] for v in found["volume_id"].to_pylist()} == {"vh_test"}
    ledger = pq.read_table(night / "ledger.parquet")
    sources = set(ledger["source"].to_pylist())
    assert {"clinical", "annotated", "harvested", "hard_negative_vm"} <= sources
    mined = [row for row in ledger.to_pylist() if row["round"] >= 0]
    assert all(row["model_hash"] and row["run_id"] for row in mined)
    assert (night / "report.html").stat().st_size > 10_000
    ranked = pq.read_table(night / "missing.parquet")
    assert set(ranked["volume_id"].to_pylist()) == {v for v, split in splits.items() if split == "vh_test"}
    assert sum(ranked["harvested"].to_pylist()) == len(found)
    assert set(summary["controls"]) == {"lpg_alone", "lpc_shuffled"}
    assert len(list(night.glob("round-*/generator-*/fold-*.safetensors"))) == 6


def test_the_truth_of_vh_test_is_in_no_label(night: Path, store: Store) -> None:
    hidden = {row["mark_id"] for row in store.truth().to_pylist() if not row["clinical"]}
    labels = {row["label_id"] for row in pq.read_table(night / "ledger.parquet").to_pylist()}
    assert hidden
    assert not hidden & labels


def test_a_run_broken_off_in_round_1_ends_with_the_same_harvest(
    night: Path, settings: Settings, store: Store, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    shutil.copytree(night, again)
    for late in (
        *again.glob("round-1/classifier-*"),
        *again.glob("round-1/scored-*"),
        again / "round-1" / "round.json",
        again / "harvest.parquet",
    ):
        shutil.rmtree(late) if late.is_dir() else late.unlink()
    kept = {p: p.stat().st_mtime_ns for p in again.glob("round-*/*") if p.is_file()}
    harvested(settings, store, again)
    assert pq.read_table(again / "harvest.parquet").equals(pq.read_table(night / "harvest.parquet"))
    assert pq.read_table(again / "ledger.parquet").equals(pq.read_table(night / "ledger.parquet"))
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items() if path.exists())


def test_a_pretraining_leaves_weights_that_each_fold_starts_from(
    night: Path, settings: Settings, store: Store, tmp_path: Path
) -> None:
    # Its steps are those of round 0, which the run has taken: what is left is to measure and to publish.
    shutil.copytree(night, tmp_path / "run")
    run = Run.open(tmp_path / "run", settings, store)
    with Tracker.open(run, None) as tracker:
        made = pretrain(run, tracker, {})
    assert sorted(made.card.files) == sorted(
        f"{stage}{end}.safetensors" for stage in STAGES for end in ("", "-0", "-1")
    )
    # Whom the weights that it started from have seen, it has seen; phantoms are drawn anew by every seed.
    shipped = starting_weights(settings)
    assert shipped and (made.card.patients, made.card.start) == (shipped.card.patients, shipped.digest)
    assert made.card.figures["volumes"] == 6
    assert 0 <= made.card.figures["lpg_sensitivity_at_16"] <= 1
    again = settings.model_copy(update={"starting_weights": str(made.folder), "whole_model": False})
    start = Run.open(tmp_path / "started", again, store).starting("generator")
    assert start is not None
    for fold in range(2):  # each starts from those that have not seen its patients
        without = next(night.glob(f"round-0/generator-*/fold-{fold}.safetensors"))
        assert (start.path / f"fold-{fold}.safetensors").read_bytes() == without.read_bytes()


def test_a_round_that_harvests_nothing_ends_the_run_with_its_reason(
    night: Path, settings: Settings, store: Store, tmp_path: Path
) -> None:
    strict = settings.operating_point.model_copy(update={"target_precision": 0.999, "confidence": 0.99})
    folder = tmp_path / "strict"
    shutil.copytree(night, folder)
    history = harvested(settings.model_copy(update={"operating_point": strict, "rounds": 1}), store, folder)
    assert len(history.rounds) == 1
    summary = read_summary(folder)
    assert (summary, summary.final.harvested) == (history.summary, 0)
    assert "V_M does not prove a precision of 0.999" in summary.stopped_because
    assert pq.read_table(folder / "harvest.parquet").num_rows == 0
    assert (folder / "report.html").exists()


def test_other_targets_of_a_finished_run(night: Path, settings: Settings, store: Store, tmp_path: Path) -> None:
    assert last_round(night) == 1
    own = settings.operating_point.model_copy(update={"min_slices": (1, 2)})
    both = settings.model_copy(update={"operating_point": own})
    frontier = trace(scored_rounds(night, 1), store, both, [0.9, 0.03], tmp_path / "work")
    assert len(frontier.trials) == 4
    recalls = [trial.known_recall for trial in frontier.trials]
    assert recalls == sorted(recalls, reverse=True)
    assert [(row.target, row.way) for row in frontier.rows] == [
        (0.03, "certified"), (0.03, "point estimate"), (0.9, "certified"), (0.9, "point estimate"),
    ]  # fmt: skip
    assert frontier.rows[1].recall_vm >= frontier.rows[0].recall_vm
    assert frontier.rows[0].harvested >= frontier.rows[2].harvested
    file = tmp_path / "target.yaml"
    file.write_text(dump(narrowed(both, frontier, 0.9)))
    assert resolve(file).operating_point.target_precision == 0.9
    assert fusions(resolve(file).operating_point) == [frontier.trials[0].choice]


def test_an_error_of_ours_in_a_training_worker_stays_one(store: Store, settings: Settings, tmp_path: Path) -> None:
    rows = store.manifest.to_pylist()
    out = Location.of(tmp_path)
    (out / "none.parquet").write_table(pa.table({"volume_id": ["nowhere"], "tubelet_id": [0], "label": [1]}))
    folds = patient_folds(rows, settings.folds, settings.seed)
    job = FitJob("classifier", settings, store.path, out, store.manifest, folds, out / "none.parquet", None, 0)
    with pytest.raises(NoExamplesError, match="the classifier has no example of class 1") as caught:
        train_folds(job)
    assert "\n" not in str(caught.value)


def test_no_patient_is_scored_by_a_model_that_saw_it(settings: Settings, store: Store) -> None:
    rows = store.manifest.to_pylist()
    folds = patient_folds(rows, settings.folds, settings.seed)
    assert set(folds) == {row["patient_id"] for row in rows}
    for split in ("vm", "vh_test"):
        patients = {row["patient_id"] for row in rows if row["split"] == split}
        counts = [sum(folds[p] == fold for p in patients) for fold in range(settings.folds)]
        assert max(counts) - min(counts) <= 1


def test_ray_is_the_test_sessions_own(local_ray: None) -> None:
    assert ray.is_initialized()
