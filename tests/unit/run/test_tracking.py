"""Tracking on a database of its own and a real server: rounds, restarts, a server away, refusals, foreign folders."""

import logging
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest
from mlflow.entities import Run as ServerRun
from mlflow.tracking import MlflowClient

from harvester.config.fingerprint import settings_hash
from harvester.config.settings import Settings
from harvester.errors import NoRoomError, SettingsError, StoreError, TrackingError
from harvester.records import Split, Volume
from harvester.run import tracking
from harvester.run.folder import Run
from harvester.run.journal import read_run
from harvester.run.tracking import ARTIFACTS, MAX_VALUE, Tracker, flatten, sync
from harvester.storage.location import Location
from harvester.store.store import Store, finish_store
from tests.builders import write_volume

pytestmark = pytest.mark.filterwarnings("ignore:.*noload:DeprecationWarning")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A new database of MLflow's, which takes it seconds to make."""
    file = tmp_path_factory.mktemp("database") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file.read_bytes()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("data") / "store"
    volume = Volume("a", "p", np.zeros((2, 4, 4), np.int16), (1.0, 1.0, 1.0))
    return finish_store(folder, [write_volume(folder, volume, Split.VM, "h")], [], [])


Opened = Callable[..., Run]


@pytest.fixture(scope="module")
def opened(store: Store, database: bytes) -> Opened:
    """A run in this folder, started or gone on with; with a database as made by MLflow."""

    def opened(folder: Path, name: str = "tiny", own: bool = True) -> Run:
        if own and not (folder / "mlflow.db").exists():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "mlflow.db").write_bytes(database)
        return Run.open(folder, Settings(name=name), store)

    return opened


def write_artifacts(folder: Path) -> None:
    for name in set(ARTIFACTS) - {"settings.yaml"}:
        (folder / name).write_text(name)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory, opened: Opened) -> Path:
    """A run that was killed after round 1 had begun, then started again and finished."""
    folder = tmp_path_factory.mktemp("run")
    first = Tracker.open(opened(folder), None)
    first.log_round(0, {"choice": {"lpg_weight": 0.25}}, {"precision": 0.9, "harvested": 7})
    second = Tracker.open(opened(folder), None)
    assert second.run_id == first.run_id != ""
    second.log_round(0, {"choice": {"lpg_weight": 0.5}}, {"precision": 0.8, "harvested": 7})
    second.log_round(1, {}, {"precision": 0.7})
    write_artifacts(folder)
    second.finish("FINISHED")
    return folder


def runs_of(uri: str) -> list[ServerRun]:
    """All runs at a server, in the order of their starts; those of one millisecond by name."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("harvester")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    return sorted(found, key=lambda run: (run.info.start_time, run.info.run_name))


def own_uri(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"


def test_one_parent_and_one_child_per_round(run_folder: Path) -> None:
    found = runs_of(own_uri(run_folder))
    assert [run.info.run_name for run in found] == ["tiny", "round-0", "round-1"]
    parent = found[0].info.run_id
    assert [run.data.tags.get("mlflow.parentRunId") for run in found] == [None, parent, parent]
    assert {run.info.status for run in found} == {"FINISHED"}


def test_a_round_logged_again_has_the_last_numbers_and_the_first_parameters(run_folder: Path) -> None:
    found = runs_of(own_uri(run_folder))[1]
    assert found.data.metrics == {"precision": 0.8, "harvested": 7.0}
    assert found.data.params == {"choice.lpg_weight": "0.25"}


def test_settings_and_artifacts_lie_with_the_parent(run_folder: Path) -> None:
    parent = runs_of(own_uri(run_folder))[0]
    assert parent.data.params["generator.loss.size"] == "0.1"
    assert parent.data.params["config_hash"] == settings_hash(Settings(name="tiny"))
    files = MlflowClient(own_uri(run_folder)).list_artifacts(parent.info.run_id)
    assert [file.path for file in files] == sorted(ARTIFACTS)
    assert len(list((run_folder / "mlartifacts").rglob("report.html"))) == 1


def test_sync_by_hand_sends_what_is_new_and_nothing_twice(tmp_path: Path, opened: Opened) -> None:
    run = opened(tmp_path)
    first = sync(run.folder, None)
    assert (first.sent, first.refused) == (("settings", "settings.yaml", "status"), {})
    assert sync(run.folder, None) == tracking.SyncResult(first.run_id, (), {})
    run.end_round(0, {"a": 1}, {"precision": 0.5})
    run.end_round(1, {}, {"precision": 0.4})
    assert sync(run.folder, None).sent == ("round-0", "round-1")
    run.end_round(1, {}, {"precision": 0.4})  # a start that does the same again
    write_artifacts(tmp_path)
    run.end("FINISHED")
    assert sync(run.folder, None).sent == (*(n for n in ARTIFACTS if n != "settings.yaml"), "status")
    (tmp_path / "report.html").write_text("written anew")
    assert str(sync(run.folder, None)) == "report.html"
    assert str(sync(run.folder, None)) == "nothing new"
    assert sync(run.folder, None) == tracking.SyncResult(first.run_id, (), {})
    history = MlflowClient(own_uri(tmp_path)).get_metric_history
    assert [len(history(each.info.run_id, "precision")) for each in runs_of(own_uri(tmp_path))] == [0, 1, 1]


def test_a_run_that_the_server_does_not_know_is_sent_whole(tmp_path: Path, opened: Opened) -> None:
    run = opened(tmp_path)
    run.end_round(0, {}, {"precision": 0.5})
    lost = sync(run.folder, None).run_id
    client = MlflowClient(own_uri(tmp_path))
    client.delete_run(lost)
    again = sync(run.folder, None)
    assert again.run_id not in ("", lost)
    assert again.sent == ("settings", "round-0", "settings.yaml", "status")


def test_a_folder_that_cannot_be_tracked_says_why(tmp_path: Path, opened: Opened) -> None:
    with pytest.raises(StoreError, match=r"no settings\.yaml"):
        sync(Location.of(tmp_path / "nothing"), None)
    with pytest.raises(SettingsError, match="set MLFLOW_TRACKING_URI"):
        sync(Location.of("s3://bucket/runs/night"), None)
    run = opened(tmp_path)
    (tmp_path / "run.json").unlink()
    with pytest.raises(StoreError, match=r"no run\.json, so an older release's; start its harvest again"):
        sync(run.folder, None)


def test_a_harvest_that_a_signal_ends_asks_no_server(
    tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(self: Tracker, now: bool = False) -> bool:
        raise AssertionError("ray job stop gives three seconds")

    monkeypatch.setattr(Tracker, "_sync", asked)
    run = opened(tmp_path, own=False)
    with pytest.raises(KeyboardInterrupt), Tracker(run, "http://127.0.0.1:9"):
        raise KeyboardInterrupt
    record = read_run(run.folder)
    assert record is not None and record.status == "KILLED"


def test_a_server_that_is_away_costs_one_warning_and_one_at_the_end(
    tmp_path: Path, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        uri = f"http://jane:hu%2Fsh@127.0.0.1:{taken.getsockname()[1]}"
        tracker = Tracker.open(opened(tmp_path, own=False), uri)
        tracker.log_round(0, {"a": 1}, {"precision": 1.0})
        tracker.finish("FAILED")
        with pytest.raises(TrackingError, match=r"MLflow at http://127.0.0.1:") as caught:
            sync(tracker.run.folder, uri)
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 2
    assert "the harvest goes on" in warnings[0].getMessage()
    assert f"`harvester track --run {tmp_path}` sends what is left" in warnings[1].getMessage()
    assert not any(secret in text for secret in ("jane", "sh@") for text in (caplog.text, str(caught.value)))
    assert tracker.run_id == ""
    assert (tmp_path / "round-0" / "round.json").exists()


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
        env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # seven processes that nobody asks anything
        with (self.folder / "server.log").open("ab") as log:
            self.processes.append(
                subprocess.Popen(command, start_new_session=True, stdout=log, stderr=log, cwd=self.folder, env=env)
            )
        for _ in range(2000):  # a busy machine takes its time
            try:
                with urlopen(f"{self.uri}/health", timeout=1):  # noqa: S310  our own
                    return
            except (URLError, OSError):
                time.sleep(0.1)
        pytest.fail((self.folder / "server.log").read_text())

    def signal(self, number: signal.Signals) -> None:
        for process in self.processes:
            os.killpg(process.pid, number)


@pytest.fixture
def server(tmp_path: Path, database: bytes) -> Iterator[Server]:
    (tmp_path / "server.db").write_bytes(database)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = Server(tmp_path, port)
    yield made
    made.signal(signal.SIGKILL)
    for process in made.processes:
        process.wait()


def test_a_server_that_was_away_and_then_hung_gets_all_of_it_once(
    server: Server, tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "PATIENCE_S", 0.1)
    monkeypatch.setattr(tracking, "PAUSE_S", 0.1)
    monkeypatch.setattr(tracking, "SECONDS_BETWEEN_TRIES", 3600.0)
    folder = tmp_path / "run"
    run = opened(folder, "night", own=False)
    tracker = Tracker.open(run, server.uri)  # nobody is there yet
    tracker.log_round(0, {"weight": 0.25}, {"precision": 0.9})
    server.start()
    tracker.log_round(1, {}, {"precision": 0.8})
    assert tracker.run_id == ""  # it was away a moment ago: left alone
    tracker._next_try = 0.0  # the moment is over
    tracker.log_round(2, {}, {"precision": 0.7})
    assert tracker.run_id == runs_of(server.uri)[0].info.run_id
    assert len(runs_of(server.uri)) == 4
    server.signal(signal.SIGSTOP)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    tracker.log_round(3, {}, {"precision": 0.6})
    write_artifacts(folder)
    tracker.finish("FINISHED")
    server.signal(signal.SIGCONT)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    left = sync(run.folder, server.uri)
    assert left.run_id == tracker.run_id
    # What was on its way when the server hung may have arrived although no answer came.
    assert {*ARTIFACTS, "status"} - {"settings.yaml"} <= set(left.sent)
    assert sync(run.folder, server.uri).sent == ()
    runs = runs_of(server.uri)
    assert [run.info.run_name for run in runs] == ["night", *(f"round-{k}" for k in range(4))]
    assert {run.info.status for run in runs} == {"FINISHED"}
    client = MlflowClient(server.uri)
    assert [len(client.get_metric_history(run.info.run_id, "precision")) for run in runs] == [0, 1, 1, 1, 1]
    assert [run.data.metrics.get("precision") for run in runs] == [None, 0.9, 0.8, 0.7, 0.6]
    assert [file.path for file in client.list_artifacts(left.run_id)] == sorted(ARTIFACTS)


@pytest.mark.parametrize(
    "lost", ["create_experiment", "create_run", "log_batch", "set_terminated", "log_artifact", "set_tag", "update_run"]
)
def test_what_was_done_but_not_answered_is_not_done_twice(
    tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    monkeypatch.setattr(tracking, "SECONDS_BETWEEN_TRIES", 0.0)
    monkeypatch.setattr(tracking, "PAUSE_S", 0.0)
    real, answers = getattr(MlflowClient, lost), iter([False])

    def unanswered(*given: Any, **named: Any) -> Any:
        answer = real(*given, **named)
        if not next(answers, True):
            raise ConnectionResetError("the answer is lost")
        return answer

    monkeypatch.setattr(MlflowClient, lost, unanswered)
    for _ in range(2):
        tracker = Tracker.open(opened(tmp_path), None)
        tracker.log_round(0, {"a": 1}, {"precision": 0.5})
        write_artifacts(tmp_path)
        tracker.finish()
    assert next(answers, None) is None
    assert sync(tracker.run.folder, None).sent == ()
    found = runs_of(own_uri(tmp_path))
    assert sorted(run.info.run_name for run in found) == ["round-0", "tiny"]
    child = next(run for run in found if run.info.run_name == "round-0")
    history = MlflowClient(own_uri(tmp_path)).get_metric_history(child.info.run_id, "precision")
    assert len(history) == 1  # however many starts
    assert {run.info.status for run in found} == {"FINISHED"}


def test_a_refusal_does_not_keep_the_rest_back(
    tmp_path: Path, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Tracker.open(opened(tmp_path), None)
    tracker.log_round(0, {}, {"what? a name;": 0.5})
    tracker.log_round(1, {}, {"precision": 0.5})
    write_artifacts(tmp_path)
    tracker.finish()
    assert caplog.text.count("MLflow: round-0 is left out: ") == 1
    found = {run.info.run_name: run for run in runs_of(own_uri(tmp_path))}
    assert (found["round-1"].data.metrics, found["tiny"].info.status) == ({"precision": 0.5}, "FINISHED")
    assert not found["round-0"].data.metrics


def test_a_foreign_run_folder_sends_nothing_of_ours_and_writes_nowhere_else(tmp_path: Path, opened: Opened) -> None:
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run = opened(folder)
    (tmp_path / "secret").write_text("hush")
    (folder / "report.html").symlink_to(tmp_path / "secret")
    for k, text in enumerate(("[" * 9999, "null", '{"round": 1}', '{"a": 1}', "\xff{")):
        (folder / f"round-{k}").mkdir()
        (folder / f"round-{k}" / "round.json").write_bytes(text.encode("latin-1"))
    (folder / "round-..").mkdir()
    result = sync(run.folder, None)
    assert str(result).endswith("; left out: report.html, is a link")
    assert result.refused == {
        "report.html": "is a link",
        **{f"round-{k}": "round.json is not as harvester writes it" for k in range(5)},
    }
    assert [file.name for file in (folder / "mlartifacts").rglob("*") if file.is_file()] == ["settings.yaml"]
    with sqlite3.connect(folder / "mlflow.db") as database:
        database.execute("update runs set artifact_uri = ?", (elsewhere.as_uri(),))
    (folder / "report.html").unlink()
    (folder / "report.html").write_text("a report")
    assert "names a place outside the run's folder" in sync(run.folder, None).refused["report.html"]
    assert not elsewhere.exists()
    record = (folder / "run.json").read_text().replace('"id": "', "\"id\": \"' or ''='")
    (folder / "run.json").write_text(record)
    with pytest.raises(StoreError, match="not as harvester writes it"):
        sync(run.folder, None)


def test_a_run_in_an_object_store_without_a_server_is_not_tracked(caplog: pytest.LogCaptureFixture) -> None:
    noted: list[object] = []
    run: Any = SimpleNamespace(
        folder=Location.of("s3://bucket/runs/night"), end_round=lambda *given: noted.append(given), end=noted.append
    )
    tracker = Tracker.open(run, None)
    tracker.log_round(0, {}, {})
    tracker.finish()
    assert tracker.run_id == ""
    assert noted == [(0, {}, {}), "FINISHED"]
    (warning,) = caplog.records
    assert "set MLFLOW_TRACKING_URI to a server's address" in warning.getMessage()


def test_missing_artifact_is_told(tmp_path: Path, opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    tracker = Tracker.open(opened(tmp_path), None)
    assert not caplog.records  # while it runs, there is none yet
    tracker.finish("FINISHED")
    assert "report.html is left out: is not there" in caplog.text


def test_an_end_that_cannot_be_written_down_hides_no_error(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise NoRoomError("no room on the disk")

    tracker = Tracker(Run.open(tmp_path, Settings(), store))
    monkeypatch.setattr("harvester.run.folder.write_run", full)
    tracker.finish("FAILED")
    assert caplog.messages == ["no room on the disk"]


def test_flatten_joins_names_and_cuts_long_values() -> None:
    flat = flatten({"a": {"b": {"c": 1}, "d": [1, 2]}, "e": {}, "long": "x" * 900})
    assert flat["a.b.c"] == "1"
    assert flat["a.d"] == "[1, 2]"
    assert flat["e"] == "{}"
    assert len(flat["long"]) == MAX_VALUE
    assert flat["long"].endswith("x...")
