"""From shards to a finished store: its tables, and what it was made from."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from operator import itemgetter
from typing import Final

from harvester.errors import StoreError
from harvester.records import PARTLY_MARKED, Mark, Reject, Split
from harvester.storage.location import Location, writing
from harvester.store.shard_plan import ShardNote
from harvester.store.store import Store, finish_store

STAMP: Final = "prepared.json"


def commit_store(
    folder: Location, notes: Sequence[ShardNote], refused: Sequence[Reject], inputs: Mapping[str, str]
) -> Store:
    """Write the tables, in the order of ids, whatever shard a volume is in; `inputs`: what it was all made from."""
    by_id = itemgetter("volume_id")
    manifest = [row for note in notes for row in note.manifest]
    splits = {row["volume_id"]: row["split"] for row in manifest}
    marks = [Mark(**row) for row in sorted((row for note in notes for row in note.marks), key=by_id)]
    # The harvest learns from all marks of V_M, from the clinical ones of V_H, from none of V_D^test.
    known = [
        m for m in marks if splits[m.volume_id] == Split.VM or (m.clinical and splits[m.volume_id] in PARTLY_MARKED)
    ]
    hidden = [mark for mark in marks if splits[mark.volume_id] in (Split.VH_TEST, Split.VD_TEST)]
    ignore = sorted((row for note in notes for row in note.ignore), key=by_id)
    with writing(folder):
        (folder / "manifest.parquet").delete()  # not a store until it has its tables again
        (folder / STAMP).write_bytes(json.dumps(inputs).encode())
    return finish_store(folder, manifest, known, hidden, [asdict(each) for each in refused], ignore)


def inputs_before(folder: Location, identity: str) -> dict[str, str] | None:
    """What the store that is there was made from, None for no store. Raises StoreError for other settings."""
    if not (folder / "manifest.parquet").is_file():
        return None
    stamp = folder / STAMP
    inputs: dict[str, str] = json.loads(stamp.read_bytes()) if stamp.is_file() else {}
    if inputs.get("settings") != identity:
        raise StoreError(f"{folder}: holds a store made from other settings; give another --store or --run")
    return inputs
