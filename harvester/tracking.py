"""MLflow: one parent run a harvest, one child run a round. The only import of mlflow.

Only the driver logs. What a harvest finds never depends on it: when the tracking server is away, one warning
is logged and the harvest goes on without it.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from harvester.config import Settings, settings_hash
from harvester.volumes.locations import Location, Where

if TYPE_CHECKING:  # mlflow takes seconds to import: only opening a tracker does
    from mlflow.tracking import MlflowClient

logger = logging.getLogger(__name__)

MAX_VALUE: Final = 500
"""Longest parameter value that every backend of MLflow takes."""
MAX_BATCH: Final = 100
"""Most parameters that MLflow takes in one call."""
PARENT_TAG: Final = "mlflow.parentRunId"
NAME_TAG: Final = "mlflow.runName"
EXPERIMENT: Final = "harvester"
DEFAULTS: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # nothing about an archive leaves the machine unasked
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # 7 by default: four minutes until a server counts as away
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "GIT_PYTHON_REFRESH": "quiet",  # a run folder is no git checkout
}
"""What MLflow reads from the environment, where the user has set nothing else."""
CHATTY: Final = ("mlflow", "alembic", "sqlalchemy", "urllib3.connectionpool", "numexpr")


class Tracker:
    """A parent run. Made by `open`; where that failed, every call does nothing and run_id is ""."""

    def __init__(self) -> None:
        self.run_id = ""
        self._client: MlflowClient | None = None
        self._experiment_id = ""
        self._warned = False

    @classmethod
    def open(cls, folder: Where, settings: Settings, uri: str | None) -> "Tracker":
        """Start the parent run of a run folder, or go on with the one that its mlflow_run_id names.

        Without a `uri` the store is folder/mlflow.db with artifacts in folder/mlartifacts.
        """
        tracker = cls()
        tracker._try("open", lambda: tracker._connect(Path(Location.of(folder).base), settings, uri))
        return tracker

    def log_round(self, round_index: int, params: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """One round as the child run round-<k>, in one batch; after a restart it is logged over."""
        self._try(f"round {round_index}", lambda: self._log_round(round_index, params, metrics))

    def log_artifact(self, file: Where) -> None:
        """Keep a file with the parent run; one that is not there is told and left out."""
        path = Path(Location.of(file).base)
        self._try(f"artifact {path.name}", lambda: self._log_artifact(path))

    def finish(self, status: str = "FINISHED") -> None:
        """Close the parent run: FINISHED, FAILED or KILLED."""
        self._try("finish", lambda: self._terminate(self.run_id, status))

    def _connect(self, folder: Path, settings: Settings, uri: str | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        client = _client(uri or f"sqlite:///{folder / 'mlflow.db'}")
        self._experiment_id = _experiment(client, None if uri else (folder / "mlartifacts").as_uri())
        self.run_id = _reopened(client, folder) or self._create(client, settings.name, {})
        (folder / "mlflow_run_id").write_text(self.run_id + "\n")
        self._client = client
        values = {**flatten(settings.model_dump(mode="json")), "config_hash": settings_hash(settings)}
        self._log(self.run_id, values, {}, 0)

    def _log_round(self, k: int, params: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        if self._client is None:
            return
        name = f"round-{k}"
        run_id = self._child(name) or self._create(self._client, name, {PARENT_TAG: self.run_id})
        self._log(run_id, flatten(params), metrics, k)
        self._terminate(run_id, "FINISHED")

    def _log(self, run_id: str, params: Mapping[str, str], metrics: Mapping[str, float], step: int) -> None:
        """Parameters that the run does not have yet (MLflow lets none change its value), and all metrics."""
        if self._client is None:
            return
        from mlflow.entities import Metric, Param

        known = self._client.get_run(run_id).data.params
        fresh = [Param(key, value) for key, value in params.items() if key not in known]
        now = int(time.time() * 1000)
        values = [Metric(key, float(value), now, step) for key, value in metrics.items()]
        self._client.log_batch(run_id, metrics=values, params=fresh[:MAX_BATCH])
        for start in range(MAX_BATCH, len(fresh), MAX_BATCH):
            self._client.log_batch(run_id, params=fresh[start : start + MAX_BATCH])

    def _log_artifact(self, path: Path) -> None:
        if self._client is None:
            return
        if path.is_file():
            self._client.log_artifact(self.run_id, str(path))
        else:
            logger.warning("%s is not there: not tracked", path)

    def _terminate(self, run_id: str, status: str) -> None:
        if self._client is not None:
            self._client.set_terminated(run_id, status)

    def _create(self, client: "MlflowClient", name: str, tags: Mapping[str, str]) -> str:
        run_id: str = client.create_run(self._experiment_id, tags=dict(tags), run_name=name).info.run_id
        return run_id

    def _child(self, name: str) -> str | None:
        if self._client is None:
            return None
        asked = f"tags.`{PARENT_TAG}` = '{self.run_id}' and tags.`{NAME_TAG}` = '{name}'"
        found = self._client.search_runs([self._experiment_id], asked, max_results=1)
        return found[0].info.run_id if found else None

    def _try(self, what: str, act: Callable[[], None]) -> None:
        # A server can fail in more ways than MLflow wraps (sockets, SQLAlchemy, a full disk): whatever it is,
        # hours of harvesting must not die of it. Later calls try again: it may be back.
        try:
            act()
        except Exception as error:  # noqa: BLE001
            if not self._warned:
                reason = " ".join(str(error).split())[:200]
                logger.warning("tracking failed (%s), the harvest goes on without it: %s", what, reason)
            self._warned = True


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


def _reopened(client: "MlflowClient", folder: Path) -> str | None:
    """The parent run that the folder names, running again; None where it names none that the server knows."""
    file = folder / "mlflow_run_id"
    if not file.is_file():
        return None
    run_id = file.read_text().strip()
    from mlflow.exceptions import MlflowException

    try:
        client.update_run(run_id, status="RUNNING")
    except MlflowException:
        logger.warning("the tracking server does not know run %s of %s: a new one is started", run_id, folder)
        return None
    return run_id


def _client(uri: str) -> "MlflowClient":
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri)
