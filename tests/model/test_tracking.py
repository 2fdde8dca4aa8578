"""Tracking on a sqlite store of its own and a real server: rounds, restarts, a server away. Here for its seconds."""

import json
import logging
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from mlflow.tracking import MlflowClient

from harvester.config.loading import settings_hash
from harvester.config.settings import Settings
from harvester.run import outbox as unsent
from harvester.run.tracking import MAX_VALUE, Tracker, flatten

pytestmark = pytest.mark.filterwarnings("ignore:.*noload:DeprecationWarning")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory, database: bytes) -> Path:
    """A run that was killed after round 1 had begun, then started again and finished."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "mlflow.db").write_bytes(database)
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


def test_a_server_that_is_away_costs_one_warning_and_one_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        tracker = Tracker.open(tmp_path, Settings(), f"http://127.0.0.1:{taken.getsockname()[1]}")
        tracker.log_round(0, {"a": 1}, {"precision": 1.0})
        tracker.log_artifact(tmp_path / "none")
        tracker.finish("FAILED")
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 2
    assert "the harvest goes on" in warnings[0].getMessage()
    assert f"is kept in {tmp_path}/mlflow_unsent.jsonl; the same command sends it" in warnings[1].getMessage()
    assert tracker.run_id == ""
    kept = [json.loads(line) for line in (tmp_path / unsent.FILE).read_text().splitlines()]
    assert [entry["name"] for entry in kept] == ["run", "round-0", "none", "FAILED"]


@dataclass
class Server:
    """A real MLflow server on loopback, its database and artifacts in `folder`."""

    folder: Path
    port: int
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}", "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        with (self.folder / "server.log").open("ab") as log:
            self.processes.append(
                subprocess.Popen(command, start_new_session=True, stdout=log, stderr=log, cwd=self.folder)
            )
        for _ in range(600):
            try:
                with urlopen(f"{self.uri}/health", timeout=1):  # noqa: S310  our own
                    return
            except (URLError, OSError):
                time.sleep(0.1)
        pytest.fail((self.folder / "server.log").read_text())

    def tell(self, number: signal.Signals) -> None:
        for process in self.processes:
            os.killpg(process.pid, number)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = Server(tmp_path, port)
    yield made
    made.tell(signal.SIGKILL)
    for process in made.processes:
        process.wait()


def test_the_log_catches_up_with_a_server_that_was_away_and_then_hung(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unsent, "PATIENCE_S", 0.1)
    monkeypatch.setattr(unsent, "PAUSE_S", 0.1)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    folder = tmp_path / "run"
    tracker = Tracker.open(folder, Settings(name="night"), server.uri)  # nobody is there yet
    tracker.log_round(0, {"weight": 0.25}, {"precision": 0.9})
    server.start()
    began = time.monotonic()
    tracker.log_round(1, {}, {"precision": 0.8})
    assert time.monotonic() - began < 1  # it failed less than a minute ago: left alone
    monkeypatch.setattr(unsent, "SECONDS_BETWEEN_TRIES", 0.0)
    tracker._unsent._next_try = 0.0  # type: ignore[union-attr]  the minute is over
    (folder / "report.html").write_text("a report")
    tracker.log_artifact(folder / "report.html")
    assert tracker.run_id == (folder / "mlflow_run_id").read_text().strip() != ""
    assert not (folder / unsent.FILE).exists()
    server.tell(signal.SIGSTOP)
    monkeypatch.setattr(unsent, "SECONDS_BETWEEN_TRIES", 60.0)
    tracker.log_round(2, {}, {"precision": 0.7})
    (folder / "summary.json").write_text("{}")
    tracker.log_artifact(folder / "summary.json")
    tracker.finish("FINISHED")
    assert len((folder / unsent.FILE).read_text().splitlines()) == 3
    server.tell(signal.SIGCONT)
    again = Tracker.open(folder, Settings(name="night"), server.uri)
    again.finish("FINISHED")
    assert not (folder / unsent.FILE).exists()
    asked = MlflowClient(server.uri)
    experiment_id = asked.get_experiment_by_name("harvester").experiment_id  # type: ignore[union-attr]
    runs = asked.search_runs([experiment_id], order_by=["attributes.start_time ASC"])
    assert [run.info.run_name for run in runs] == ["night", "round-0", "round-1", "round-2"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert [len(asked.get_metric_history(run.info.run_id, "precision")) for run in runs] == [0, 1, 1, 1]
    assert [run.data.metrics.get("precision") for run in runs] == [None, 0.9, 0.8, 0.7]
    assert [file.path for file in asked.list_artifacts(again.run_id)] == ["report.html", "summary.json"]


@pytest.mark.parametrize(
    "lost", ["create_experiment", "create_run", "log_batch", "set_terminated", "log_artifact", "update_run"]
)
def test_what_was_done_but_not_answered_is_not_done_twice(
    tmp_path: Path, database: bytes, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    (tmp_path / "mlflow.db").write_bytes(database)
    monkeypatch.setattr(unsent, "SECONDS_BETWEEN_TRIES", 0.0)
    real, answers = getattr(MlflowClient, lost), iter([False])

    def unanswered(*given: Any, **named: Any) -> Any:
        told = real(*given, **named)
        if not next(answers, True):
            raise ConnectionResetError("the answer is lost")
        return told

    monkeypatch.setattr(MlflowClient, lost, unanswered)
    monkeypatch.setattr(unsent, "PAUSE_S", 0.0)
    for _ in range(2):
        tracker = Tracker.open(tmp_path, Settings(name="tiny"), None)
        tracker.log_round(0, {"a": 1}, {"precision": 0.5})
        (tmp_path / "settings.yaml").write_text("")
        tracker.log_artifact(tmp_path / "settings.yaml")
        tracker.finish()
    assert next(answers, None) is None
    assert not (tmp_path / unsent.FILE).exists()
    found = client(tmp_path).search_runs([experiment(tmp_path)], order_by=["attributes.start_time ASC"])
    assert sorted(run.info.run_name for run in found) == ["round-0", "tiny"]
    child = next(run for run in found if run.info.run_name == "round-0")
    assert len(client(tmp_path).get_metric_history(child.info.run_id, "precision")) == 2  # one a start
    assert {run.info.status for run in found} == {"FINISHED"}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A new database of MLflow's, which takes it seconds to make."""
    file = tmp_path_factory.mktemp("database") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file.read_bytes()


def test_a_refusal_does_not_keep_the_rest_back(
    tmp_path: Path, database: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mlflow.db").write_bytes(database)
    tracker = Tracker.open(tmp_path, Settings(name="tiny"), None)
    tracker.log_round(0, {}, {"what? a name;": 0.5})
    tracker.log_round(1, {}, {"precision": 0.5})
    tracker.finish()
    assert "MLflow refuses round round-0, which is left out" in caplog.text
    assert not (tmp_path / unsent.FILE).exists()
    found = client(tmp_path).search_runs([experiment(tmp_path)], "metrics.precision = 0.5")
    assert [run.info.run_name for run in found] == ["round-1"]


def test_a_foreign_run_folder_sends_nothing_of_ours_and_writes_nowhere_else(
    tmp_path: Path, database: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    folder.mkdir()
    (tmp_path / "secret").write_text("hush")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "mlflow.db").write_bytes(database)
    (folder / "mlflow_run_id").write_text("../../x' or ''='\n")
    entry = {"kind": "artifact", "name": "../secret", "time_ms": 1}
    lines = [entry, entry | {"name": "link"}, entry | {"kind": "__init__"}, {"a": 1}, [], "[" * 9999, None]
    lines += [entry | {"kind": "open", "name": "x", "opening": "' or ''='"}]
    (folder / unsent.FILE).write_text("".join(f"{json.dumps(line)}\n" for line in lines) + "\xff{")
    Tracker.open(folder, Settings(name="tiny"), None).finish()
    assert caplog.text.count("a line that is not ours is left out") == len(lines)
    assert not [file for file in (folder / "mlartifacts").rglob("*") if file.is_file()]
    with sqlite3.connect(folder / "mlflow.db") as opened:
        opened.execute("update runs set artifact_uri = ?", (elsewhere.as_uri(),))
    (folder / "report.html").write_text("a report")
    Tracker.open(folder, Settings(name="tiny"), None).log_artifact(folder / "report.html")
    assert "names a place outside the run's folder" in caplog.text
    assert not elsewhere.exists()


def test_a_run_in_an_object_store_without_a_server_is_not_tracked(caplog: pytest.LogCaptureFixture) -> None:
    tracker = Tracker.open("s3://bucket/runs/night", Settings(), None)
    tracker.log_round(0, {}, {})
    tracker.log_artifact("s3://bucket/runs/night/report.html")
    tracker.finish()
    assert tracker.run_id == ""
    (warning,) = caplog.records
    assert "set MLFLOW_TRACKING_URI to a server's address" in warning.getMessage()


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
