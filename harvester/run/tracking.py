"""MLflow: one parent run per harvest, one child run per round. The only import of mlflow.

The run's folder is the journal (journal.py): `sync` sends what stands there and the server does not have. So nothing is
lost while a server is away, and to send twice changes nothing. Only the driver sends; what a harvest finds never
depends on it.
"""

import hashlib
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from harvester.config.loading import settings_hash
from harvester.config.settings import Settings
from harvester.errors import HarvesterError, SettingsError, StoreError, TrackingError
from harvester.run.folder import Run, settings_of
from harvester.run.journal import ROUND, RUN, RoundRecord, RunRecord, Status, read_rounds, read_run
from harvester.storage.location import Location

if TYPE_CHECKING:  # mlflow takes seconds to import: only sending does
    from mlflow.entities import Metric
    from mlflow.entities import Run as ServerRun
    from mlflow.tracking import MlflowClient

logger = logging.getLogger(__name__)

ARTIFACTS: Final = ("report.html", "summary.json", "harvest.parquet", "settings.yaml")
"""Files of a run's folder that are kept with its parent run."""
MAX_VALUE: Final = 500
"""Longest parameter value that every backend of MLflow takes."""
MAX_BATCH: Final = 100
"""Most parameters that MLflow takes in one call."""
EXPERIMENT: Final = "harvester"
PARENT_TAG: Final = "mlflow.parentRunId"
NAME_TAG: Final = "mlflow.runName"
RUN_TAG: Final = "harvester.run"
"""RunRecord.id: finds a run again, also one whose making was never answered."""
SENT_TAG: Final = "harvester.sent"
"""Digest of a round's record, or, with a file's name behind it, of an artifact: the server has this already."""
REFUSALS: Final = ("BAD_REQUEST", "INVALID_PARAMETER_VALUE", "PERMISSION_DENIED", "RESOURCE_DOES_NOT_EXIST")
"""Answers of a server that is there; all else may pass."""
DEFAULTS: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # nothing about an archive leaves the machine unasked
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # we try again ourselves, having looked what of it arrived
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "GIT_PYTHON_REFRESH": "quiet",  # a run folder is no git checkout
}
"""What MLflow reads from the environment, where the user has set nothing else."""
CHATTY: Final = ("mlflow", "alembic", "sqlalchemy", "urllib3.connectionpool", "numexpr")
SECONDS_BETWEEN_TRIES: Final = 60.0
"""A server that is away costs a harvest one try per minute at most."""
PATIENCE_S: Final = 60.0
PAUSE_S: Final = 5.0
"""A harvest that is done waits so long for a server that is away, and asks it so often."""


@dataclass(frozen=True)
class SyncResult:
    """What one `sync` did.

    run_id   the parent run's at the server; "" where the server refused to make one
    sent     what it did not have: "settings", "round-<k>", names of artifacts, "status"; empty where it had all
    refused  what it will never take, and what is not as harvester writes it: name -> why; ("run" where run_id is "")
    """

    run_id: str
    sent: tuple[str, ...]
    refused: Mapping[str, str]


def sync(run_folder: Location, uri: str | None) -> SyncResult:
    """Send a tracking server what a run's folder says and it does not have; at any time, as often as you like.

    Without a `uri` it is a database in the folder: mlflow.db, with artifacts in mlartifacts, which takes a disk.

    Raises SettingsError where neither is to be had; StoreError for a folder that is no run's, a newer release's or
    without run.json; TrackingError for a server that is away, hangs or breaks: the next call sends what is left.
    """
    address = uri or own_database(run_folder)
    # A server can fail in more ways than MLflow wraps: sockets, SQLAlchemy, a full disk.
    try:
        return _sync(run_folder, address)
    except HarvesterError:
        raise
    except Exception as error:
        raise TrackingError(f"MLflow at {_without_secret(address)}: {_one_line(error)}") from error


def own_database(folder: Location) -> str:
    """Where MLflow keeps a run that no server is named for. Raises SettingsError in an object store."""
    if not folder.on_disk:
        raise SettingsError(
            f"{folder}: no tracking, for MLflow's own database cannot lie in an object store; to have it, set "
            "MLFLOW_TRACKING_URI to a server's address"
        )
    return f"sqlite:///{folder / 'mlflow.db'}"


class Tracker:
    """A harvest's: writes its journal and syncs after every round. Never raises what only tracking cannot do."""

    def __init__(self, run: Run, uri: str | None = None) -> None:
        self.run, self.uri = run, uri
        self.run_id = ""
        self._away, self._next_try = False, 0.0
        self._warned: set[str] = set()

    @classmethod
    def open(cls, run: Run, uri: str | None) -> "Tracker":
        """With the parent run started, or gone on with, and what earlier starts could not send."""
        tracker = cls(run)
        try:
            tracker.uri = uri or own_database(run.folder)
        except SettingsError as error:
            logger.warning("%s", error)
        tracker._sync()
        return tracker

    def log_round(self, round_index: int, params: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """A round has ended: one child run, round-<k>."""
        self.run.end_round(round_index, params, metrics)
        self._sync()

    def finish(self, status: Status = "FINISHED") -> None:
        """The harvest has ended. One that is FINISHED waits a while for a server that is away."""
        try:
            self.run.end(status)
        except (StoreError, OSError) as error:  # what the harvest found, or died of, says more
            logger.warning("%s", error)
        until = time.monotonic() + (PATIENCE_S if status == "FINISHED" else 0.0)
        while not (done := self._sync(now=True)) and time.monotonic() < until:
            time.sleep(PAUSE_S)
        if not done:
            logger.warning(
                "MLflow was not told all: `harvester track --run %s` sends what is left, or the same command",
                self.run.folder,
            )

    def _sync(self, now: bool = False) -> bool:
        """Whether the server has all; one that was away a moment ago is left alone, but for `now`."""
        if not self.uri:
            return True
        if time.monotonic() < self._next_try and not now:
            return False
        try:
            result = sync(self.run.folder, self.uri)
        except HarvesterError as error:  # hours of harvesting must not die of it
            self._next_try = time.monotonic() + SECONDS_BETWEEN_TRIES
            if not self._away:
                logger.warning("tracking failed (%s), the harvest goes on and tells it later", error)
            self._away = True
            return False
        if self._away:
            logger.info("MLflow answers again: what it had not been told is sent")
        self._away, self.run_id = False, result.run_id
        for name, reason in result.refused.items():
            if name not in self._warned:
                logger.warning("MLflow: %s is left out: %s", name, reason)
        self._warned |= result.refused.keys()
        return True


def _sync(folder: Location, uri: str) -> SyncResult:
    settings, record = settings_of(folder), read_run(folder)
    if record is None:
        raise StoreError(f"{folder}: no {RUN}, so an older release's; start its harvest again, then track it")
    sending = _Sending(folder, uri, record)
    parent = sending.parent(settings.name)
    if parent is None:
        return SyncResult("", (), sending.refused)
    sending.params(parent, settings)
    sending.rounds(parent)
    for name in ARTIFACTS:
        sending.artifact(parent, name)
    sending.status(parent)
    return SyncResult(str(parent.info.run_id), tuple(sending.sent), sending.refused)


class _Sending:
    """One sync: what of the folder the server lacks. What it refuses does not keep the rest from it."""

    def __init__(self, folder: Location, uri: str, record: RunRecord) -> None:
        self.folder, self.uri, self.record = folder, uri, record
        own = folder.on_disk and uri == own_database(folder)
        self.artifacts = Path((folder / "mlartifacts").base).as_uri() if own else None
        self.client = _client(uri)
        self.experiment_id = _experiment(self.client, self.artifacts)
        self.sent: list[str] = []
        self.refused: dict[str, str] = {}

    def parent(self, name: str) -> "ServerRun | None":
        """The run of this folder, made where there is none; of two that were made at once the earlier."""
        tags, parent = {RUN_TAG: self.record.id}, None
        with self._sends("run"):
            parent = next(iter(self._found(tags)), None) or self._create(name, tags, self.record.began)
        return parent  # noqa: RET504  a refusal ends the block, too

    def params(self, parent: "ServerRun", settings: Settings) -> None:
        """The settings."""
        with self._sends("settings"):
            values = {**flatten(settings.model_dump(mode="json")), "config_hash": settings_hash(settings)}
            if self._log(parent, values):
                self.sent.append("settings")

    def rounds(self, parent: "ServerRun") -> None:
        """Each round as a child run."""
        parent_tag = {PARENT_TAG: str(parent.info.run_id)}
        there = {run.info.run_name: run for run in reversed(self._found(parent_tag))}
        for k, record in read_rounds(self.folder):
            name = f"round-{k}"
            if record is None:
                self.refused[name] = f"{ROUND} is not as harvester writes it"
                continue
            with self._sends(name):
                tags = {**parent_tag, NAME_TAG: name}
                self._round(there.get(name) or self._create(name, tags, record.ended), record)

    def _round(self, run: "ServerRun", record: RoundRecord) -> None:
        from mlflow.entities import Metric

        digest, ended = _digest(record.model_dump_json().encode()), _ms(record.ended)
        if run.data.tags.get(SENT_TAG) == digest:
            return
        metrics = [Metric(key, value, ended, record.round) for key, value in record.metrics.items()]
        self._log(run, flatten(record.params), metrics)
        self.client.set_terminated(run.info.run_id, "FINISHED", ended)
        self.client.set_tag(run.info.run_id, SENT_TAG, digest)
        self.sent.append(f"round-{record.round}")

    def artifact(self, parent: "ServerRun", name: str) -> None:
        """A file of the folder itself, whatever its name leads to."""
        file, place = self.folder / name, str(parent.info.artifact_uri)
        if not file.is_file():
            if self.record.status == "FINISHED":
                self.refused[name] = "is not there"
        elif file.on_disk and Path(file.base).is_symlink():
            self.refused[name] = "is a link"
        elif self.artifacts and not place.startswith(f"{self.artifacts}/"):
            # The database came with the folder, and with the database where MLflow shall write.
            self.refused[name] = "the database names a place outside the run's folder"
        else:
            with self._sends(name):
                self._upload(parent, name, file.read_bytes())

    def _upload(self, parent: "ServerRun", name: str, data: bytes) -> None:
        tag, digest = f"{SENT_TAG}.{name}", _digest(data)
        if parent.data.tags.get(tag) == digest:
            return
        with TemporaryDirectory() as aside:  # MLflow takes files of a disk
            copy = Path(aside) / name
            copy.write_bytes(data)
            self.client.log_artifact(parent.info.run_id, str(copy))
        self.client.set_tag(parent.info.run_id, tag, digest)
        self.sent.append(name)

    def status(self, parent: "ServerRun") -> None:
        """How the run stands."""
        wanted, run_id = self.record.status, parent.info.run_id
        if parent.info.status == wanted:
            return
        with self._sends("status"):
            if self.record.ended is None:
                self.client.update_run(run_id, status=wanted)
            else:
                self.client.set_terminated(run_id, wanted, _ms(self.record.ended))
            self.sent.append("status")

    @contextmanager
    def _sends(self, name: str) -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            if error.error_code not in REFUSALS:
                raise
            self.refused[name] = _one_line(error)

    def _log(self, run: "ServerRun", params: Mapping[str, str], metrics: Sequence["Metric"] = ()) -> bool:
        """Metrics, and parameters that the run does not have yet: MLflow lets none change its value."""
        from mlflow.entities import Param

        fresh = [Param(key, value) for key, value in params.items() if key not in run.data.params]
        if metrics:
            self.client.log_batch(run.info.run_id, metrics=metrics)
        for start in range(0, len(fresh), MAX_BATCH):
            self.client.log_batch(run.info.run_id, params=fresh[start : start + MAX_BATCH])
        return bool(fresh or metrics)

    def _create(self, name: str, tags: Mapping[str, str], began: float) -> "ServerRun":
        return self.client.create_run(self.experiment_id, _ms(began), {**tags}, name)

    def _found(self, tags: Mapping[str, str]) -> "list[ServerRun]":
        """The runs with these tags, earliest first: made before, though the answer may not have come."""
        asked = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        order = ["attributes.start_time ASC"]
        return list(self.client.search_runs([self.experiment_id], asked, order_by=order))


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


def _client(uri: str) -> "MlflowClient":
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def _one_line(error: Exception) -> str:
    return _without_secret(" ".join(str(error).split()))[:200]


def _without_secret(text: str) -> str:
    """Without what a URI says of its user."""
    return re.sub(r"//[^/\s]*@", "//", text)
