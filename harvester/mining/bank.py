"""What all rounds say of a tubelet: the bank of their scores.

Every round has new models, which see the same things a little otherwise. A tubelet is the same as one of an earlier
round if they overlap enough, and its score is the mean logit over the rounds in which it was found.
V_M's tubelets go through it as V_H's do: no label has a say.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from harvester.evaluation.matching import Integers, tubelet_overlaps
from harvester.geometry import Array
from harvester.records import POOLED, PooledTable, ScoredTable, SelectedTable

SAME_IOU: Final = 0.5
"""Two tubelets whose 3D IoU reaches it are the same."""
CHUNK: Final = 1 << 16
"""Tubelets that are matched at a time: pairs take memory."""
LOGIT_CLIP: Final = 1e-6


def pool(rounds: Sequence[ScoredTable]) -> PooledTable:
    """The last round's tubelets with what all rounds say of them (records.POOLED)."""
    newest = rounds[-1]
    looks = [(table, same_tubelet(newest, table)) for table in rounds[:-1]]
    columns: dict[str, Array] = {}
    for score in ("lpg", "lpc"):
        own = log_odds(_numbers(newest, f"{score}_score"))
        before = [np.append(log_odds(_numbers(table, f"{score}_score")), np.nan)[same] for table, same in looks]
        every = np.stack([own, *before])
        columns[f"{score}_logit"] = np.nanmean(every, axis=0)
    table = newest
    for name, column in columns.items():
        table = ScoredTable(table.append_column(name, pa.array(column, pa.float64())))
    return PooledTable(table.select(POOLED.names))


def log_odds(p: Array) -> Array:
    """Those of 0 and 1 finite."""
    p = np.clip(p, LOGIT_CLIP, 1 - LOGIT_CLIP)
    return np.asarray(np.log(p / (1 - p)))


def same_tubelet(tubelets: pa.Table, others: pa.Table) -> Integers:
    """(n,) row of the other that each tubelet overlaps most, by SAME_IOU at least; -1 where there is none."""
    same = np.full(len(tubelets), -1, np.int64)
    for start in range(0, len(tubelets), CHUNK):
        found = tubelet_overlaps(tubelets.slice(start, CHUNK), others)
        enough = np.flatnonzero(found.iou >= SAME_IOU)
        order = enough[np.lexsort((-found.iou[enough], found.tubelet[enough]))]
        rows, first = np.unique(found.tubelet[order], return_index=True)
        same[start + rows] = found.mark[order][first]
    return same


def share_new(tubelets: SelectedTable, before: SelectedTable) -> float:
    """Share of the tubelets that are not among those of before; 0 where there are none."""
    return float(np.mean(same_tubelet(tubelets, before) < 0)) if len(tubelets) else 0.0


def _numbers(table: pa.Table, name: str) -> Array:
    column: Any = table[name].to_numpy()
    return np.asarray(column, np.float64)
