"""Cases in shards: order, sizes, backgrounds; and what of an earlier preparation can stay."""

from pathlib import Path
from typing import Any

import pytest

from harvester.storage.location import Location
from harvester.store.shard_plan import (
    ASSUMED_BYTES,
    LEAST_BYTES,
    ShardNote,
    plan_shards,
    shard_name,
    shards_made,
    sweep,
)

MIB = 1 << 20


def cases(*sizes_mib: float, **more: Any) -> list[dict[str, Any]]:
    return [{"volume_id": f"v{i}", "bytes": int(size * MIB), **more} for i, size in enumerate(sizes_mib)]


def ids(shards: list[list[dict[str, Any]]]) -> list[list[str]]:
    return [[case["volume_id"] for case in shard] for shard in shards]


def test_shards_are_filled_in_order_and_a_huge_volume_is_alone() -> None:
    assert ids(plan_shards(cases(3, 3, 3, 90, 1, 1, 6, 1), 8 * MIB)) == [
        ["v0", "v1"], ["v2"], ["v3"], ["v4", "v5", "v6"], ["v7"],
    ]  # fmt: skip
    assert plan_shards([]) == []


def test_a_small_store_has_smaller_shards_for_all_cores() -> None:
    many = plan_shards(cases(*[2.0] * 1000))  # 2,000 MiB / 64
    assert [len(shard) for shard in many] == [15] * 66 + [10]
    assert {len(shard) for shard in plan_shards(cases(*[2.0] * 40))} == {LEAST_BYTES // (2 * MIB)}
    assert len(plan_shards(cases(*[64.0] * 1000))) == 250


def test_gzip_counts_for_what_it_decodes_to_and_the_unknown_for_something() -> None:
    packed = cases(1, 1, 1, 1, 1, files=["a.nii.gz"])
    assert [len(shard) for shard in plan_shards(packed, 8 * MIB)] == [2, 2, 1]
    unknown = [{"volume_id": f"v{i}"} for i in range(5)]
    assert [len(shard) for shard in plan_shards(unknown, 8 * MIB)] == [8 * MIB // ASSUMED_BYTES] * 2 + [1]


def test_no_shard_has_two_backgrounds() -> None:
    listed = [{"volume_id": f"v{i}", "background_id": name} for i, name in enumerate("aaaabbbc")]
    assert ids(plan_shards(listed)) == [["v0", "v1", "v2", "v3"], ["v4", "v5", "v6"], ["v7"]]


def test_a_name_follows_from_what_the_shard_is_made_from() -> None:
    two = cases(1, 1)
    name = shard_name(two, {"v0": "x", "v1": "y"})
    assert name == shard_name(two, {"v0": "x", "v1": "y", "v2": "z"})
    assert name != shard_name(two, {"v0": "x", "v1": "z"})
    assert name != shard_name(two[:1], {"v0": "x"})


def note(folder: Location, name: str, **made: str) -> ShardNote:
    written = ShardNote(name, made, [{"volume_id": each} for each in made], [], [])
    (folder / f"{name}.shard").write_bytes(b"")
    written.save(folder)
    return written


@pytest.fixture
def folder(tmp_path: Path) -> Location:
    return Location.of(tmp_path / "shards")


def test_shards_stay_while_all_their_volumes_are_wanted_unchanged(folder: Location) -> None:
    first, second = note(folder, "a", v0="x", v1="x"), note(folder, "b", v2="x")
    wanted = {"v0": "x", "v1": "x", "v2": "x", "v3": "x"}
    assert shards_made(folder, wanted) == [first, second]
    assert shards_made(folder, {**wanted, "v1": "changed"}) == [second]
    assert shards_made(folder, {"v0": "x", "v2": "x"}) == [second]
    assert shards_made(folder, {}) == []
    assert shards_made(folder / "nowhere", wanted) == []


def test_a_shard_without_its_note_or_a_note_without_its_shard_does_not_count(folder: Location) -> None:
    for name in "abc":
        note(folder, name, **{f"v-{name}": "x"})
    wanted = {f"v-{name}": "x" for name in "abc"}
    (folder / "a.shard").delete()
    (folder / "b.json").write_bytes(b'{"name": "b", "cases')
    assert [each.name for each in shards_made(folder, wanted)] == ["c"]


def test_a_shard_that_is_cut_short_does_not_count(folder: Location) -> None:
    rows = [{"volume_id": "v0", "bytes": 4}, {"volume_id": "v1", "bytes": 2}]
    written = ShardNote("a", {"v0": "x", "v1": "x"}, rows, [], [])
    written.save(folder)
    (folder / "a.shard").write_bytes(b"123456")
    assert shards_made(folder, {"v0": "x", "v1": "x"}) == [written]
    (folder / "a.shard").write_bytes(b"12345")
    assert shards_made(folder, {"v0": "x", "v1": "x"}) == []


def test_a_volume_is_taken_from_one_shard_only(folder: Location) -> None:
    note(folder, "a", v0="x", v1="x")
    note(folder, "b", v1="x")
    assert [each.name for each in shards_made(folder, {"v0": "x", "v1": "x"})] == ["a"]


def test_what_nobody_refers_to_is_swept(folder: Location) -> None:
    kept = note(folder, "a", v0="x")
    note(folder, "b", v1="x")
    (folder / ".c.shard.part").write_bytes(b"half")
    sweep(folder)
    assert folder.files() == ["a.json", "a.shard", "b.json", "b.shard"]
    sweep(folder, [kept])
    assert folder.files() == ["a.json", "a.shard"]
