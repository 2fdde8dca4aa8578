"""A run's folder, on a disk or in an object store: each step's output is named by the hash of its inputs.

It is never made twice: a step is done when its note is there, which is written last (an object store renames nothing).

run/
  settings.yaml                    the resolved settings; settings.hash their hash
  round-<k>/<step>-<hash>.parquet  a table, <step>-<hash>/ a folder of weights, <step>-<hash>.json small values
  round-<k>/<step>-<hash>.shards/  the parts of a table, published one by one by those who made them (shards.py)
  round-<k>/<step>-<hash>.step.json  its note: how long it took and how much it did
  log.jsonl                        what was logged, a JSON object a line, over all starts; in an object store a
                                   log-<time>.jsonl a start
  harvest.parquet, harvest.csv, ledger.parquet, summary.json, report.html
  calibration.parquet              what all rounds accepted in V_M (records.ACCEPTED)
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa

from harvester.config.loading import as_tree, dump, restore, settings_hash
from harvester.config.settings import Settings
from harvester.errors import SettingsError, StoreError
from harvester.labels.folds import patient_folds
from harvester.run.step_shards import Shards
from harvester.storage.location import Location, Where
from harvester.store.store import Store

logger = logging.getLogger(__name__)

NOTE: Final = ".step.json"
SHARDS: Final = ".shards"
Parts = dict[str, Any]
NOTHING: Final[Mapping[str, float]] = {}

ROW_GROUP = 4096
"""Rows a row group of a step's table: sorted by volume, so that reading one volume reads little else."""


@dataclass(frozen=True)
class Output:
    """A finished step: where its result lies, the hash that names it, and what it took."""

    path: Location
    key: str
    seconds: float
    counts: dict[str, float] = field(default_factory=dict)


class Run:
    """Settings, store and folder of one harvest. Opening it writes the settings.

    Other settings in the same folder redo what depends on them and reuse the rest: steps are named by their inputs.
    """

    def __init__(self, folder: Where, settings: Settings, store: Store, began: float | None = None) -> None:
        self.folder, self.settings, self.store = Location.of(folder), settings, store
        self.began = time.monotonic() if began is None else began
        self.rows: list[dict[str, Any]] = store.manifest.to_pylist()
        self.folds = patient_folds(self.rows, settings.folds, settings.seed)
        self.data_hash = store.data_hash()
        self.id = settings_hash(what_matters(settings), self.data_hash)
        # V_D^test is for detectors trained on the harvest: nothing here may look at it, let alone learn from it.
        self.mined = [row for row in self.rows if row["split"] != "vd_test"]
        self.slices = sum(row["depth"] for row in self.mined)
        self.steps: list[dict[str, Any]] = []
        self.made_of: dict[str, Parts] = {}
        (self.folder / "settings.yaml").write_text(dump(settings))
        (self.folder / "settings.hash").write_text(settings_hash(settings) + "\n")

    def key(self, **parts: Any) -> str:
        """The hash that names a step's output: of all that it depends on, by name, so that a plan can tell a change."""
        key = settings_hash(*parts.values())
        self.made_of[key] = {name: as_tree(part) for name, part in parts.items()}
        return key

    def table(
        self,
        step: str,
        round_index: int,
        key: str,
        make: Callable[[], pa.Table],
        counts: Mapping[str, float] = NOTHING,
    ) -> Output:
        """The table of a step, made if it is not there.

        `counts`: what it goes through and what `make`, when it is done, has measured.
        """

        def write(file: Location) -> dict[str, float]:
            table = make()
            file.write_table(table, row_group_size=ROW_GROUP)
            return {"rows": len(table), **counts}

        return self._once(step, round_index, key, ".parquet", write)

    def shards(self, step: str, round_index: int, key: str) -> Shards:
        """Where the workers of a step publish the parts of its table."""
        return Shards(self.of_round(round_index) / f"{step}-{key}{SHARDS}")

    def of_round(self, round_index: int) -> Location:
        """The folder of a round's steps."""
        return self.folder / f"round-{round_index}"

    def values(self, step: str, round_index: int, key: str, make: Callable[[], dict[str, Any]]) -> Output:
        """Small values of a step as JSON."""

        def write(file: Location) -> dict[str, float]:
            file.write_text(json.dumps(make(), indent=1, sort_keys=True))
            return {}

        return self._once(step, round_index, key, ".json", write)

    def weights(self, step: str, round_index: int, key: str, make: Callable[[Location], None]) -> Output:
        """A folder of weights, a file at a time, so that a killed fit goes on with what is there."""

        def write(folder: Location) -> dict[str, float]:
            make(folder)
            return most_measured(folder)

        return self._once(step, round_index, key, "", write)

    def _once(
        self,
        step: str,
        round_index: int,
        key: str,
        suffix: str,
        write: Callable[[Location], dict[str, float]],
    ) -> Output:
        path = self.of_round(round_index) / f"{step}-{key}{suffix}"
        note = self.of_round(round_index) / f"{step}-{key}{NOTE}"
        if note.is_file() and (path.is_file() or path.files()):
            told = json.loads(note.read_bytes())
            logger.info("round %d %s: done before", round_index, step)
        else:
            self.allow(step, round_index, key)
            logger.info("round %d %s ...", round_index, step)
            began = time.monotonic()
            counts = write(path)
            told = {"round": round_index, "step": step, "seconds": time.monotonic() - began, "counts": counts}
            note.write_text(json.dumps(told | {"ended": time.time(), "made_of": self.made_of.get(key, {})}))
            shown = "".join(f", {name} {value:g}" for name, value in counts.items())
            logger.info("round %d %s: %.1f s%s", round_index, step, told["seconds"], shown)
        self.steps.append(told)
        return Output(path, key, told["seconds"], told["counts"])

    def allow(self, step: str, round_index: int, key: str) -> None:
        """Called before a step is made: nothing forbids it here, a plan does (plan.py)."""


def settings_of(folder: Where, overrides: Sequence[str] = ()) -> Settings:
    """The settings of a run's folder. Raises StoreError for a folder without."""
    file = Location.of(folder) / "settings.yaml"
    if not file.is_file():
        raise StoreError(f"{folder}: no settings.yaml; give the folder of a run with --run")
    return restore(file.read_text(), overrides)


def store_of(folder: Where, settings: Settings, given: str | None) -> Store:
    """The store that is given, or the one in the run's folder, or as its settings say. Raises SettingsError."""
    own = Location.of(folder) / "store"
    where = given or (own if (own / "manifest.parquet").is_file() else settings.data.store)
    if not where:
        raise SettingsError(f"{folder}: holds no store and names none; give the harvested store with --store")
    return Store.open(where)


def what_matters(settings: Settings) -> dict[str, Any]:
    """The settings that a harvest follows from: not how it is computed, but in which precision; not its pictures."""
    tree = settings.model_dump(mode="json", exclude={"compute", "report"})
    return tree | {"precision": settings.compute.precision}


def table_hash(table: pa.Table) -> str:
    """Names a table's content, however its rows are chunked."""
    return settings_hash(table.to_pylist())


def most_measured(folder: Location) -> dict[str, float]:
    """What the fits of a folder's weights measured (fold-<k>.measured.json): of each figure the highest."""
    told = [
        json.loads((folder / name).read_bytes()) for name in folder.files() if name.endswith(".measured.json")
    ]
    names = {name for one in told for name in one}
    return {name: max(one.get(name, 0.0) for one in told) for name in sorted(names)}


def weights_hash(models: Where) -> str:
    """Names the weights in a folder. Raises StoreError where there are none."""
    folder = Location.of(models)
    files = [folder / name for name in folder.files() if name.endswith(".safetensors")]
    if not files:
        raise StoreError(f"{folder}: no weights (fold-*.safetensors); was the run finished?")
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
