"""A run's folder: each step's output is named by the hash of its inputs and is never made twice.

run/
  settings.yaml                    the resolved settings; settings.hash their hash
  round-<k>/<step>-<hash>.parquet  a table, <step>-<hash>/ a folder of weights, <step>-<hash>.json small values
  round-<k>/<step>-<hash>.shards/  the parts of a table, published one by one by those who made them (shards.py)
  round-<k>/<step>-<hash>.step.json  how long it took and how much it did
  log.jsonl                        what was logged, a JSON object a line, over all starts
  harvest.parquet, harvest.csv, ledger.parquet, summary.json, report.html
  rehearsed.parquet                what all rounds accepted in V_M (records.ACCEPTED)
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from harvester.config import Settings, dump, resolve, settings_hash
from harvester.errors import SettingsError, StoreError
from harvester.labels.ledger import patient_folds
from harvester.shards import Shards
from harvester.volumes.locations import Location
from harvester.volumes.store import Store

logger = logging.getLogger(__name__)

LOG: Final = "log.jsonl"
NOTHING: Final[Mapping[str, float]] = {}

ROW_GROUP = 4096
"""Rows a row group of a step's table: sorted by volume, so that reading one volume reads little else."""


@dataclass(frozen=True)
class Output:
    """A finished step: where its result lies, the hash that names it, and what it took."""

    path: Path
    key: str
    seconds: float
    counts: dict[str, float] = field(default_factory=dict)


class Run:
    """Settings, store and folder of one harvest. Opening it writes the settings.

    Other settings in the same folder redo what depends on them and reuse the rest: steps are named by their inputs.
    """

    def __init__(self, folder: Path, settings: Settings, store: Store, began: float | None = None) -> None:
        self.folder, self.settings, self.store = folder, settings, store
        self.began = time.monotonic() if began is None else began
        self.rows: list[dict[str, Any]] = store.manifest.to_pylist()
        self.folds = patient_folds(self.rows, settings.folds, settings.seed)
        self.data_hash = store.data_hash()
        self.id = settings_hash(settings, self.data_hash)
        # V_D^test is for detectors trained on the harvest: nothing here may look at it, let alone learn from it.
        self.mined = [row for row in self.rows if row["split"] != "vd_test"]
        self.slices = sum(row["depth"] for row in self.mined)
        self.steps: list[dict[str, Any]] = []
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "settings.yaml", dump(settings))
        write_text(folder / "settings.hash", settings_hash(settings) + "\n")

    def table(
        self,
        step: str,
        round_index: int,
        key: str,
        make: Callable[[], pa.Table],
        counts: Mapping[str, float] = NOTHING,
    ) -> Output:
        """The table of a step, made if it is not there: written aside, then renamed.

        `counts`: what it goes through and what `make`, when it is done, has measured.
        """

        def write(aside: Path) -> dict[str, float]:
            table = make()
            pq.write_table(table, aside, row_group_size=ROW_GROUP)
            return {"rows": len(table), **counts}

        return self._once(step, round_index, key, ".parquet", write)

    def shards(self, step: str, round_index: int, key: str) -> Shards:
        """Where the workers of a step publish the parts of its table."""
        return Shards(Location.of(self.folder / f"round-{round_index}" / f"{step}-{key}.shards"))

    def values(self, step: str, round_index: int, key: str, make: Callable[[], dict[str, Any]]) -> Output:
        """Small values of a step as JSON."""

        def write(aside: Path) -> dict[str, float]:
            aside.write_text(json.dumps(make(), indent=1, sort_keys=True))
            return {}

        return self._once(step, round_index, key, ".json", write)

    def weights(self, step: str, round_index: int, key: str, make: Callable[[Path], None]) -> Output:
        """A folder of weights. It is filled in place beside its name, so that a killed fit can go on there."""

        def write(aside: Path) -> dict[str, float]:
            make(aside)
            for leftover in aside.glob("ray-train-*"):
                shutil.rmtree(leftover)
            return most_measured(aside)

        return self._once(step, round_index, key, "", write)

    def _once(
        self, step: str, round_index: int, key: str, suffix: str, write: Callable[[Path], dict[str, float]]
    ) -> Output:
        path = self.folder / f"round-{round_index}" / f"{step}-{key}{suffix}"
        note = path.with_name(f"{step}-{key}.step.json")
        if path.exists() and note.exists():
            told = json.loads(note.read_text())
            logger.info("round %d %s: done before", round_index, step)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_name(f".{path.name}.part")
            logger.info("round %d %s ...", round_index, step)
            began = time.monotonic()
            counts = write(aside)
            told = {"round": round_index, "step": step, "seconds": time.monotonic() - began, "counts": counts}
            write_text(note, json.dumps(told))
            aside.replace(path)
            shown = "".join(f", {name} {value:g}" for name, value in counts.items())
            logger.info("round %d %s: %.1f s%s", round_index, step, told["seconds"], shown)
        self.steps.append(told)
        return Output(path, key, told["seconds"], told["counts"])


def settings_of(folder: Path, overrides: Sequence[str] = ()) -> Settings:
    """The settings of a run's folder. Raises StoreError for a folder without."""
    file = folder / "settings.yaml"
    if not file.is_file():
        raise StoreError(f"{folder}: no settings.yaml; give the folder of a finished run with --run")
    return resolve(file, overrides)


def store_of(folder: Path, settings: Settings, given: str | None) -> Store:
    """The store that is given, or the one in the run's folder, or as its settings say. Raises SettingsError."""
    where = given or (folder / "store" if (folder / "store").is_dir() else settings.data.store)
    if not where:
        raise SettingsError(f"{folder}: holds no store and names none; give the harvested store with --store")
    return Store(where)


def write_text(path: Path, text: str) -> None:
    """Write aside, then rename: a reader never sees half a file."""
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(text)
    aside.replace(path)


def table_hash(table: pa.Table) -> str:
    """Names a table's content, however its rows are chunked."""
    return settings_hash(table.to_pylist())


def most_measured(folder: Path) -> dict[str, float]:
    """What the fits of a folder's weights measured (fold-<k>.measured.json): of each figure the highest."""
    told = [json.loads(file.read_text()) for file in sorted(folder.glob("fold-*.measured.json"))]
    names = {name for one in told for name in one}
    return {name: max(one.get(name, 0.0) for one in told) for name in sorted(names)}


def weights_hash(folder: Path) -> str:
    """Names the weights in a folder. Raises StoreError where there are none."""
    files = sorted(folder.glob("fold-*.safetensors"))
    if not files:
        raise StoreError(f"{folder}: no weights (fold-*.safetensors); was the run finished?")
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
