"""A run's folder: steps are done once, a step killed while writing is done again, names follow the inputs."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harvester import __version__
from harvester.cli.run_harvest import named_store
from harvester.config.loading import restore
from harvester.config.settings import Settings
from harvester.errors import StoreError
from harvester.records import TUBELETS, TubeletTable
from harvester.run.folder import STEP_VERSION, Run, StepMissingError, settings_of, store_of
from harvester.run.journal import FORMAT, read_rounds, read_run
from harvester.run.parted_table import PartedTable
from harvester.run.status import read_status
from harvester.run.step_notes import weights_hash
from harvester.run.table_hash import table_hash
from harvester.storage.location import Location
from harvester.store.store import Store, finish_store
from tests.builders import made_store, mark, tubelet

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
    hu = np.zeros((2, 4, 4), np.int16)
    return made_store(tmp_path / "store", {"a": "vm", "b": "vm"}, [mark("a", (1, 1, 2, 2), z=0)], hu=hu)


@pytest.fixture
def run(tmp_path: Path, store: Store) -> Run:
    return Run.open(tmp_path / "run", Settings(), store)


def test_opening_writes_the_settings(run: Run) -> None:
    assert restore((run.folder / "settings.yaml").read_text()) == run.settings
    assert settings_of(run.folder, ["seed=4"]) == run.settings.model_copy(update={"seed": 4})
    assert len((run.folder / "settings.hash").read_text().strip()) == 12
    assert set(run.folds) == {"p-a", "p-b"}
    assert run.folder.files() == ["run.json", "settings.hash", "settings.yaml"]


def test_making_a_run_has_no_effect_and_opening_it_again_keeps_its_name(tmp_path: Path, store: Store, run: Run) -> None:
    Run(Location.of(tmp_path / "new"), Settings(), store)
    assert not (tmp_path / "new").exists()
    first = read_run(run.folder)
    assert first is not None
    assert (first.format, first.harvester, first.status) == (FORMAT, __version__, "RUNNING")
    run.end("FAILED")
    ended = read_run(run.folder)
    assert ended is not None and ended.ended is not None
    assert (ended.id, ended.began, ended.status) == (first.id, first.began, "FAILED")
    assert read_run(Run.open(run.folder, Settings(seed=2), store).folder) == first


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


def test_a_step_killed_between_its_table_and_its_note_is_done_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
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


def fit_two(out: Location) -> None:
    """Fit the folds that are missing, as training does."""
    for fold in range(2):
        if not (file := out / f"fold-{fold}.safetensors").is_file():
            file.write_bytes(b"weights of %d" % fold)
            (out / f"fold-{fold}.losses.json").write_text("[]")


def gone(file: Path) -> None:
    file.unlink()


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def exchanged(file: Path) -> None:
    file.write_bytes(bytes(reversed(file.read_bytes())))


@pytest.mark.parametrize("damage", [gone, truncated, exchanged])
def test_a_fold_whose_weights_are_not_as_written_is_fitted_again_alone(
    run: Run, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    first = run.weights("generator", 0, "k", fit_two)
    folder = Path(first.path.base)
    whole, kept = (folder / "fold-1.safetensors"), (folder / "fold-0.safetensors").stat().st_mtime_ns
    damage(whole)
    looking = Run(run.folder, run.settings, run.store, steps_in=replace(run.folder, read_only=True))
    with pytest.raises(StepMissingError) as caught:
        looking.weights("generator", 0, "k", fit_two)
    assert caught.value.broken == ["fold-1.safetensors"]
    again = run.weights("generator", 0, "k", fit_two)
    assert "round 0 generator: fold-1.safetensors is gone or not as written, made anew" in caplog.text
    assert whole.read_bytes() == b"weights of 1"
    assert (folder / "fold-0.safetensors").stat().st_mtime_ns == kept
    assert again.content == first.content == weights_hash(first.path)
    assert looking.weights("generator", 0, "k", fit_two).content == first.content


@pytest.mark.parametrize("damage", [gone, truncated])
def test_a_table_or_values_that_are_gone_or_short_are_made_again(run: Run, damage: Callable[[Path], None]) -> None:
    for make, result in ((run.table, TABLE), (run.values, {"a": 1})):
        step = Counted(result)
        damage(Path(make("step", 0, "k", step).path.base))
        made = make("step", 0, "k", step)
        assert step.calls == 2
        assert made == replace(make("step", 0, "k", step), seconds=made.seconds)
        assert step.calls == 2


def test_other_content_of_the_same_size_is_made_again_where_the_note_holds_a_crc(run: Run) -> None:
    values, table, note = Counted({"threshold": 0.25}), Counted(TABLE), run.of_round(0) / "point-k.step.json"
    small, large = run.values("point", 0, "k", values).path, run.table("tubelets", 0, "k", table).path
    small.write_text(small.read_text().replace("0.25", "0.75"))
    large.write_bytes(large.read_bytes()[:-1] + b"?")
    run.values("point", 0, "k", values)
    run.table("tubelets", 0, "k", table)
    assert (values.calls, table.calls) == (2, 2)
    assert json.loads(small.read_text()) == {"threshold": 0.25}
    note.write_text(json.dumps({name: each for name, each in json.loads(note.read_text()).items() if name != "crc32"}))
    run.values("point", 0, "k", values)  # a note made before there were CRCs
    assert values.calls == 2


def test_a_start_killed_while_it_drops_what_is_broken_takes_it_for_whole_no_more(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(run.weights("generator", 0, "k", fit_two).path.base)
    truncated(path / "fold-1.safetensors")
    real = Location.delete

    def killed(self: Location) -> None:
        real(self)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Location, "delete", killed)
        with pytest.raises(Killed):
            run.weights("generator", 0, "k", fit_two)
    run.weights("generator", 0, "k", fit_two)
    assert (path / "fold-1.safetensors").read_bytes() == b"weights of 1"


def test_a_note_of_an_older_release_names_no_files_and_is_taken(run: Run) -> None:
    step = Counted(TABLE)
    made = run.table("tubelets", 0, "k", step)
    note = Path(run.of_round(0).base) / "tubelets-k.step.json"
    note.write_text(
        json.dumps({name: value for name, value in json.loads(note.read_text()).items() if name != "files"})
    )
    run.table("tubelets", 0, "k", step)
    assert step.calls == 1
    made.path.delete()
    run.table("tubelets", 0, "k", step)
    assert step.calls == 2


@pytest.mark.parametrize("text", ["", "[]", '{"round": 0}'])
def test_a_step_whose_note_is_damaged_is_made_again(run: Run, text: str) -> None:
    step = Counted(TABLE)
    note = run.of_round(0) / "tubelets-k.step.json"
    run.table("tubelets", 0, "k", step)
    note.write_text(text)
    run.table("tubelets", 0, "k", step)
    run.table("tubelets", 0, "k", step)
    assert step.calls == 2


def test_variables_in_the_settings_store_are_those_of_the_environment(
    run: Run, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCH", str(store.path.parent))
    settings = restore("", ["data.store=$ARCH/store"])
    assert store_of(run.folder, settings, None).path == store.path
    assert named_store(settings, None) == store.path


def test_a_failing_step_leaves_no_output(run: Run) -> None:
    def broken() -> pa.Table:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run.table("tubelets", 0, "k", broken)
    assert run.of_round(0).files() == []
    assert run.steps == []


@pytest.mark.parametrize("harm", [lambda file: file.write_bytes(file.read_bytes()[:200]), Path.unlink])
def test_a_part_that_is_broken_or_gone_is_made_anew_and_no_other(run: Run, harm: Callable[[Path], None]) -> None:
    """In the same start: nobody has to start twice."""
    parts = PartedTable(run.partials("tubelets", 0, "k"), TubeletTable)
    tables = {name: tubelets(name) for name in ("000000-a", "000001-b")}
    asked: list[str] = []

    def make() -> dict[str, float]:
        for name in sorted(tables.keys() - parts.partials.done()):
            asked.append(name)
            parts.partials.publish(name, tables[name], {"volumes": [name], "errors": {}})
        return {"rows": 2}

    made = run.parted("tubelets", 0, "k", parts, make)
    before = made.table.whole()
    assert asked == sorted(tables) and len(before) == 2
    harm(Path(parts.partials.folder.base) / "000001-b.parquet")
    again = run.parted("tubelets", 0, "k", parts, make)
    assert asked[2:] == ["000001-b"]
    assert again.table.whole().equals(before)
    assert run.parted("tubelets", 0, "k", parts, make).key == made.key and len(asked) == 3


def tubelets(volume_id: str) -> pa.Table:
    return pa.Table.from_pylist([tubelet(volume_id, (1.0, 1.0, 2.0, 2.0))], TUBELETS)


def test_a_run_that_only_looks_makes_nothing_and_cannot_write(run: Run, tmp_path: Path, store: Store) -> None:
    key = run.key("tubelets", linking=1)
    made = run.table("tubelets", 0, key, Counted(TABLE))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    elsewhere = Location.of(tmp_path / "elsewhere")
    looking = Run(elsewhere, Settings(), store, steps_in=replace(run.folder, read_only=True))
    again = looking.table("tubelets", 0, looking.key("tubelets", linking=1), Counted(TABLE))
    assert again.path.read_table().equals(TABLE)
    assert (again.key, again.seconds, looking.steps) == (made.key, made.seconds, run.steps)
    other = looking.key("tubelets", linking=2)
    for make in (looking.table, looking.values, looking.weights):
        step = Counted(TABLE)
        with pytest.raises(StepMissingError, match="round 1 tubelets: not made") as caught:
            make("tubelets", 1, other, step)
        assert step.calls == 0
        assert caught.value.inputs == {"step_version": STEP_VERSION["tubelets"], "linking": 2}
    looking.end_round(0, {}, {})
    place = looking.of_round(0)
    for touch in (
        lambda: (place / "a").write_text(""),
        lambda: looking.partials("tubelets", 0, other).publish("s", TABLE, {}),
        (place / f"tubelets-{key}.parquet").delete,
        place.parent.delete_folder,
    ):
        with pytest.raises(StoreError, match="opened for reading alone"):
            touch()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_release_that_makes_a_step_otherwise_takes_none_of_an_older_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Counted(TABLE)
    before = [run.key(name, data="d") for name in STEP_VERSION]
    run.table("tubelets", 0, run.key("tubelets", data="d"), step)
    monkeypatch.setitem(STEP_VERSION, "tubelets", STEP_VERSION["tubelets"] + 1)
    after = [run.key(name, data="d") for name in STEP_VERSION]
    changed = [name for name, old, new in zip(STEP_VERSION, before, after, strict=True) if old != new]
    assert changed == ["tubelets"]
    run.table("tubelets", 0, run.key("tubelets", data="d"), step)
    assert step.calls == 2


def test_the_folder_of_a_newer_release_is_refused_with_what_to_do(run: Run, store: Store) -> None:
    file = run.folder / "run.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({"format": FORMAT + 1, "layout": "other"}))
    for read in (
        lambda: Run.open(run.folder, Settings(seed=9), store),
        lambda: settings_of(run.folder),
        lambda: read_status(run.folder),
    ):
        with pytest.raises(StoreError, match=f"format {FORMAT + 1}.*use the release that.*or give another"):
            read()
    assert restore((run.folder / "settings.yaml").read_text()) == Settings()
    for broken in ("[]", "{", '{"format": "one"}', json.dumps(record | {"status": "LOST"}), "[" * 9999):
        file.write_text(broken)
        with pytest.raises(StoreError, match="not as harvester writes it"):
            settings_of(run.folder)


def test_a_folder_older_than_formats_is_read_and_gone_on_with(run: Run, store: Store) -> None:
    (run.folder / "run.json").delete()
    assert read_run(run.folder) is None
    assert settings_of(run.folder) == Settings()
    assert read_status(run.folder).steps == []
    assert read_run(Run.open(run.folder, Settings(), store).folder) is not None


def test_a_round_is_written_down_when_it_has_ended(run: Run) -> None:
    for k in range(3):
        run.end_round(k, {"choice": {"weight": 0.5}}, {"precision": 0.9, "bound": float("inf")})
    _, first = next(read_rounds(run.folder))
    assert first is not None
    assert (first.params, first.metrics["bound"]) == ({"choice": {"weight": 0.5}}, float("inf"))
    run.end_round(0, {"choice": {"weight": 0.5}}, {"precision": 0.9, "bound": float("inf")})
    assert next(read_rounds(run.folder)) == (0, first)
    assert [k for k, _ in read_rounds(run.folder)] == [0, 1, 2]
    # What followed from a round that came out otherwise is no longer so.
    run.end_round(1, {}, {"precision": 0.8})
    assert [k for k, _ in read_rounds(run.folder)] == [0, 1]


def test_a_tables_hash_follows_its_rows_alone() -> None:
    chunked = pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1)])
    assert chunked["z"].num_chunks == 2
    assert table_hash(TABLE) == table_hash(chunked) == table_hash(chunked.combine_chunks())
    others = [TABLE.take([1, 0, 2]), TABLE.slice(0, 2), TABLE.rename_columns(["volume", "z"]), TABLE.slice(0, 0)]
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
    splits = {split: split for split in ("vm", "vh", "vd_test")}
    store = made_store(tmp_path, splits, hu=np.zeros((3, 4, 4), np.int16))
    run = Run.open(tmp_path / "run", Settings(), store)
    assert sorted(run.mined["split"].to_pylist()) == ["vh", "vm"]
