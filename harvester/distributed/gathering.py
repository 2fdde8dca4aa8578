"""What the actors of a preparation tell, as it comes in: notes of shards, refusals, a line of progress."""

import json
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from harvester.errors import StoreError
from harvester.volumes.found import Refused
from harvester.volumes.shard_plan import ShardNote

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES: Final = 15.0
LINES_OF_REFUSAL: Final = 5


def gathered(
    rows: Callable[[], Iterable[dict[str, Any]]], total: int, allowed: int
) -> tuple[list[ShardNote], list[Refused]]:
    """What the actors told, with a line of progress now and then. Ends at once where it cannot end well."""
    began = last = time.monotonic()
    notes: list[ShardNote] = []
    rejects: list[Refused] = []
    done = 0
    for row in rows():
        if row["error"]:
            raise StoreError(row["error"])
        note = ShardNote(**json.loads(row["note"]))
        new = [Refused(**each) for each in json.loads(row["rejects"])]
        notes += [note] if note.cases else []
        rejects += new
        done += len(note.cases) + len(new)
        _refuse_if_broken(rejects, new, total, allowed)
        now = time.monotonic()
        if now - last > SECONDS_BETWEEN_LINES or done == total:
            last, rate = now, done / (now - began)
            left = (total - done) / rate
            logger.info("prepare: %d of %d volumes, %.1f a second, %.0f s left", done, total, rate, left)
    return notes, sorted(rejects, key=lambda each: each.source_hash)


def _refuse_if_broken(rejects: list[Refused], new: list[Refused], total: int, allowed: int) -> None:
    for each in new[: max(0, LINES_OF_REFUSAL + len(new) - len(rejects))]:
        logger.warning("refused: %s", each.message)
    if len(rejects) > allowed:
        raise StoreError(
            f"{len(rejects)} of {total} volumes were refused, more than data.max_reject_share allows "
            f"({allowed}); the first: {rejects[0].message}"
        )
