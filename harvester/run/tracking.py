"""MLflow: one parent run a harvest, one child run a round. The only import of mlflow.

Only the driver logs. What a harvest finds never depends on it: while the tracking server is away, what there is to
tell is kept (unsent.py) and the harvest goes on. It is sent, in order, when the server is back; what is still left at
the end, when the run is started again. To send twice what was sent before changes nothing.
"""

import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from harvester.config.loading import settings_hash
from harvester.config.settings import Settings
from harvester.run.outbox import Entry, Unsent
from harvester.storage.location import Location, Where

if TYPE_CHECKING:  # mlflow takes seconds to import: only opening a tracker does
    from mlflow.tracking import MlflowClient

logger = logging.getLogger(__name__)

MAX_VALUE: Final = 500
"""Longest parameter value that every backend of MLflow takes."""
MAX_BATCH: Final = 100
"""Most parameters that MLflow takes in one call."""
PARENT_TAG: Final = "mlflow.parentRunId"
NAME_TAG: Final = "mlflow.runName"
OPENING_TAG: Final = "harvester.opening"
"""Finds a run again whose making was never answered."""
RUN_ID: Final = "mlflow_run_id"
REFUSALS: Final = ("BAD_REQUEST", "INVALID_PARAMETER_VALUE", "PERMISSION_DENIED", "RESOURCE_DOES_NOT_EXIST")
"""Answers of a server that is there; all else may pass."""
EXPERIMENT: Final = "harvester"
DEFAULTS: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # nothing about an archive leaves the machine unasked
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # we try again ourselves, having looked what of it arrived
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "GIT_PYTHON_REFRESH": "quiet",  # a run folder is no git checkout
}
"""What MLflow reads from the environment, where the user has set nothing else."""
CHATTY: Final = ("mlflow", "alembic", "sqlalchemy", "urllib3.connectionpool", "numexpr")


class Tracker:
    """A parent run. Made by `open`. run_id is "" until a server has given one; without a uri nothing is tracked."""

    def __init__(self, folder: Location, uri: str | None = None) -> None:
        self.folder, self.uri = folder, uri
        self.run_id = _kept_id(folder) if uri else ""
        self._experiment_id = ""
        self._client: MlflowClient | None = None
        self._unsent = Unsent(folder) if uri else None

    @classmethod
    def open(cls, folder: Where, settings: Settings, uri: str | None) -> "Tracker":
        """Start the parent run of a run folder, or go on with the one that its mlflow_run_id names.

        Without a `uri` the store is folder/mlflow.db with artifacts in folder/mlartifacts, which takes a disk.
        """
        where = Location.of(folder)
        if not uri and where.on_disk:
            uri = f"sqlite:///{where / 'mlflow.db'}"
        if not uri:
            logger.warning(
                "%s: no tracking, for MLflow's own database cannot lie in an object store; to have it, set "
                "MLFLOW_TRACKING_URI to a server's address",
                where,
            )
        tracker = cls(where, uri)
        values = {**flatten(settings.model_dump(mode="json")), "config_hash": settings_hash(settings)}
        tracker._tell("open", settings.name, params=values, opening=uuid4().hex)
        return tracker

    def log_round(self, round_index: int, params: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """One round as the child run round-<k>, in one batch; after a restart it is logged over."""
        values = {name: float(value) for name, value in metrics.items()}
        self._tell("round", f"round-{round_index}", step=round_index, params=flatten(params), metrics=values)

    def log_artifact(self, file: Where) -> None:
        """Keep a file of the run folder with the parent run; one that is not there is told and left out."""
        self._tell("artifact", Location.of(file).name)

    def finish(self, status: str = "FINISHED") -> None:
        """Close the parent run: FINISHED, FAILED or KILLED. A finished harvest waits a while for a server away."""
        if self._unsent:
            self._unsent.add(Entry("finish", status, _now_ms()))
            self._unsent.send_last(self._send, patient=status == "FINISHED")

    def _tell(self, kind: str, name: str, **told: Any) -> None:
        if self._unsent:
            self._unsent.add(Entry(kind, name, _now_ms(), **told))
            self._unsent.send(self._send)

    def _send(self, entry: Entry) -> None:
        """What the server will never take must not keep the rest from it."""
        from mlflow.exceptions import MlflowException

        if entry.kind != "open" and not self.run_id:
            return  # the opening was refused, which was told
        send = {"open": self._open, "round": self._round, "artifact": self._artifact, "finish": self._finish}
        try:
            send[entry.kind](entry)
        except MlflowException as error:
            if error.error_code not in REFUSALS:
                raise
            reason = " ".join(str(error).split())[:200]
            logger.warning("MLflow refuses %s %s, which is left out: %s", entry.kind, entry.name, reason)

    def _open(self, entry: Entry) -> None:
        client = self._connected()
        tags = {OPENING_TAG: entry.opening}
        self.run_id = (
            self._reopened(client)
            or self._found(client, tags)
            or self._create(client, entry.name, tags, entry.time_ms)
        )
        (self.folder / RUN_ID).write_text(self.run_id + "\n")
        self._log(client, self.run_id, entry)

    def _round(self, entry: Entry) -> None:
        client = self._connected()
        tags = {PARENT_TAG: self.run_id, NAME_TAG: entry.name}
        run_id = self._found(client, tags) or self._create(client, entry.name, tags, entry.time_ms)
        self._log(client, run_id, entry)
        client.set_terminated(run_id, "FINISHED", entry.time_ms)

    def _artifact(self, entry: Entry) -> None:
        file = self.folder / entry.name
        if not file.is_file() or (file.on_disk and Path(file.base).is_symlink()):
            logger.warning("%s is not there: not tracked", file)
            return
        client = self._connected()
        place = str(client.get_run(self.run_id).info.artifact_uri)
        if self._own and not place.startswith(f"{self._artifacts}/"):
            # The database came with the folder, and with the database where MLflow shall write.
            logger.warning("%s is not tracked: %s names a place outside the run's folder", file, self.uri)
            return
        with TemporaryDirectory() as aside:  # MLflow takes files of a disk
            copy = Path(aside) / entry.name
            copy.write_bytes(file.read_bytes())
            client.log_artifact(self.run_id, str(copy))

    def _finish(self, entry: Entry) -> None:
        self._connected().set_terminated(self.run_id, entry.name, entry.time_ms)

    def _connected(self) -> "MlflowClient":
        if self._client is None:
            client = _client(str(self.uri))
            self._experiment_id = _experiment(client, self._artifacts if self._own else None)
            self._client = client
        return self._client

    @property
    def _own(self) -> bool:
        return self.uri == f"sqlite:///{self.folder / 'mlflow.db'}"

    @property
    def _artifacts(self) -> str:
        return Path((self.folder / "mlartifacts").base).as_uri()

    def _log(self, client: "MlflowClient", run_id: str, entry: Entry) -> None:
        """Parameters that the run does not have yet (MLflow lets none change its value), and all metrics."""
        from mlflow.entities import Metric, Param

        known = client.get_run(run_id).data.params
        fresh = [Param(key, value) for key, value in entry.params.items() if key not in known]
        values = [Metric(key, value, entry.time_ms, entry.step) for key, value in entry.metrics.items()]
        client.log_batch(run_id, metrics=values, params=fresh[:MAX_BATCH])
        for start in range(MAX_BATCH, len(fresh), MAX_BATCH):
            client.log_batch(run_id, params=fresh[start : start + MAX_BATCH])

    def _create(self, client: "MlflowClient", name: str, tags: Mapping[str, str], time_ms: int) -> str:
        made = client.create_run(self._experiment_id, time_ms, {**tags}, name)
        return str(made.info.run_id)

    def _found(self, client: "MlflowClient", tags: Mapping[str, str]) -> str | None:
        """The run with these tags: made before, though the answer may not have come."""
        asked = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        found = client.search_runs([self._experiment_id], asked, max_results=1)
        return str(found[0].info.run_id) if found else None

    def _reopened(self, client: "MlflowClient") -> str | None:
        """The parent run that the folder names, running again; None where it names none that the server knows."""
        from mlflow.exceptions import MlflowException

        if not self.run_id:
            return None
        try:
            client.update_run(self.run_id, status="RUNNING")
        except MlflowException as error:
            if error.error_code not in REFUSALS:
                raise
            logger.warning(
                "the tracking server does not know run %s of %s: a new one is started",
                self.run_id,
                self.folder,
            )
            return None
        return self.run_id


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as {"a.b": "text"}; text longer than MAX_VALUE is cut and ends in "..."."""
    return dict(_leaves(tree, prefix))


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            text = str(value)
            yield f"{prefix}{key}", text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 3] + "..."


def _experiment(client: "MlflowClient", artifacts: str | None) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return str(found.experiment_id)
    return str(client.create_experiment(EXPERIMENT, artifact_location=artifacts))


def _now_ms() -> int:
    return int(time.time() * 1000)


def _kept_id(folder: Location) -> str:
    file = folder / RUN_ID
    text = file.read_bytes().decode(errors="replace").strip() if file.is_file() else ""
    return text if re.fullmatch("[0-9a-f]{32}", text) else ""


def _client(uri: str) -> "MlflowClient":
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri)
