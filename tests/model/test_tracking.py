"""Tracking on a sqlite store of its own: rounds, restarts, a server away. In this ring for its seconds."""

import logging
import socket
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from harvester.config import Settings, settings_hash
from harvester.tracking import MAX_VALUE, Tracker, flatten

pytestmark = pytest.mark.filterwarnings("ignore:.*noload:DeprecationWarning")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed after round 1 had begun, then started again and finished."""
    folder = tmp_path_factory.mktemp("run")
    first = Tracker.open(folder, Settings(name="tiny"), None)
    first.log_round(0, {"choice": {"lpg_weight": 0.25}}, {"precision": 0.9, "harvested": 7})
    second = Tracker.open(folder, Settings(name="tiny"), None)
    assert second.run_id == first.run_id != ""
    second.log_round(0, {"choice": {"lpg_weight": 0.5}}, {"precision": 0.8, "harvested": 7})
    second.log_round(1, {}, {"precision": 0.7})
    (folder / "report.html").write_text("a report")
    second.log_artifact(folder / "report.html")
    second.finish("FINISHED")
    return folder


def client(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")


def test_one_parent_and_one_child_a_round(run_folder: Path) -> None:
    found = client(run_folder).search_runs([experiment(run_folder)], order_by=["attributes.start_time ASC"])
    assert [run.info.run_name for run in found] == ["tiny", "round-0", "round-1"]
    parent = found[0].info.run_id
    assert (run_folder / "mlflow_run_id").read_text().strip() == parent
    assert [run.data.tags.get("mlflow.parentRunId") for run in found] == [None, parent, parent]
    assert {run.info.status for run in found} == {"FINISHED"}


def test_a_round_logged_again_has_the_last_numbers_and_the_first_parameters(run_folder: Path) -> None:
    asked = "attributes.run_name = 'round-0'"
    (found,) = client(run_folder).search_runs([experiment(run_folder)], asked)
    assert found.data.metrics == {"precision": 0.8, "harvested": 7.0}
    assert found.data.params == {"choice.lpg_weight": "0.25"}


def test_settings_and_artifacts_lie_with_the_parent(run_folder: Path) -> None:
    run_id = (run_folder / "mlflow_run_id").read_text().strip()
    parent = client(run_folder).get_run(run_id)
    assert parent.data.params["generator.loss.size"] == "0.1"
    assert parent.data.params["config_hash"] == settings_hash(Settings(name="tiny"))
    assert [file.path for file in client(run_folder).list_artifacts(run_id)] == ["report.html"]
    assert len(list((run_folder / "mlartifacts").rglob("report.html"))) == 1


def test_run_id_of_another_server_starts_a_new_run(
    run_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = run_folder / "mlflow_run_id"
    kept = file.read_text()
    file.write_text("0123456789abcdef0123456789abcdef\n")
    tracker = Tracker.open(run_folder, Settings(name="other"), None)
    assert "does not know run 0123456789abcdef" in caplog.text
    assert tracker.run_id == file.read_text().strip() != kept.strip()
    client(run_folder).delete_run(tracker.run_id)
    file.write_text(kept)


def test_a_server_that_is_away_costs_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        tracker = Tracker.open(tmp_path, Settings(), f"http://127.0.0.1:{taken.getsockname()[1]}")
        tracker.log_round(0, {"a": 1}, {"precision": 1.0})
        tracker.log_artifact(tmp_path / "none")
        tracker.finish("FAILED")
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.name for record in warnings] == ["harvester.tracking"]
    assert "the harvest goes on" in warnings[0].getMessage()
    assert tracker.run_id == ""


def test_missing_artifact_is_told(run_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = Tracker.open(run_folder, Settings(name="tiny"), None)
    tracker.log_artifact(run_folder / "none.html")
    tracker.finish("FINISHED")
    assert "none.html is not there" in caplog.text


def test_flatten_joins_names_and_cuts_long_values() -> None:
    flat = flatten({"a": {"b": {"c": 1}, "d": [1, 2]}, "e": {}, "long": "x" * 900})
    assert flat["a.b.c"] == "1"
    assert flat["a.d"] == "[1, 2]"
    assert flat["e"] == "{}"
    assert len(flat["long"]) == MAX_VALUE
    assert flat["long"].endswith("x...")


def experiment(folder: Path) -> str:
    found = client(folder).get_experiment_by_name("harvester")
    assert found is not None
    return str(found.experiment_id)
