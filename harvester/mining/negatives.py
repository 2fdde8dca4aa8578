"""What the models learn to leave alone: sure (V_M) and possible (V_H) hard negatives."""

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.config.settings import MiningSettings
from harvester.geometry import Array
from harvester.labels.ledger import exclusion_labels, extrude_marks
from harvester.mining.candidates import clear_of, overlap_with
from harvester.records import (
    SELECTED,
    AnyTable,
    LedgerTable,
    ManifestTable,
    PooledTable,
    Role,
    ScoredTable,
    SelectedTable,
    Source,
    Split,
    rows_where,
)

Order = Literal["ascending", "descending"]
Scored = ScoredTable | PooledTable


def classifier_examples(
    scored: pa.Table, ledger: LedgerTable, manifest: ManifestTable, match_iou: float
) -> tuple[Array, Array]:
    """Masks (n,) of the tubelets that the classifier learns as lesions and as none.

    Lesions match a known one; the others come from completely marked volumes and lie on none even halfway. In a
    partly marked volume a tubelet without a match may be a lesion that nobody marked: it teaches nothing, unless it
    matches what a person rejected.
    """
    lesions = rows_where(ledger, "role", Role.LESION)
    rejected = rows_where(rows_where(ledger, "source", Source.REVIEWED), "role", Role.HARD_NEGATIVE)
    complete = rows_where(manifest, "split", Split.VM)["volume_id"].combine_chunks()
    is_complete = pc.is_in(scored["volume_id"], complete).to_numpy(zero_copy_only=False)
    is_rejected = overlap_with(scored, rejected) >= match_iou
    near = overlap_with(scored, extrude_marks(lesions, manifest))
    return overlap_with(scored, lesions) >= match_iou, (is_complete | is_rejected) & (near < match_iou / 2)


def labelled(tubelets: AnyTable, ledger: LedgerTable, manifest: ManifestTable, match_iou: float) -> pa.Table:
    """Those of some volumes' tubelets that the classifier learns from, with their `label`: 1 a lesion, 0 none."""
    ids = tubelets["volume_id"].unique()
    own, volumes = (each.filter(pc.is_in(each["volume_id"], ids)) for each in (ledger, manifest))
    lesion, other = classifier_examples(tubelets, LedgerTable(own), ManifestTable(volumes), match_iou)
    kept = np.flatnonzero(lesion | other)
    return tubelets.take(kept).append_column("label", pa.array(lesion[kept].astype(np.int32)))


def sure_hard_negatives(scored: Scored, ledger: LedgerTable, settings: MiningSettings) -> SelectedTable:
    """N_M: the best-scored tubelets of each completely marked volume that touch no lesion and nothing reviewed."""
    free = clear_of(scored, exclusion_labels(ledger), settings)
    return best_of_each_volume(free, settings.hard_negatives_per_volume)


def possible_hard_negatives(scored: Scored, ledger: LedgerTable, settings: MiningSettings) -> SelectedTable:
    """N_H: tubelets of partly marked volumes that the generator likes, the classifier refuses, and nothing touches."""
    free = clear_of(scored, exclusion_labels(ledger), settings)
    liked = free["lpg_score"].to_numpy() >= settings.possible_lpg_above
    refused = free["lpc_score"].to_numpy() <= settings.possible_lpc_below
    kept = free.filter(pa.array(liked & refused))
    return best_of_each_volume(kept, settings.possible_max_per_volume)


def best_of_each_volume(tubelets: Scored, count: int) -> SelectedTable:
    """The `count` tubelets of each volume with the highest generator score, with it as their `score`."""
    best = _head_of_each_volume(tubelets, ("lpg_score", "descending"), count)
    return SelectedTable(best.append_column("score", best["lpg_score"]).select(SELECTED.names))


def to_classify(tubelets: AnyTable, count: int) -> AnyTable:
    """The first `count` tubelets of each volume by id, which is best first: what the classifier learns and answers.

    Ids may have gaps, where tubelets in regions that are left out were.
    """
    return _head_of_each_volume(tubelets, ("tubelet_id", "ascending"), count)


def _head_of_each_volume(tubelets: AnyTable, key: tuple[str, Order], count: int) -> AnyTable:
    ordered = tubelets.take(pc.sort_indices(tubelets, sort_keys=[("volume_id", "ascending"), key]))
    _, first, inverse = np.unique(
        ordered["volume_id"].to_numpy(zero_copy_only=False).astype(str), return_index=True, return_inverse=True
    )
    rank = np.arange(len(ordered)) - first[inverse] if len(ordered) else np.zeros(0, int)
    return ordered.filter(pa.array(rank < count))
