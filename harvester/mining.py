"""Scored tubelets + labels + operating point -> harvested lesions and hard negatives.

The archive's partly marked volumes (V_H) are harvested; the completely marked ones (V_M) go through the very same
rule with their annotations hidden. What that rehearsal accepts is what the certificate is computed on: tubelets
of patients that no model saw, that touch no clinical mark and nothing accepted in an earlier round or reviewed since.
"""

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from harvester.config import MiningSettings, OperatingPointSettings
from harvester.evaluation.matching import hits, overlaps
from harvester.labels.ledger import BOX, from_tubelets, settled, spread, with_role
from harvester.records import MARKS

Array = NDArray[Any]

LOGIT_CLIP: Final = 1e-6


@dataclass(frozen=True)
class Found:
    """What a round mined: tubelets with their `score`; `rehearsed` ones of V_M also with `correct`."""

    lesions: pa.Table
    rehearsed: pa.Table
    sure_negatives: pa.Table
    possible_negatives: pa.Table


@dataclass(frozen=True)
class Choice:
    """What Ray Tune searches: how LPG and LPC scores become one, and which tubelets take part.

    lpg_weight      share of the generator's logit in the score, the rest is the classifier's
    lpg_floor       tubelets below this generator score are dropped
    min_slices      shorter tubelets are dropped
    small_bonus     added to the logit of tubelets narrower than small_mm: a threshold of their own
    """

    lpg_weight: float
    lpg_floor: float
    min_slices: int
    small_bonus: float
    small_mm: float

    def as_dict(self) -> dict[str, float]:
        """The fields by name."""
        return asdict(self)


def choices(settings: OperatingPointSettings) -> list[Choice]:
    """Every combination that the settings name."""
    return [
        Choice(weight, floor, slices, bonus, settings.small_mm)
        for weight in settings.lpg_weights
        for floor in settings.lpg_floors
        for slices in settings.min_slices
        for bonus in settings.small_bonuses
    ]


def fuse(scored: pa.Table, choice: Choice) -> Array:
    """One score in (0, 1) a tubelet, float64 (n,); -inf for those that the choice drops."""
    lpg, lpc = (_logit(scored[name].to_numpy()) for name in ("lpg_score", "lpc_score"))
    logit = choice.lpg_weight * lpg + (1 - choice.lpg_weight) * lpc
    logit = logit + choice.small_bonus * (scored["width_mm"].to_numpy() < choice.small_mm)
    slices = pc.list_value_length(scored["z"]).to_numpy()
    kept = (scored["lpg_score"].to_numpy() >= choice.lpg_floor) & (slices >= choice.min_slices)
    return np.where(kept, 1 / (1 + np.exp(-logit)), -np.inf)


def select(scored: pa.Table, choice: Choice, threshold: float) -> pa.Table:
    """The tubelets whose fused score reaches the threshold, with that `score`, best first."""
    score = fuse(scored, choice)
    rows = np.flatnonzero(score >= threshold)
    rows = rows[np.argsort(-score[rows], kind="stable")]
    return scored.take(rows).append_column("score", pa.array(score[rows]))


def split_of(table: pa.Table, manifest: pa.Table, *splits: str) -> pa.Table:
    """The rows whose volume belongs to one of the splits."""
    volumes = manifest.filter(pc.is_in(manifest["split"], pa.array(splits)))["volume_id"]
    return table.filter(pc.is_in(table["volume_id"], volumes.combine_chunks()))


def overlap_with(tubelets: pa.Table, labels: pa.Table) -> Array:
    """Highest IoU of each tubelet with any box of the ledger's rows on a shared slice, (n,); 0 without labels."""
    highest = np.zeros(len(tubelets))
    found = overlaps(tubelets, slice_marks(labels))
    np.maximum.at(highest, found.tubelet, found.iou)
    return highest


def slice_marks(labels: pa.Table) -> pa.Table:
    """Ledger rows as marks (records.MARKS), one a slice."""
    counts = pc.list_value_length(labels["z"]).to_numpy()
    row = np.repeat(np.arange(len(labels)), counts)
    columns: dict[str, Any] = {name: pc.list_flatten(labels[name]) for name in ("z", *BOX)}
    columns["volume_id"] = labels["volume_id"].take(row)
    columns["mark_id"] = labels["label_id"].take(row)
    columns["clinical"] = pa.array(np.zeros(len(row), bool))
    columns["kind"] = labels["source"].take(row)
    return pa.table({field.name: columns[field.name].cast(field.type) for field in MARKS}, MARKS)


def candidates(scored: pa.Table, labels: pa.Table, settings: MiningSettings) -> pa.Table:
    """The tubelets that touch no label: what a round may still find. `labels`: ledger rows of lesions, spread."""
    return scored.filter(pa.array(overlap_with(scored, labels) < settings.clear_iou))


def rehearsal_candidates(
    scored: pa.Table, manifest: pa.Table, ledger: pa.Table, accepted: pa.Table, settings: MiningSettings
) -> pa.Table:
    """V_M's tubelets as if V_M were to be harvested: those that touch no clinical mark and nothing accepted before.

    Accepted before: in this run (`accepted`), or in one that was reviewed (the ledger's rows of source reviewed). What
    is false in V_M stays false and counts, whether or not somebody looked: else V_M would look better than V_H.
    """
    reviewed = pc.and_(pc.equal(ledger["source"], "reviewed"), pc.not_equal(ledger["role"], "hard_negative"))
    known = ledger.filter(pc.or_(pc.equal(ledger["source"], "clinical"), reviewed))
    free = candidates(split_of(scored, manifest, "vm"), known, settings)
    before = spread(from_tubelets(accepted, "lesion", "rehearsed", 0, "", ""), manifest)
    return candidates(free, before, settings)


def rehearsal_lesions(marks: pa.Table, manifest: pa.Table) -> pa.Table:
    """The lesions of V_M that no clinical mark shows (records.MARKS): what the rehearsal should find."""
    return split_of(marks.filter(pc.invert(marks["clinical"])), manifest, "vm").combine_chunks()


def clinical_finds(scored: pa.Table, ledger: pa.Table, match_iou: float) -> pa.Table:
    """The tubelets of any volume that find a clinical mark: what everybody knows to be right."""
    clinical = ledger.filter(pc.equal(ledger["source"], "clinical"))
    return scored.filter(pa.array(overlap_with(scored, clinical) >= match_iou))


def known_recall(candidates: pa.Table, known: pa.Table, num_lesions: int, choice: Choice) -> float:
    """Share of the tubelets on clinical marks that outscore V_M's candidates, 0 to 1.

    The mean over thresholds that accept from a sixth to two thirds as many candidates as there are lesions to
    find: where operating points lie.
    """
    ranked = np.sort(fuse(candidates, choice))[::-1]
    counts = np.arange(num_lesions // 6, 2 * num_lesions // 3)
    thresholds = ranked[counts[counts < len(ranked)]]
    found = np.sort(fuse(known, choice))
    if not len(found) or not len(thresholds):
        return 0.0
    # A threshold of -inf (fewer candidates kept than counted) finds all that the choice itself keeps.
    first = np.searchsorted(found, np.maximum(thresholds, np.finfo(np.float64).min))
    return float(1 - first.mean() / len(found))


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


def judge(accepted: pa.Table, lesions: pa.Table, match_iou: float) -> tuple[Array, int]:
    """Whether each accepted tubelet (with `score`) finds a lesion no better one found, and how many are found."""
    found = hits(overlaps(accepted, lesions), accepted["score"].to_numpy(), len(lesions), match_iou)
    return found.correct, int((found.mark_hit_by >= 0).sum())


def _logit(p: Array) -> Array:
    p = np.clip(p, LOGIT_CLIP, 1 - LOGIT_CLIP)
    logit: Array = np.log(p / (1 - p))
    return logit
