"""The loop where a model has nothing to learn from, with stand-ins for what runs on Ray (which is not started)."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harvester import harvest as loop
from harvester.certificate import selection
from harvester.certificate.selection import CalibrationFiles, SelectedPoint, select_point
from harvester.config.settings import Settings
from harvester.distributed.training import FitJob
from harvester.errors import NoExamplesError, StepError
from harvester.mining.fusion import fusions
from harvester.records import SCHEMAS, SCORED
from harvester.report.build import write_report
from harvester.results.history import History
from harvester.run.folder import Run
from harvester.run.summary import RoundResult, read_summary
from harvester.run.tracking import Tracker
from harvester.store.store import Store
from tests.builders import made_store, mark, tubelet

HIDDEN, CLINICAL, FALSE = (8.0, 8.0, 23.0, 23.0), (32.0, 8.0, 47.0, 23.0), (8.0, 40.0, 23.0, 55.0)
BROKEN: tuple[str, ...] = ()
"""Volumes that cannot be scored."""
REASON = "the classifier has no example of class 1: no tubelet matches a known lesion"
SETTINGS = Settings.model_validate({"rounds": 3, "operating_point": {"min_slices": [1], "target_precision": 0.5}})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Ten volumes of V_M and six of V_H^test, a patient each, with a clinical mark and a lesion without one."""
    return archive(tmp_path / "store", vm=10, vh_test=6)


def archive(folder: Path, **patients: int) -> Store:
    """So many volumes of each split, a patient each, with a clinical mark and a lesion without one."""
    splits = {f"{split}-{i}": split for split, count in patients.items() for i in range(count)}
    known, truth = [], []
    for name, split in splits.items():
        clinical, hidden = mark(name, CLINICAL), mark(name, HIDDEN, clinical=False)
        known += [clinical, hidden] if split == "vm" else [clinical]
        truth += [clinical, hidden] if split == "vh_test" else []
    return made_store(folder, splits, known, truth, np.zeros((9, 64, 64), np.int16))


def proposed(rows: list[dict[str, Any]]) -> pa.Table:
    """Tubelets on each volume's two lesions and on nothing; the classifier knows which."""
    found = [
        tubelet(volume["volume_id"], box, lpg_score=0.6, lpc_score=lpc, width_mm=16.0, tubelet_id=i)
        for volume in rows
        for i, (box, lpc) in enumerate(((HIDDEN, 0.9), (CLINICAL, 0.8), (FALSE, 0.01)))
    ]
    return pa.Table.from_pylist(found, SCORED)


@pytest.fixture
def harvested(monkeypatch: pytest.MonkeyPatch, store: Store, tmp_path: Path) -> Callable[..., History]:
    """One run of the loop in which fitting `model` in `round_index` finds no examples."""

    def run(model: str, round_index: int, settings: Settings = SETTINGS) -> History:
        def fit(job: FitJob) -> None:
            if job.model == model and job.seed % 100 == round_index:
                raise NoExamplesError(REASON)
            for fold in range(job.settings.folds):
                (job.out / f"fold-{fold}.safetensors").write_bytes(f"{job.model} {job.seed}".encode())

        def selected(files: CalibrationFiles, settings: Settings, _: Path) -> SelectedPoint:
            own = settings.operating_point
            return select_point(files.read(), fusions(own)[0], own)

        def over_volumes(actor: Any, job: Any, manifest: pa.Table) -> dict[str, float]:
            columns = SCHEMAS[actor.kind].names
            errors = dict.fromkeys(BROKEN if "lpc_score" in columns else (), "StoreError: cannot be read")
            every = manifest.sort_by("volume_id").to_pylist()
            kept = [row for row in every if row["volume_id"] not in errors]
            note = {"errors": errors, "volumes": [row["volume_id"] for row in every]}
            job.partials.publish("000000-all", proposed(kept).select(columns), note)
            return {"memory_mib": 1.0}

        monkeypatch.setattr(loop, "train_folds", fit)
        monkeypatch.setattr(loop, "run_over_volumes", over_volumes)
        monkeypatch.setattr(loop, "search", selected)
        opened = Run.open(tmp_path / "run", settings, store)
        history = loop.harvest(opened, Tracker(opened))
        write_report(history.report_inputs())
        return history

    return run


@pytest.mark.parametrize("model", ["generator", "classifier"])
def test_a_first_round_without_examples_harvests_nothing(
    model: str, harvested: Callable[..., History], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        summary = harvested(model, 0).summary
    assert summary is not None
    assert f"round 0 harvests nothing: {REASON}" in caplog.messages
    written = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert written == summary.model_dump(mode="json") and read_summary(tmp_path / "run") == summary
    assert (written["format"], (tmp_path / "run" / "calibration.parquet").is_file()) == (1, True)
    assert written["stopped_because"] == f"round 0 harvested nothing: {REASON}"
    (row,) = written["rounds"]
    assert row.keys() == RoundResult.model_fields.keys()
    assert (row["refused"], row["harvested"], row["threshold"]) == (REASON, 0, None)
    assert row["precision_bound"] is row["point_estimate"]["precision_vm"] is None
    # Nothing was scored, so nothing is said of the proposals.
    assert row["lpg_sensitivity"] is row["lpg_ap"] is row["lpc_ap"] is None
    assert written["final"]["harvested"] == 0
    assert all(control["harvested"] == 0 for control in written["controls"].values())
    assert pq.read_table(tmp_path / "run" / "harvest.parquet").num_rows == 0
    missing = pq.read_table(tmp_path / "run" / "missing.parquet")
    assert (len(missing), set(missing["harvested"].to_pylist())) == (6, {0})
    assert set(missing["expected_missing"].to_pylist()) == {None}
    assert set(missing["left_out"].to_pylist()) == {"nothing was scored"}
    assert (row["comparison"], written["earlier_looks"]) == (None, None)
    assert REASON in (tmp_path / "run" / "report.html").read_text()


def test_a_later_round_without_examples_leaves_what_was_found(
    harvested: Callable[..., History], tmp_path: Path
) -> None:
    history = harvested("classifier", 1)
    folder = tmp_path / "run"
    written = json.loads((folder / "summary.json").read_text())
    assert [row["harvested"] for row in written["rounds"]] == [6, 0]
    assert [row["refused"] for row in written["rounds"]] == ["", REASON]
    assert (written["final"]["harvested"], written["final"]["precision"], written["final"]["recall_unmarked"]) == (
        6,
        1,
        1,
    )
    assert written["final"]["threshold"] == written["rounds"][0]["threshold"]
    assert [curve["name"] for curve in history.curves] == ["round 0: LPG", "round 0: LPG + LPC"]
    # The labels are those that round 1 would have learnt from, hard negatives too.
    sources = pq.read_table(folder / "ledger.parquet")["source"].to_pylist()
    assert sources.count("harvested") == 6
    assert sources.count("hard_negative_vm") == 10
    assert pq.read_table(folder / "missing.parquet")["best_left"].null_count == 0


def test_what_was_left_out_looked_at_and_compared_is_told(
    harvested: Callable[..., History],
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(globals(), "BROKEN", ("vm-0", "vh_test-0", "vh_test-1"))
    with caplog.at_level(logging.INFO):
        history = harvested("classifier", 1)
    assert history.summary is not None
    first, second = history.summary.rounds
    assert (first.left_out, second.left_out) == ({"vh_test": 2, "vm": 1}, {})
    assert first.comparison is not None and second.comparison is None
    assert (first.comparison.patients_vm, first.comparison.patients_vh) == (9, 4)
    told = (
        "too few patients to tell whether V_H is like V_M (9 patients of V_M, 4 of V_H; at least 5 of each are asked)"
    )
    assert f"round 0: {told}" in caplog.messages
    rows = {row["volume_id"]: row for row in pq.read_table(tmp_path / "run" / "missing.parquet").to_pylist()}
    assert rows["vh_test-0"]["expected_missing"] is None
    assert rows["vh_test-0"]["left_out"] == "StoreError: cannot be read"
    assert rows["vh_test-2"]["expected_missing"] == 1
    # Going on is the same look at V_M, another seed is another one.
    again = harvested("classifier", 1, SETTINGS.model_copy(update={"seed": 4}))
    resumed = harvested("classifier", 1)
    assert [each.summary and each.summary.earlier_looks for each in (history, again, resumed)] == [0, 1, 0]
    assert len((store.path / "looks").files()) == 2


def test_such_a_run_goes_on_where_it_stopped(harvested: Callable[..., History], tmp_path: Path) -> None:
    harvested("classifier", 1)
    table = (tmp_path / "run" / "harvest.parquet").read_bytes()
    steps = {p: p.stat().st_mtime_ns for p in tmp_path.glob("run/round-*/*") if p.is_file()}
    again = harvested("classifier", 1)
    assert [row.refused for row in again.rounds] == ["", REASON]
    # A step that was done before reads in the summary as one that was done now.
    text = (tmp_path / "run" / "summary.json").read_text()
    assert {tuple(step) for step in json.loads(text)["steps"]} == {("round", "step", "seconds", "counts", "key")}
    assert (tmp_path / "run" / "harvest.parquet").read_bytes() == table
    assert {p: p.stat().st_mtime_ns for p in steps} == steps
    # With examples after all (other settings, say) the same folder gets its later rounds.
    assert len(harvested("none", 9).rounds) == 2
    assert issubclass(NoExamplesError, StepError)


@pytest.mark.parametrize(("rounds", "ran"), [(1, 1), (2, 2), (4, 2)])
def test_a_first_round_that_certifies_nothing_is_followed_by_a_second(
    harvested: Callable[..., History], rounds: int, ran: int
) -> None:
    strict = SETTINGS.operating_point.model_copy(update={"target_precision": 0.99})
    history = harvested("none", 9, SETTINGS.model_copy(update={"rounds": rounds, "operating_point": strict}))
    assert [row.harvested for row in history.rounds] == [0] * ran
    assert history.summary is not None
    assert history.summary.stopped_because.startswith(
        f"round {ran - 1} harvested nothing: V_M does not prove a precision of 0.990"
    )


def test_what_v_m_never_showed_of_one_patient_is_left_for_review_and_told(
    harvested: Callable[..., History], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    usual, odd = proposed, [(40.0, 40.0, 47.0, 47.0), (50.0, 50.0, 57.0, 57.0)]
    found = [tubelet("vh_test-0", box, lpg_score=0.6, lpc_score=0.95, tubelet_id=9 + i) for i, box in enumerate(odd)]
    extra = pa.Table.from_pylist(found, SCORED)
    monkeypatch.setitem(globals(), "proposed", lambda rows: pa.concat_tables([usual(rows), extra]))
    with caplog.at_level(logging.INFO):
        history = harvested("none", 9)
    left = history.rounds[0].left_for_review
    assert (left.tubelets, left.patients, left.most_per_patient, left.untried_folds) == (2, 1, 1, ())
    assert history.rounds[0].harvested == 6
    told = "round 0: 2 of the 8 tubelets that reach the threshold are left for review (of 1 patients): what exceeds 1 "
    assert told + "of one patient, the most that one of V_M gave" in caplog.messages
    (file,) = (tmp_path / "run" / "round-1").glob("labels-*.parquet")
    labels = pq.read_table(file)
    assert [row["role"] for row in labels.to_pylist() if row["source"] == "left_for_review"] == ["ignored"] * 2


def other_look(rows: list[dict[str, Any]]) -> pa.Table:
    """A classifier that takes nothing for lesions."""
    found = [
        tubelet(volume["volume_id"], box, lpg_score=0.6, lpc_score=0.9 if box == FALSE else 0.01, tubelet_id=i)
        for volume in rows
        for i, box in enumerate((HIDDEN, CLINICAL, FALSE))
    ]
    return pa.Table.from_pylist(found, SCORED)


def in_turn(*looks: Callable[[list[dict[str, Any]]], pa.Table]) -> Callable[[list[dict[str, Any]]], pa.Table]:
    """One look a round: each is asked for twice, proposing and scoring."""
    calls = iter([look for look in looks for _ in range(2)])
    return lambda rows: next(calls)(rows)


def test_what_the_last_scored_round_cannot_prove_is_not_harvested(
    harvested: Callable[..., History], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(globals(), "proposed", in_turn(proposed, other_look))
    history = harvested("none", 9, SETTINGS.model_copy(update={"rounds": 2}))
    assert [row.harvested for row in history.rounds] == [6, 0]
    assert history.summary is not None
    final = history.summary.final
    assert (final.round, final.harvested, final.threshold, final.certified_precision) == (1, 0, None, None)
    assert history.summary.stopped_because.startswith("round 1 harvested nothing: ")
    # A wrong early find would leave with the rest.
    for name in ("harvest", "calibration"):
        assert len(pq.read_table(tmp_path / "run" / f"{name}.parquet")) == 0
    assert "harvested" not in pq.read_table(tmp_path / "run" / "ledger.parquet")["source"].to_pylist()


def test_a_refused_round_is_followed_by_one_that_takes_the_last_word(
    harvested: Callable[..., History], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "proposed", in_turn(*[proposed] * 2, other_look, other_look, proposed))
    history = harvested("none", 9, SETTINGS.model_copy(update={"rounds": 5, "min_gain": 0.0}))
    # Constant candidates: what they are was settled in round 1, whatever is certified of them.
    assert [row.gain for row in history.rounds] == [1.0, 0.0]
    assert history.summary is not None
    told = "0.0% of the best candidates of round 1 were new, not more than min_gain"
    assert (history.summary.stopped_because, history.summary.final.harvested) == (told, 6)
    assert {row["round"] for row in history.lesions.to_pylist()} == {1}


def test_what_v_m_shows_has_no_say_in_which_round_is_the_last(
    harvested: Callable[..., History], monkeypatch: pytest.MonkeyPatch
) -> None:
    """V_M's labels turned round: nothing is certified, and the rounds' gains are the same."""
    first = harvested("none", 9)
    turned = lambda selected, lesions, iou: ~match(selected, lesions, iou)  # noqa: E731
    match = selection.match_to_lesions
    monkeypatch.setattr(selection, "match_to_lesions", turned)
    strict = SETTINGS.operating_point.model_copy(update={"target_precision": 0.8})
    other = harvested("none", 9, SETTINGS.model_copy(update={"operating_point": strict}))
    assert [bool(row.refused) for row in first.rounds] != [bool(row.refused) for row in other.rounds]
    assert [row.gain for row in first.rounds] == [row.gain for row in other.rounds]
