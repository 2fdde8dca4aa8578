"""From a run that certified nothing to a harvest that people proved; stand-ins for what runs on Ray."""

import json
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from harvester.certificate.audit import Verdict
from harvester.certificate.audit_folder import AuditFolder, attempts
from harvester.certificate.preconditions import require_harvestable
from harvester.cli.audit import main
from harvester.cli.review import main as review_main
from harvester.config.settings import Settings
from harvester.errors import SettingsError
from harvester.export.selection import labels_of_run
from harvester.records import ScoredTable
from harvester.results.audit import draw
from harvester.results.audit_outcome import certified
from harvester.results.history import History
from harvester.results.scored import scored_round
from harvester.run.summary import read_summary
from harvester.run.tracking import EXPERIMENT
from harvester.storage.location import Location
from harvester.store.store import Store
from tests.loop.test_round_without_examples import SETTINGS, archive, harvested

__all__ = ["harvested"]
VOLUMES = 70
pytestmark = pytest.mark.filterwarnings("ignore:.*noload:DeprecationWarning")
STRICT = Settings.model_validate(
    SETTINGS.model_dump(mode="json")
    | {"rounds": 1, "operating_point": {"min_slices": [1], "target_precision": 0.9, "min_patients": 3}}
)


@pytest.fixture
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Store:
    """Ten patients of V_M, too few to prove 0.9, and seventy of V_H^test, each with a lesion that nobody marked."""
    return archive(tmp_path / "store", vm=getattr(request, "param", 10), vh_test=VOLUMES)


@pytest.fixture
def refused(harvested: Callable[..., History], tmp_path: Path, store: Store) -> list[str]:
    """A run whose V_M proves nothing, as the commands' arguments."""
    assert harvested("generator", 99, STRICT).summary.final.harvested == 0  # type: ignore[union-attr]
    return ["--run", str(tmp_path / "run"), "--store", str(tmp_path / "store")]


def folder(tmp_path: Path) -> AuditFolder:
    return AuditFolder.open(attempts(Location.of(tmp_path / "run"))[-1])


def read(tmp_path: Path, wrong: int = 0) -> list[str]:
    """Everything, by a reader who rejects some, cannot tell one, moves one; the finds of the list as they were read."""
    audit = folder(tmp_path)
    members = audit.plan.deck.members(0)
    said = dict.fromkeys(members, Verdict.ACCEPTED) | dict.fromkeys(audit.plan.deck.planted, Verdict.REJECTED)
    said |= {find: Verdict.ACCEPTED for find, lesion in audit.plan.deck.planted.items() if lesion}
    said |= dict.fromkeys(members[2 : 2 + wrong], Verdict.REJECTED) | {members[0]: Verdict.MOVED}
    said |= {members[1]: Verdict.UNSURE}
    with audit.reading("reader") as reader:
        for find in audit.plan.deck.screens(0):
            reader.say(find, said[find], [(5, (9.0, 9.0, 22.0, 22.0))] if said[find] == Verdict.MOVED else None)
    return members


def test_what_v_m_could_not_prove_a_reader_proves(
    refused: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    harvested: Callable[..., History],
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert main([*refused, "status"]) == 1
    assert "no audit was drawn" in capsys.readouterr().err
    assert main([*refused, "draw"]) == 0
    assert f"{VOLUMES} finds, frozen as" in capsys.readouterr().out
    assert main([*refused, "draw"]) == 1
    assert "was drawn already" in capsys.readouterr().err
    assert main([*refused, "certify"]) == 1
    assert "0.9 is not proven yet" in capsys.readouterr().err
    members = read(tmp_path, wrong=1)
    assert main([*refused, "status"]) == 0
    told = capsys.readouterr().out
    assert "Proven: at least 0.90 of the best 70 are right" in told
    assert f"{67 / 68:.3f}" in told, "of the 68 accepted one was moved"
    before = read_summary(tmp_path / "run")  # type: ignore[arg-type]
    assert main([*refused, "certify"]) == 0
    assert capsys.readouterr().out.startswith(f"{VOLUMES - 2} lesions certified at 0.9")
    summary = read_summary(tmp_path / "run")  # type: ignore[arg-type]
    audit = summary.audit
    assert audit is not None
    assert (audit.size, audit.reviewed, audit.right, audit.readers) == (VOLUMES, VOLUMES, VOLUMES - 2, 1)
    assert (audit.planted, audit.planted_accepted, len(audit.curve)) == (10, 0, VOLUMES)
    assert audit.bound >= 0.9 and list(audit.curve)[-1] == pytest.approx(audit.bound, abs=1e-4)
    assert (summary.final.harvested, summary.final.certified_precision) == (VOLUMES - 2, 0.9)
    assert (summary.earlier_looks, summary.seconds) == (before.earlier_looks, before.seconds)
    found = pq.read_table(tmp_path / "run" / "harvest.parquet")
    assert len(found) == VOLUMES - 2
    assert set(found["precision_bound"].to_pylist()) == {audit.bound}
    moved = next(row for row in found.to_pylist() if row["z"] == [5])
    assert moved["x1_px"] == [9.0]
    ledger = pq.read_table(tmp_path / "run" / "ledger.parquet").to_pylist()
    assert sum(row["source"] == "harvested" for row in ledger) == VOLUMES - 2
    assert [row["role"] for row in ledger if row["source"] == "reviewed"] == ["hard_negative"]
    assert not any(row["source"] == "likely" for row in ledger)
    exported = labels_of_run(Location.of(tmp_path / "run"), merge=False, hard_negatives=False)
    assert len(exported) == VOLUMES - 2 and all(row["precision_bound"] == audit.bound for row in exported)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "looked at" in page and "certified to be at least 0.9" in page
    client = MlflowClient(f"sqlite:///{tmp_path}/run/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])  # type: ignore[union-attr]
    (parent,) = [run for run in runs if "audit_right" in run.data.metrics]
    assert len(client.get_metric_history(parent.info.run_id, "audit_bound")) == VOLUMES
    assert parent.data.metrics["audit_right"] == VOLUMES - 2
    # Of other tubelets, as other settings would make, it says nothing.
    run, scored = Location.of(tmp_path / "run"), scored_round(Location.of(tmp_path / "run"), 0).whole()
    assert certified(run, scored) is not None
    with caplog.at_level("WARNING"):
        assert certified(run, ScoredTable(scored.slice(1))) is None
    assert "was of other tubelets than the run has now" in caplog.text
    # A start that finds nothing to do leaves it as it is.
    again = harvested("generator", 99, STRICT).summary
    assert again is not None and again.audit == audit
    assert pq.read_table(tmp_path / "run" / "harvest.parquet").equals(found)
    assert members


def test_a_list_with_too_many_wrong_ones_is_not_certified(
    refused: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*refused, "draw", "--planted", "0"]) == 0
    read(tmp_path, wrong=8)
    capsys.readouterr()
    assert main([*refused, "certify"]) == 1
    assert "0.9 is not proven, and all is read" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["audit"] is None
    page = (tmp_path / "run" / "report.html").read_text()
    assert "all are read, and a precision of 0.9 is not proven" in page
    assert main([*refused, "status"]) == 0
    assert "0.90 is not reached" in capsys.readouterr().out


def test_audits_of_other_runs_of_the_store_share_the_level_and_draw_no_list_again(
    refused: list[str], tmp_path: Path, harvested: Callable[..., History], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*refused, "draw"]) == 0
    assert folder(tmp_path).plan.level == pytest.approx(0.8 * 0.05)
    (tmp_path / "run").rename(tmp_path / "first")
    harvested("generator", 99, STRICT)
    assert main([*refused, "draw"]) == 1
    assert not attempts(Location.of(tmp_path / "run"))
    (tmp_path / "run").rename(tmp_path / "second")
    monkeypatch.setattr("tests.loop.test_round_without_examples.BROKEN", ("vh_test-0",))
    harvested("generator", 99, STRICT)
    assert main([*refused, "draw"]) == 0
    drawn = folder(tmp_path).plan
    assert (len(drawn.deck.order), drawn.attempt, drawn.level) == (VOLUMES - 1, 1, pytest.approx(0.1 * 0.05))


def test_a_run_that_is_not_what_was_audited_is_refused(
    refused: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*refused, "draw", "--planted", "0"]) == 0
    read(tmp_path)
    next((tmp_path / "run").glob("round-0/scored-*.step.json")).unlink()
    capsys.readouterr()
    assert main([*refused, "certify"]) == 1
    assert "is not what was audited" in capsys.readouterr().err


@pytest.mark.parametrize("store", [0], indirect=True)
@pytest.mark.parametrize("model", ["generator", "classifier"])
def test_an_archive_without_any_v_m_is_proven_by_people_alone(
    store: Store, model: str, tmp_path: Path, harvested: Callable[..., History], caplog: pytest.LogCaptureFixture
) -> None:
    tree = STRICT.model_dump(mode="json")
    with pytest.raises(SettingsError, match="V_M is empty"):
        require_harvestable(store, STRICT)
    settings = Settings.model_validate(
        tree | {"operating_point": tree["operating_point"] | {"certificate": "audit", "lpg_floors": [0.0]}}
    )
    require_harvestable(store, settings)
    with caplog.at_level("WARNING"):
        summary = harvested(model, 0, settings).summary
    assert summary is not None
    assert "the models stay as they were" in caplog.text
    assert "left to an audit" in summary.stopped_because
    arguments = ["--run", str(tmp_path / "run"), "--store", str(tmp_path / "store")]
    assert main([*arguments, "draw"]) == 0
    assert (len(folder(tmp_path).plan.deck.order), folder(tmp_path).plan.deck.planted) == (VOLUMES, {})
    read(tmp_path)
    assert main([*arguments, "certify"]) == 0
    assert read_summary(tmp_path / "run").final.harvested == VOLUMES - 1  # type: ignore[arg-type]


def test_what_was_said_teaches_later_runs(
    refused: list[str], tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*refused, "teach"]) == 1
    assert "nobody has said anything" in capsys.readouterr().err
    assert review_main([*refused, "--teaching"]) == 1
    assert "no teaching was drawn" in capsys.readouterr().err
    assert main([*refused, "draw"]) == 0
    assert main([*refused, "draw", "--teaching", "12"]) == 0
    read(tmp_path, wrong=3)
    below = AuditFolder.open(Location.of(tmp_path / "run" / "teaching-0"))
    assert (len(below.plan.deck.order), len({row["patient_id"] for row in below.finds.to_pylist()})) == (12, 12)
    with below.reading("reader") as reader:
        for find in below.plan.deck.screens(0):
            reader.say(find, Verdict.REJECTED)
    assert main([*refused, "teach"]) == 0
    # 70 finds: 1 moved, 1 unsure, 3 rejected; and 12 more that teach. What was planted says nothing.
    assert "65 accepted, 1 moved, 15 rejected" in capsys.readouterr().out
    rows = Store.open(store.path).reviewed().to_pylist()
    roles = Counter(row["role"] for row in rows)
    assert roles == {"lesion": 66, "hard_negative": 15, "ignored": 1, "calibration": 10}
    splits = {row["volume_id"]: row["split"] for row in store.manifest.to_pylist()}
    assert {splits[row["volume_id"]] for row in rows if row["role"] != "calibration"} == {"vh_test"}
    assert main([*refused, "teach"]) == 0  # once more is no other thing
    assert Store.open(store.path).reviewed().to_pylist() == rows


def test_each_of_two_certificates_may_be_wrong_half_as_often(refused: list[str], tmp_path: Path, store: Store) -> None:
    tree = STRICT.model_dump(mode="json")
    both = Settings.model_validate(tree | {"operating_point": tree["operating_point"] | {"certificate": "both"}})
    assert (STRICT.operating_point.level, both.operating_point.level) == (pytest.approx(0.05), pytest.approx(0.025))
    drawn = draw(Location.of(tmp_path / "run"), store, both, 0)
    assert drawn.plan.level == pytest.approx(0.8 * 0.025)


def test_what_review_cannot_show_is_one_line(
    refused: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert review_main([*refused]) == 1
    assert "no audit was drawn" in capsys.readouterr().err
    assert review_main(["--store", str(tmp_path / "store")]) == 2
    assert "want --run, or --store" in capsys.readouterr().err
    assert main([*refused, "draw"]) == 0
    capsys.readouterr()
    assert review_main([*refused, "--host", "0.0.0.0", "--no-browser"]) == 2  # noqa: S104  it is refused
    assert "give --tls-cert and --tls-key" in capsys.readouterr().err
    assert review_main([*refused, "--tls-cert", "cert.pem", "--no-browser"]) == 2
    assert "want both, or neither" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert review_main([*refused, "--port", port, "--no-browser"]) == 2
    assert f"--port {port}: cannot be listened at" in capsys.readouterr().err
    assert review_main(["--run", str(tmp_path / "nothing"), "--no-browser"]) == 1
    assert "no audit" not in capsys.readouterr().err
    assert review_main([*refused, "--reader", "../x", "--no-browser"]) == 2
    assert "want letters" in capsys.readouterr().err


def test_a_run_remembers_the_store_that_it_harvested(
    refused: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*refused[:2], "draw", "--planted", "0"]) == 0
    (tmp_path / "store").rename(tmp_path / "moved")
    assert main([*refused[:2], "draw"]) == 1
    assert f"{tmp_path}/store: no manifest.parquet" in capsys.readouterr().err
    assert main([*refused[:2], "--store", str(tmp_path / "moved"), "draw", "--teaching", "3"]) == 0
