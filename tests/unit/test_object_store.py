"""The same store in an object store: an S3 server on this machine's loopback, spoken to by pyarrow."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from harvester.errors import SettingsError, StoreError
from harvester.records import Mark, Volume
from harvester.volumes.locations import Location
from harvester.volumes.shard import open_shard
from harvester.volumes.store import Store, finish_store, read_volume

server = pytest.importorskip("moto.server", reason="moto[server] is not installed")
boto3 = pytest.importorskip("boto3")

HU = np.random.default_rng(0).integers(-1024, 3071, (6, 40, 30)).astype(np.int16)
BIG = np.random.default_rng(1).integers(-1024, 3071, (5, 900, 700)).astype(np.int16)
MARK = Mark("big", "m", 3, 1, 1, 4, 3.5, clinical=True)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket's URI; keys are in the environment, as for a real one."""
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
        client.create_bucket(Bucket="archive")
        yield f"s3://archive/ct/one?region=us-east-1&scheme=http&endpoint_override={host}:{port}"
    running.stop()


def write(where: str | Path) -> Store:
    with open_shard(Location.of(where) / "shards" / "one.shard") as shard:
        rows = [
            shard.add(Volume(name, "p", hu, (5, 1, 1)), "vm", "h") for name, hu in (("a", HU), ("big", BIG))
        ]
    return finish_store(where, rows, [MARK], [])


def test_a_store_is_the_same_in_a_bucket_and_on_a_disk(bucket: str, tmp_path: Path) -> None:
    far, near = write(bucket), write(tmp_path)
    assert far.data_hash() == near.data_hash()
    assert (far.path / "shards").files() == ["one.shard"]
    opened = Store(bucket)
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
        Store(bucket).read("big", 4)
    np.testing.assert_array_equal(Store(bucket).read("a").hu_zyx, HU)


def test_a_writer_that_fails_leaves_no_object(bucket: str) -> None:
    folder = Location.of(bucket) / "shards"

    def broken_off() -> None:
        with open_shard(folder / "half.shard") as shard:
            shard.add(Volume("a", "p", HU, (5, 1, 1)), "vm", "h")
            raise KeyError

    with pytest.raises(KeyError):
        broken_off()
    assert "half.shard" not in folder.files()


def test_a_bucket_that_is_not_there_holds_no_store(bucket: str) -> None:
    with pytest.raises(StoreError, match=r"^s3://nowhere/x: no manifest.parquet; make a store"):
        Store(bucket.replace("archive/ct/one", "nowhere/x"))
    with pytest.raises(StoreError, match=r"^s3://nowhere/x/shards: the store cannot be written"):
        write(bucket.replace("archive/ct/one", "nowhere/x"))


def test_a_word_that_pyarrow_does_not_know_is_a_wrong_setting(bucket: str) -> None:
    with pytest.raises(SettingsError, match="'regoin'; correct what follows"):
        Store("s3://archive/ct?regoin=eu")
