"""V_M as if it were to be harvested: what the certificate is computed on."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from harvester.config.settings import MiningSettings
from harvester.evaluation.matching import hits, overlaps
from harvester.labels.ledger import from_tubelets, spread
from harvester.mining.candidates import candidates, overlap_with, split_of

Array = NDArray[Any]


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


def judge(accepted: pa.Table, lesions: pa.Table, match_iou: float) -> tuple[Array, int]:
    """Whether each accepted tubelet (with `score`) finds a lesion no better one found, and how many are found."""
    found = hits(overlaps(accepted, lesions), accepted["score"].to_numpy(), len(lesions), match_iou)
    return found.correct, int((found.mark_hit_by >= 0).sum())
