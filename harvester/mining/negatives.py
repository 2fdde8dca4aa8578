"""What the models learn to leave alone: sure (V_M) and possible (V_H) hard negatives."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from harvester.config.settings import MiningSettings
from harvester.labels.ledger import settled, spread, with_role
from harvester.mining.candidates import candidates, overlap_with

Array = NDArray[Any]


def classifier_examples(
    scored: pa.Table, ledger: pa.Table, manifest: pa.Table, match_iou: float
) -> tuple[Array, Array]:
    """Masks (n,) of the tubelets that the classifier learns as lesions and as none.

    Lesions match a known one; the others come from completely marked volumes and lie on none even halfway. In a
    partly marked volume a tubelet without a match may be a lesion that nobody marked: it teaches nothing, unless it
    matches what a person rejected.
    """
    lesions = with_role(ledger, "lesion")
    rejected = with_role(ledger.filter(pc.equal(ledger["source"], "reviewed")), "hard_negative")
    complete = manifest.filter(pc.equal(manifest["split"], "vm"))["volume_id"].combine_chunks()
    is_complete = pc.is_in(scored["volume_id"], complete).to_numpy(zero_copy_only=False)
    is_rejected = overlap_with(scored, rejected) >= match_iou
    near = overlap_with(scored, spread(lesions, manifest))
    return overlap_with(scored, lesions) >= match_iou, (is_complete | is_rejected) & (near < match_iou / 2)


def sure_hard_negatives(scored: pa.Table, ledger: pa.Table, settings: MiningSettings) -> pa.Table:
    """N_M: the best-scored tubelets of each completely marked volume that touch no lesion and nothing reviewed."""
    free = candidates(scored, settled(ledger), settings)
    return best_of_each_volume(free, settings.hard_negatives_per_volume)


def possible_hard_negatives(scored: pa.Table, ledger: pa.Table, settings: MiningSettings) -> pa.Table:
    """N_H: tubelets of partly marked volumes that the generator likes, the classifier refuses, and nothing touches."""
    free = candidates(scored, settled(ledger), settings)
    liked = pc.greater_equal(free["lpg_score"], settings.possible_lpg_above)
    refused = pc.less_equal(free["lpc_score"], settings.possible_lpc_below)
    return best_of_each_volume(free.filter(pc.and_(liked, refused)), settings.possible_max_per_volume)


def best_of_each_volume(tubelets: pa.Table, count: int) -> pa.Table:
    """The `count` tubelets of each volume with the highest generator score, with it as their `score`."""
    best = _head_of_each_volume(tubelets, ("lpg_score", "descending"), count)
    return best.append_column("score", best["lpg_score"])


def to_classify(tubelets: pa.Table, count: int) -> pa.Table:
    """The first `count` tubelets of each volume by id, which is best first: what the classifier learns and answers.

    Ids may have gaps, where tubelets in regions that are left out were.
    """
    return _head_of_each_volume(tubelets, ("tubelet_id", "ascending"), count)


def _head_of_each_volume(tubelets: pa.Table, key: tuple[str, str], count: int) -> pa.Table:
    ordered = tubelets.take(pc.sort_indices(tubelets, sort_keys=[("volume_id", "ascending"), key]))
    _, first, inverse = np.unique(
        ordered["volume_id"].to_numpy(zero_copy_only=False).astype(str),
        return_index=True,
        return_inverse=True,
    )
    rank = np.arange(len(ordered)) - first[inverse] if len(ordered) else np.zeros(0, int)
    return ordered.filter(pa.array(rank < count))
