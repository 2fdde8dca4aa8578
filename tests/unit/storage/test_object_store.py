"""The same store and run folder in an object store: an S3 server on this machine's loopback, spoken to by pyarrow."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from harvester.config.settings import Settings
from harvester.errors import SettingsError, StepError, StoreError
from harvester.records import HarvestTable, Mark, ReviewedTable, Volume, empty
from harvester.results.harvest_table import write as write_table
from harvester.run.folder import Run, settings_of
from harvester.run.log import logged_to
from harvester.run.partials import Partials
from harvester.run.quarantine import Quarantine, Worker, begun
from harvester.run.status import read_status
from harvester.storage import owner
from harvester.storage.location import Location
from harvester.storage.salt import salt_of
from harvester.store.container import open_shard
from harvester.store.store import Store, finish_store, read_volume, write_reviewed
from tests.s3_serving import Door, serving

pytest.importorskip("moto.server", reason="moto[server] is not installed")
pytest.importorskip("boto3")

HU = np.random.default_rng(0).integers(-1024, 3071, (6, 40, 30)).astype(np.int16)
BIG = np.random.default_rng(1).integers(-1024, 3071, (5, 900, 700)).astype(np.int16)
MARK = Mark("big", "m", 3, 1, 1, 4, 3.5, clinical=True)


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    with serving("archive") as door:
        yield door


@pytest.fixture
def bucket(door: Door) -> str:
    return door.uri("archive", "ct/one")


def write(where: str | Path) -> Store:
    with open_shard(Location.of(where) / "shards" / "one.shard") as shard:
        rows = [shard.add(Volume(name, "p", hu, (5, 1, 1)), "vm", "h") for name, hu in (("a", HU), ("big", BIG))]
    return finish_store(where, rows, [MARK], [])


def test_a_store_is_the_same_in_a_bucket_and_on_a_disk(bucket: str, tmp_path: Path) -> None:
    far, near = write(bucket), write(tmp_path)
    assert far.data_hash() == near.data_hash()
    assert (far.path / "shards").files() == ["one.shard"]
    opened = Store.open(bucket)
    np.testing.assert_array_equal(opened.read("a").hu_zyx, HU)
    np.testing.assert_array_equal(read_volume(opened.path, "big", 2, 4).hu_zyx, BIG[2:4])
    assert opened.marks().equals(near.marks())
    assert str(opened.path) == "s3://archive/ct/one"


def test_a_bit_flipped_in_a_bucket_is_an_error(bucket: str) -> None:
    store = write(bucket)
    file = store.path / "shards" / "one.shard"
    data = bytearray(file.read_bytes())
    data[-1000] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(StoreError, match="volume big"):
        Store.open(bucket).read("big", 4)
    np.testing.assert_array_equal(Store.open(bucket).read("a").hu_zyx, HU)


def test_a_writer_that_fails_leaves_no_object(bucket: str) -> None:
    folder = Location.of(bucket) / "shards"

    def broken_off() -> None:
        with open_shard(folder / "half.shard") as shard:
            shard.add(Volume("a", "p", HU, (5, 1, 1)), "vm", "h")
            raise KeyError

    with pytest.raises(KeyError):
        broken_off()
    assert "half.shard" not in folder.files()


@pytest.mark.parametrize("size", [100, 25 << 20], ids=["in one request", "in parts"])
def test_a_write_that_the_store_refuses_leaves_what_was_there(door: Door, size: int) -> None:
    file = Location.of(door.uri("archive", "kept/checkpoint")) / "fold-0.checkpoint.pt"
    file.write_bytes(b"step 39950")
    door.denied, asked = "fold-0.checkpoint", len(door.requests)
    try:
        with pytest.raises(OSError, match=r"fold-0\.checkpoint\.pt"):
            file.write_bytes(b"0" * size)
    finally:
        door.denied = ""
    assert {request.split()[0] for request in door.requests[asked:]} <= {"POST", "PUT"}
    assert (file.read_bytes(), file.parent.files()) == (b"step 39950", ["fold-0.checkpoint.pt"])


def test_reviews_settings_and_tables_outlive_a_refused_write(door: Door, bucket: str) -> None:
    store, folder = write(bucket), Location.of(door.uri("archive", "runs/refused"))
    write_reviewed(store.path, empty(ReviewedTable))
    Run.open(folder, Settings(), store)
    harvested = empty(HarvestTable)
    write_table(harvested, folder, "harvest")
    writers: dict[Location, Callable[[], object]] = {
        store.path / "reviewed.parquet": lambda: write_reviewed(store.path, empty(ReviewedTable)),
        folder / "settings.yaml": lambda: Run.open(folder, Settings(seed=1), store),
        folder / "run.json": lambda: Run.open(folder, Settings(seed=1), store),
        folder / "harvest.csv": lambda: write_table(harvested, folder, "harvest"),
    }
    for file, work in writers.items():
        before, door.denied = file.read_bytes(), file.name
        try:
            with pytest.raises(OSError if file.parent == folder else StoreError):
                work()
        finally:
            door.denied = ""
        assert file.read_bytes() == before, file


def test_a_writer_that_fails_midway_leaves_what_was_there(door: Door) -> None:
    file = Location.of(door.uri("archive", "kept")) / "reviewed.parquet"
    file.write_bytes(b"what people said")

    def broken_off() -> None:
        with file.publish() as sink:
            sink.write(b"half of wh" * (3 << 20))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    assert file.read_bytes() == b"what people said"
    asked = len(door.requests)
    file.write_bytes(b"more")
    assert door.requests[asked:] == ["PUT /archive/kept/reviewed.parquet"]
    assert file.read_bytes() == b"more"


def test_a_bucket_that_is_not_there_holds_no_store(bucket: str) -> None:
    with pytest.raises(StoreError, match=r"^s3://nowhere/x: no manifest.parquet; make a store"):
        Store.open(bucket.replace("archive/ct/one", "nowhere/x"))
    with pytest.raises(StoreError, match=r"^s3://nowhere/x/shards: the store cannot be written"):
        write(bucket.replace("archive/ct/one", "nowhere/x"))


def test_a_word_that_pyarrow_does_not_know_is_a_wrong_setting(bucket: str) -> None:
    with pytest.raises(SettingsError, match="'regoin'; correct what follows"):
        Store.open("s3://archive/ct?regoin=eu")


def test_a_server_that_answers_503_for_a_while_is_waited_for(door: Door) -> None:
    folder = Location.of(door.uri("archive", "busy"))
    door.closed.set()
    opener = threading.Timer(1.2, door.closed.clear)
    opener.start()
    refused = door.refused
    (folder / "a.json").write_text("one")
    assert door.refused > refused
    refused = door.refused
    door.share = 0.2
    try:
        for i in range(4):
            (folder / f"{i}.json").write_text(str(i))
        assert [(folder / f"{i}.json").read_text() for i in range(4)] == [str(i) for i in range(4)]
    finally:
        door.share = 0.0
    assert door.refused > refused
    assert folder.files() == [*(f"{i}.json" for i in range(4)), "a.json"]


def test_a_runs_folder_in_a_bucket(door: Door, bucket: str) -> None:
    run = Run.open(door.uri("archive", "runs/night"), Settings(), write(bucket))
    table = pa.table({"volume_id": ["a"]})
    made: list[int] = []

    def make() -> pa.Table:
        made.append(1)
        return table

    for _ in range(2):
        assert run.table("tubelets", 0, "k", make).path.read_table().equals(table)
    assert made == [1]
    weights = run.weights("generator", 0, "k", lambda out: (out / "fold-0.safetensors").write_bytes(b"w"))
    assert weights.path.files() == ["fold-0.safetensors"]
    with logged_to(run.folder):
        logging.getLogger("harvester.test").warning("round 0")
    with pytest.raises(StepError), logged_to(run.folder):
        raise StepError("no room")
    status = read_status(run.folder)
    assert [step["step"] for step in status.steps] == ["tubelets", "generator"]
    assert sorted(line["message"] for line in status.log) == ["StepError: no room", "round 0"]
    assert settings_of(run.folder) == Settings()


def test_one_writer_at_a_time_in_a_bucket(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "SECONDS_TO_END", 0.0)
    folder = Location.of(door.uri("archive", "runs/held"))
    with owner.owned(folder), pytest.raises(StoreError, match=f"written by process {os.getpid()} on"):  # noqa: SIM117
        with owner.owned(folder):
            pytest.fail("two at once")
    assert folder.files() == []
    salt = salt_of(folder / "store")
    assert (salt_of(folder / "store"), len(salt), folder.files()) == (salt, 32, ["store.salt"])


def test_partials_in_a_bucket(door: Door) -> None:
    partials = Partials(Location.of(door.uri("archive", "runs/night/round-0/tubelets-k.partials")))
    quarantine = Quarantine(partials.folder, Worker("driver", "node"), list)
    table = pa.table({"volume_id": ["a"]})
    partials.publish("000000-a", table, {"volumes": ["a"], "errors": {}})
    quarantine.begin("part", ["b"])
    assert partials.done() == {"000000-a"}
    assert begun(partials.folder, ["a", "b"]) == {"b"}
    quarantine.end("b")
    quarantine.end("b")
    assert next(partials.tables(["000000-a"], table.schema)).equals(table)
    partials.withdraw(["000000-a"])
    with pytest.raises(StepError, match="damaged"):
        next(partials.tables(["000000-a"], table.schema))
