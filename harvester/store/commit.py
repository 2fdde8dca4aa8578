"""From shards to a finished store: its tables, and what it was made from."""

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from operator import itemgetter
from typing import Final

from harvester.errors import StoreError
from harvester.labels.clinical import draw_clinical
from harvester.records import PARTLY_MARKED, Mark, Reject, Split
from harvester.storage.location import Location, writing
from harvester.store.same_voxels import without_twins
from harvester.store.shard_plan import ShardNote
from harvester.store.store import Store, finish_store

logger = logging.getLogger(__name__)

STAMP: Final = "prepared.json"
DRAWN: Final = "volumes_with_drawn_marks"
"""Among what a store was made from: how many volumes have clinical marks that were drawn; absent for none."""


def commit_store(
    folder: Location,
    notes: Sequence[ShardNote],
    refused: Sequence[Reject],
    inputs: Mapping[str, str],
    unflagged: Collection[str] = (),
    seed: int = 0,
) -> Store:
    """Write the tables, in the order of ids, whatever shard a volume is in; `inputs`: what it was all made from.

    Of volumes with the same voxels one is in them (same_voxels.py).

    unflagged  volumes of whose lesions nobody says which are clinical: they are drawn (labels/clinical.py)
    """
    made = [row for note in notes for row in note.marks]
    manifest, twins = without_twins([row for note in notes for row in note.manifest], made)
    for each in twins:
        logger.warning("%s", each.message)
    splits = {row["volume_id"]: row["split"] for row in manifest}
    rows = sorted((row for row in made if row["volume_id"] in splits), key=itemgetter("volume_id"))
    marks = [Mark(**row) for row in draw_clinical(rows, manifest, unflagged, seed)]
    known = [mark for mark in marks if is_known(mark.clinical, splits[mark.volume_id])]
    hidden = [mark for mark in marks if splits[mark.volume_id] in (Split.VH_TEST, Split.VD_TEST)]
    ignored = (row for note in notes for row in note.ignore if row["volume_id"] in splits)
    ignore = sorted(ignored, key=itemgetter("volume_id"))
    with writing(folder):
        (folder / "manifest.parquet").delete()  # not a store until it has its tables again
        (folder / STAMP).write_bytes(json.dumps(inputs).encode())
    return finish_store(folder, manifest, known, hidden, [each.row for each in (*refused, *twins)], ignore)


def is_known(clinical: bool, split: str) -> bool:
    """Whether a mark is for the harvest to learn from: of V_M any, of V_H the clinical, of V_D^test none."""
    return split == Split.VM or (clinical and split in PARTLY_MARKED)


def inputs_before(folder: Location, identity: str) -> dict[str, str] | None:
    """What the store that is there was made from, None for no store. Raises StoreError for other settings."""
    if not (folder / "manifest.parquet").is_file():
        return None
    inputs = _stamp(folder)
    if inputs is None:  # damaged: the store is made again, with the shards that are whole
        return None
    if inputs.get("settings") != identity:
        raise StoreError(f"{folder}: holds a store made from other settings; give another --store or --run")
    return inputs


def volumes_with_drawn_marks(folder: Location) -> int:
    """In how many volumes of a store the clinical marks were drawn, because nothing said which they are.

    Raises StoreError where it is not known any more.
    """
    inputs = _stamp(folder)
    if inputs is None or not (drawn := inputs.get(DRAWN, "0")).isdecimal():
        raise StoreError(f"{folder / STAMP}: damaged; prepare the store again with harvester prepare")
    return int(drawn)


def drawn_note(volumes: int) -> str:
    """Says that clinical marks are drawn."""
    return (
        f"note: nothing says which lesions of {volumes} completely marked scans the clinic had marked: the largest are "
        "taken for it, as many per volume as vh has (data.archive.clinical_marks)"
    )


def _stamp(folder: Location) -> dict[str, str] | None:
    """What a store was made from; nothing known of one without a stamp, and None for one whose stamp is damaged."""
    stamp = folder / STAMP
    inputs = stamp.read_json() if stamp.is_file() else {}
    return None if inputs is None else {name: str(value) for name, value in inputs.items()}
