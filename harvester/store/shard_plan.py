"""Which cases go into which shard, and what was done before: how a stopped preparation goes on.

Beside each shard lies a small file that says what it was made from and what it holds. It is written after the
shard, so a shard without one does not count.
"""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Final

from harvester.config.fingerprint import settings_hash
from harvester.storage.location import PART, Location

CaseRecord = dict[str, Any]
"""A case as a dataset describes it: volume_id, and where they are known files, bytes and background_id."""

SHARD_BYTES: Final = 256 << 20
"""Decoded voxels of a shard, about: large enough for object stores, small enough to be made again."""
LEAST_BYTES: Final = 8 << 20
SHARDS_OF_A_SMALL_STORE: Final = 64
"""A store of fewer bytes than 64 full shards gets smaller ones, so that all cores have work to the end."""
ASSUMED_BYTES: Final = 4 << 20
"""Of a volume that is not on a disk yet."""
GZIP: Final = 3
"""CT in .gz decodes to about three times its size."""
REQUESTS: Final = 16
"""Small files asked for at a time."""


@dataclass(frozen=True)
class ShardNote:
    """What a shard was made from and what it holds.

    cases     volume_id: source hash, of the volumes in it
    manifest  rows of records.MANIFEST; marks, ignore: rows of records.MARKS (also the hidden ones) and IGNORE
    """

    name: str
    cases: dict[str, str]
    manifest: list[dict[str, Any]]
    marks: list[dict[str, Any]]
    ignore: list[dict[str, Any]]

    @property
    def bytes(self) -> int:
        """Of the shard."""
        return sum(int(row.get("bytes", 0)) for row in self.manifest)

    def to_json(self) -> str:
        """As it lies beside the shard."""
        return json.dumps(asdict(self))

    def save(self, folder: Location) -> None:
        """Write it beside its shard in `folder`."""
        (folder / f"{self.name}.json").write_bytes(self.to_json().encode())


def plan_shards(cases: Sequence[CaseRecord], shard_bytes: int = SHARD_BYTES) -> list[list[CaseRecord]]:
    """The cases in their order, cut into shards of about so many decoded bytes; none for no cases.

    A volume larger than that is alone. Cases of one background stay together, and no shard has two backgrounds:
    an actor then holds one at a time and reads it seldom.
    """
    grouped = any("background_id" in case for case in cases)
    fair = sum(map(_decoded_bytes, cases)) // SHARDS_OF_A_SMALL_STORE
    room = shard_bytes if grouped else min(shard_bytes, max(fair, LEAST_BYTES))
    shards: list[list[CaseRecord]] = []
    filled, group = 0, None
    for case in cases:
        size = _decoded_bytes(case)
        if not shards or filled + size > room or case.get("background_id") != group:
            shards.append([])
            filled, group = 0, case.get("background_id")
        shards[-1].append(case)
        filled += size
    return shards


def shard_name(cases: Sequence[CaseRecord], source_hashes: Mapping[str, str]) -> str:
    """Named by what it is to be made from: the same cases give the same name."""
    return settings_hash([source_hashes[case["volume_id"]] for case in cases])


def shards_made(folder: Location, source_hashes: Mapping[str, str]) -> list[ShardNote]:
    """The shards in `folder` that can stay: whole, and each of their volumes is wanted still, from the same source."""
    files = folder.sizes()
    names = [file.removesuffix(".json") for file in files if file.endswith(".json")]
    with ThreadPoolExecutor(REQUESTS) as pool:
        notes = list(pool.map(lambda name: _read_note(folder, name), names))
    kept: list[ShardNote] = []
    seen: set[str] = set()
    for note in notes:
        if note is None or files.get(f"{note.name}.shard") != note.bytes or not note.cases:
            continue
        wanted = all(source_hashes.get(name) == source for name, source in note.cases.items())
        if wanted and seen.isdisjoint(note.cases):
            kept.append(note)
            seen.update(note.cases)
    return kept


def sweep(folder: Location, kept: Sequence[ShardNote] | None = None) -> None:
    """Remove what a killed writer left half written; and, where `kept` is given, shards that are not in it."""
    names = None if kept is None else {f"{note.name}.{end}" for note in kept for end in ("shard", "json")}
    for file in folder.files():
        if file.endswith(PART) or (names is not None and file not in names):
            (folder / file).delete()


def _read_note(folder: Location, name: str) -> ShardNote | None:
    """None for one that cannot be read: its shard is made again."""
    try:
        note = ShardNote(**json.loads((folder / f"{name}.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    return note if note.name == name else None


def _decoded_bytes(case: CaseRecord) -> int:
    files = case.get("files") or [""]
    known = int(case.get("bytes") or 0) or ASSUMED_BYTES
    return known * GZIP if str(files[0]).lower().endswith(".gz") else known
