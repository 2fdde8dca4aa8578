"""A run's folder: steps are done once, a step killed while writing is done again, names follow the inputs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harvester.config.loading import restore
from harvester.config.settings import Settings
from harvester.errors import StoreError
from harvester.records import Mark, Volume
from harvester.run.folder import Run, settings_of, table_hash, weights_hash
from harvester.storage.location import Location
from harvester.store.store import Store, finish_store, write_volume

TABLE = pa.table({"volume_id": ["a", "b", "c"], "z": pa.array([[1], [], [2, 3]], pa.list_(pa.int32()))})


class Killed(BaseException):
    """Not an Exception: nothing may catch it and clean up."""


class Counted:
    """A step that counts how often it is done."""

    def __init__(self, result: Any) -> None:
        self.result, self.calls = result, 0

    def __call__(self, *given: Any) -> Any:
        self.calls += 1
        return self.result(*given) if callable(self.result) else self.result


@pytest.fixture
def store(tmp_path: Path) -> Store:
    rows = []
    for name in ("a", "b"):
        volume = Volume(name, f"p-{name}", np.zeros((2, 4, 4), np.int16), (1.0, 1.0, 1.0))
        rows.append(write_volume(tmp_path / "store", volume, "vm", "h"))
    return finish_store(tmp_path / "store", rows, [Mark("a", "m", 0, 1, 1, 2, 2, clinical=True)], [])


@pytest.fixture
def run(tmp_path: Path, store: Store) -> Run:
    return Run.open(tmp_path / "run", Settings(), store)


def test_opening_writes_the_settings(run: Run) -> None:
    assert restore((run.folder / "settings.yaml").read_text()) == run.settings
    assert settings_of(run.folder, ["seed=4"]) == run.settings.model_copy(update={"seed": 4})
    assert len((run.folder / "settings.hash").read_text().strip()) == 12
    assert set(run.folds) == {"p-a", "p-b"}
    assert run.folder.files() == ["run.json", "settings.hash", "settings.yaml"]


def test_a_table_is_made_once(run: Run) -> None:
    step = Counted(TABLE)
    first, again = (run.table("tubelets", 1, "abc", step) for _ in range(2))
    assert step.calls == 1
    assert first == again
    assert first.path == run.folder / "round-1" / "tubelets-abc.parquet"
    assert first.path.read_table().equals(TABLE)
    assert first.counts == {"rows": 3}
    assert [step["step"] for step in run.steps] == ["tubelets"] * 2


def test_another_key_round_or_step_is_another_output(run: Run) -> None:
    step = Counted(TABLE)
    paths = {
        run.table(name, k, key, step).path
        for name, k, key in (("t", 0, "a"), ("t", 1, "a"), ("t", 0, "b"), ("u", 0, "a"))
    }
    assert (len(paths), step.calls) == (4, 4)


def test_values_and_weights_are_made_once(run: Run) -> None:
    values = Counted({"b": 2.5, "a": None})
    assert json.loads(run.values("point", 0, "k", values).path.read_text()) == {"a": None, "b": 2.5}
    run.values("point", 0, "k", values)

    def fit(out: Location) -> None:
        (out / "fold-0.safetensors").write_bytes(b"weights")

    weights = Counted(fit)
    output = run.weights("generator", 0, "k", weights)
    assert run.weights("generator", 0, "k", weights).path == output.path
    assert (values.calls, weights.calls) == (1, 1)
    assert output.path.files() == ["fold-0.safetensors"]


def test_a_step_killed_while_writing_is_done_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pq.write_table

    def half(table: pa.Table, sink: Any, **options: Any) -> None:
        sink.write(b"PAR1")
        raise Killed

    monkeypatch.setattr(pq, "write_table", half)
    step = Counted(TABLE)
    with pytest.raises(Killed):
        run.table("tubelets", 0, "k", step)
    assert run.of_round(0).files() == []
    monkeypatch.setattr(pq, "write_table", real)
    output = run.table("tubelets", 0, "k", step)
    assert step.calls == 2
    assert output.path.read_table().equals(TABLE)
    assert run.of_round(0).files() == ["tubelets-k.parquet", "tubelets-k.step.json"]


def test_a_step_killed_between_its_table_and_its_note_is_done_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Location.write_text

    def killed(self: Location, text: str) -> None:
        raise Killed

    monkeypatch.setattr(Location, "write_text", killed)
    step = Counted(TABLE)
    with pytest.raises(Killed):
        run.table("tubelets", 0, "k", step)
    assert run.of_round(0).files() == ["tubelets-k.parquet"]
    monkeypatch.setattr(Location, "write_text", real)
    run.table("tubelets", 0, "k", step)
    assert step.calls == 2


def test_a_killed_fit_finds_what_it_had(run: Run) -> None:
    def fit(out: Location) -> None:
        done = (out / "fold-0.safetensors").is_file()
        (out / "fold-0.safetensors").write_bytes(b"w")
        if not done:
            raise Killed
        (out / "fold-1.safetensors").write_bytes(b"w")

    with pytest.raises(Killed):
        run.weights("generator", 0, "k", fit)
    output = run.weights("generator", 0, "k", fit)
    assert output.path.files() == ["fold-0.safetensors", "fold-1.safetensors"]


def test_a_failing_step_leaves_no_output(run: Run) -> None:
    def broken() -> pa.Table:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run.table("tubelets", 0, "k", broken)
    assert run.of_round(0).files() == []
    assert run.steps == []


def test_a_tables_hash_follows_its_rows_alone() -> None:
    chunked = pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1)])
    assert chunked["z"].num_chunks == 2
    assert table_hash(TABLE) == table_hash(chunked) == table_hash(chunked.combine_chunks())
    others = [
        TABLE.take([1, 0, 2]),
        TABLE.slice(0, 2),
        TABLE.rename_columns(["volume", "z"]),
        TABLE.slice(0, 0),
    ]
    assert len({table_hash(table) for table in [TABLE, *others]}) == 5


def test_the_runs_id_follows_settings_and_data(tmp_path: Path, store: Store, run: Run) -> None:
    assert Run.open(tmp_path / "other", Settings(), store).id == run.id
    assert Run.open(tmp_path / "seed", Settings(seed=1), store).id != run.id
    more = finish_store(tmp_path / "store", store.manifest.to_pylist(), [], [])
    assert Run.open(tmp_path / "data", Settings(), more).id != run.id


def test_weights_are_named_by_their_bytes(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no weights"):
        weights_hash(tmp_path)
    (tmp_path / "fold-0.safetensors").write_bytes(b"abc")
    first = weights_hash(tmp_path)
    (tmp_path / "fold-0.losses.json").write_text("[]")
    assert weights_hash(tmp_path) == first
    (tmp_path / "fold-0.safetensors").write_bytes(b"abd")
    assert weights_hash(tmp_path) != first


def test_detector_test_volumes_are_neither_mined_nor_learned_from(tmp_path: Path) -> None:
    volume = np.zeros((3, 4, 4), np.int16)
    rows = [
        write_volume(tmp_path, Volume(split, f"p-{split}", volume, (4, 1, 1)), split, "")
        for split in ("vm", "vh", "vd_test")
    ]
    run = Run.open(tmp_path / "run", Settings(), finish_store(tmp_path, rows, [], []))
    assert [row["split"] for row in run.rows if row not in run.mined] == ["vd_test"]
    assert run.slices == 6
