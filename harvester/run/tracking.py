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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from harvester.config.fingerprint import settings_hash
from harvester.config.loading import dump
from harvester.config.settings import Settings
from harvester.errors import HarvesterError, SettingsError, StoreError, TrackingError, one_line, without_secrets
from harvester.run.folder import Run, settings_of
from harvester.run.journal import ROUND, RUN, RoundRecord, RunRecord, Status, read_rounds, read_run
from harvester.run.retraining import FILE, FOLDER, Retraining, read_retraining
from harvester.run.summary import AuditResult, read_summary
from harvester.storage.location import Location
from harvester.storage.table_parts import is_table

if TYPE_CHECKING:  # mlflow takes seconds to import: only sending does
    from mlflow.entities import Metric
    from mlflow.entities import Run as ServerRun
    from mlflow.exceptions import MlflowException
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
"""With a name behind it, the digest of what the server has of that name: a tag of the parent run."""
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
    sent     what it did not have: "settings", "round-<k>", names of files, "status"; empty where it had all
    refused  what it will never take, and what is not as harvester writes it: name -> why; ("run" where run_id is "")
    """

    run_id: str
    sent: tuple[str, ...]
    refused: Mapping[str, str]

    def __str__(self) -> str:
        left_out = "".join(f"; left out: {name}, {reason}" for name, reason in self.refused.items())
        return f"{', '.join(self.sent) or 'nothing new'}{left_out}"


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
        raise TrackingError(f"MLflow at {without_secrets(address)}: {_short(error)}") from error


def require_plain(uri: str | None) -> None:
    """Raise SettingsError for a tracking URI with a secret. A database's may name its user, as it must."""
    plain = re.sub(r"^(?!https?:)([\w+.-]+://)[^\s/:@]+@", r"\1", uri or "")
    if without_secrets(plain) != plain:
        raise SettingsError(
            "MLflow's tracking URI must hold no user, password or token, for it is logged; set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, and for a database "
            "what it has for that (PGPASSWORD)"
        )


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
        """The harvest has ended. One that is FINISHED waits a while for a server that is away.

        One that is KILLED asks none: who sends a signal gives a program seconds to end.
        """
        try:
            self.run.end(status)
        except (StoreError, OSError) as error:  # what the harvest found, or died of, says more
            logger.warning("%s", error)
        if status == "KILLED" and not (self.uri or "").startswith("sqlite:"):
            return
        until = time.monotonic() + (PATIENCE_S if status == "FINISHED" else 0.0)
        while not (done := self._sync(now=True)) and time.monotonic() < until:
            time.sleep(PAUSE_S)
        if not done:
            logger.warning(
                "MLflow was not told all: `harvester track --run %s` sends what is left, or the same command",
                self.run.folder,
            )

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """The harvest has ended, well or not."""
        stopped = isinstance(error, KeyboardInterrupt)
        self.finish("KILLED" if stopped else "FAILED" if error else "FINISHED")

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
        for name in result.refused.keys() - self._warned:
            logger.warning("MLflow: %s is left out: %s", name, result.refused[name])
        self._warned |= result.refused.keys()
        return True


def _sync(folder: Location, uri: str) -> SyncResult:
    settings, record = settings_of(folder), read_run(folder)
    if record is None:
        raise StoreError(f"{folder}: no {RUN}, so an older release's; start its harvest again, then track it")
    client = _client(uri)
    from mlflow.exceptions import MlflowException

    own = folder.on_disk and uri == own_database(folder)
    artifacts = Path((folder / "mlartifacts").base).as_uri() if own else None
    found = client.get_experiment_by_name(EXPERIMENT)
    experiment_id = str(found.experiment_id if found else client.create_experiment(EXPERIMENT, artifacts))
    try:
        parent = _run(client, experiment_id, settings.name, {RUN_TAG: record.id}, record.began)
    except MlflowException as error:
        return SyncResult("", (), {"run": _refusal(error)})
    return _Sending(client, experiment_id, parent, folder, record, artifacts).all(settings)


@dataclass
class _Sending:
    """One sync. parent: this folder's run at the server; artifacts: where a folder's own database may write."""

    client: "MlflowClient"
    experiment_id: str
    parent: "ServerRun"
    folder: Location
    record: RunRecord
    artifacts: str | None
    sent: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    def all(self, settings: Settings) -> SyncResult:
        params = {**flatten(settings.model_dump(mode="json")), "config_hash": settings_hash(settings)}
        self._once("settings", dump(settings), partial(self._log, self.parent, params))
        for k, record in read_rounds(self.folder):
            if record is None:
                self.refused[f"round-{k}"] = f"{ROUND} is not as harvester writes it"
            else:
                self._once(f"round-{k}", record.model_dump_json(), partial(self._round, record))
        if audit := self._audited():
            self._once("audit", audit.model_dump_json(), partial(self._audit, audit))
        if retrained := self._retrained():
            self._once("retrain", retrained.model_dump_json(), partial(self._retraining, retrained))
        for name in ARTIFACTS:
            self._artifact(self.folder / name)
        self._once("status", f"{self.record.status} {self.record.ended}", self._status)
        return SyncResult(str(self.parent.info.run_id), tuple(self.sent), self.refused)

    def _once(self, name: str, data: str | bytes, send: Callable[[], None]) -> None:
        """Send what the server does not have as it is now. What it refuses does not keep the rest from it."""
        from mlflow.exceptions import MlflowException

        tag = f"{SENT_TAG}.{name}"
        digest = hashlib.sha256(data if isinstance(data, bytes) else data.encode()).hexdigest()[:12]
        if self.parent.data.tags.get(tag) == digest:
            return
        try:
            send()
            self.client.set_tag(self.parent.info.run_id, tag, digest)
            self.sent.append(name)
        except MlflowException as error:
            self.refused[name] = _refusal(error)

    def _round(self, record: RoundRecord) -> None:
        from mlflow.entities import Metric

        name, ended = f"round-{record.round}", _ms(record.ended)
        tags = {PARENT_TAG: str(self.parent.info.run_id), NAME_TAG: name}
        child = _run(self.client, self.experiment_id, name, tags, record.ended)
        metrics = [Metric(key, value, ended, record.round) for key, value in record.metrics.items()]
        self._log(child, flatten(record.params), metrics)
        self.client.set_terminated(child.info.run_id, "FINISHED", ended)

    def _audited(self) -> AuditResult | None:
        if not (self.folder / "summary.json").is_file():
            return None
        try:
            return read_summary(self.folder).audit
        except StoreError:  # of another release; it is sent as it is
            return None

    def _audit(self, audit: AuditResult) -> None:
        """The bound after each review, a step each; and what it came to."""
        from mlflow.entities import Metric

        at = _ms(time.time())
        figures = audit.model_dump(
            include={"reviewed", "right", "size", "planted", "planted_accepted", "false_accepts"}
        )
        metrics = [Metric(f"audit_{name}", float(value), at, 0) for name, value in figures.items()]
        bound = [Metric("audit_bound", value, at, step) for step, value in enumerate(audit.curve, 1)]
        for start in range(0, len(bound), MAX_BATCH):
            self.client.log_batch(self.parent.info.run_id, metrics=bound[start : start + MAX_BATCH])
        self._log(self.parent, {}, metrics)

    def _retrained(self) -> Retraining | None:
        try:
            return read_retraining(self.folder)
        except StoreError:  # of another release
            return None

    def _retraining(self, done: Retraining) -> None:
        """AP and sensitivity of each detector on each label set, gains, and the file itself."""
        from mlflow.entities import Metric

        at, figures = _ms(time.time()), dict[str, float]()
        for each in done.detectors:
            for one in each.sets:
                figures[f"retrain_{each.detector}_{one.labels}_ap"] = one.ap.value
                figures[f"retrain_{each.detector}_{one.labels}_sensitivity_4fp"] = one.sensitivity.value
            if each.gap_closed:
                figures[f"retrain_{each.detector}_gap_closed"] = each.gap_closed.value
        self._log(self.parent, {}, [Metric(name, value, at, 0) for name, value in figures.items()])
        self._artifact(self.folder / FOLDER / FILE)

    def _artifact(self, file: Location) -> None:
        """A file of the folder itself, whatever its name leads to."""
        if not file.is_file():
            if self.record.status == "FINISHED":
                self.refused[file.name] = "is many files" if is_table(file) else "is not there"
        elif file.on_disk and Path(file.base).is_symlink():
            self.refused[file.name] = "is a link"
        elif self.artifacts and not str(self.parent.info.artifact_uri).startswith(f"{self.artifacts}/"):
            # The database came with the folder, and with the database where MLflow shall write.
            self.refused[file.name] = "the database names a place outside the run's folder"
        else:
            data = file.read_bytes()
            self._once(file.name, data, partial(self._upload, file.name, data))

    def _upload(self, name: str, data: bytes) -> None:
        with TemporaryDirectory() as aside:  # MLflow takes files of a disk
            copy = Path(aside) / name
            copy.write_bytes(data)
            self.client.log_artifact(self.parent.info.run_id, str(copy))

    def _status(self) -> None:
        run_id, status, ended = self.parent.info.run_id, self.record.status, self.record.ended
        if ended is None:
            self.client.update_run(run_id, status=status)
        else:
            self.client.set_terminated(run_id, status, _ms(ended))

    def _log(self, run: "ServerRun", params: Mapping[str, str], metrics: Sequence["Metric"] = ()) -> None:
        """Metrics, and parameters that the run does not have yet: MLflow lets none change its value."""
        from mlflow.entities import Param

        fresh = [Param(key, value) for key, value in params.items() if key not in run.data.params]
        if metrics:
            self.client.log_batch(run.info.run_id, metrics=metrics)
        for start in range(0, len(fresh), MAX_BATCH):
            self.client.log_batch(run.info.run_id, params=fresh[start : start + MAX_BATCH])


def _run(client: "MlflowClient", experiment_id: str, name: str, tags: Mapping[str, str], began: float) -> "ServerRun":
    """The run with these tags, made where there is none; of two that were made at once the earlier."""
    asked = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in tags.items())
    found = client.search_runs([experiment_id], asked, max_results=1, order_by=["attributes.start_time ASC"])
    return found[0] if found else client.create_run(experiment_id, _ms(began), {**tags}, name)


def _refusal(error: "MlflowException") -> str:
    """What a server that is there says no with. Raises what may pass."""
    if error.error_code not in REFUSALS:
        raise error
    return _short(error)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as {"a.b": "text"}; text longer than MAX_VALUE is cut and ends in "..."."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            text = str(value)
            flat[f"{prefix}{key}"] = text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 3] + "..."
    return flat


def _client(uri: str) -> "MlflowClient":
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _short(error: Exception) -> str:
    return one_line(error)[:200]
