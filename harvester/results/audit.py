"""From what a run scored, or any table of detections, to an audit: which finds are asked, in which order.

V_M, where there is one, proposes where the rungs are cut, and lends finds that are known to be none, to see how surely
a reader tells them apart. It proves nothing here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from harvester.certificate.audit import (
    RIGHT,
    Deck,
    Verdict,
    claim_of,
    level_of_attempt,
    list_hash,
    lower_bound,
    rungs,
    standings,
)
from harvester.certificate.audit_folder import AuditFolder, Plan, attempts, find_id
from harvester.certificate.evidence import Evidence, steps_of
from harvester.config.settings import Settings
from harvester.errors import StoreError
from harvester.geometry import Array
from harvester.labels.ledger import exclusion_labels
from harvester.mining.candidates import clear_of
from harvester.mining.fusion import ScoreFusion, select
from harvester.mining.round_view import RoundView, StoreTables
from harvester.records import FINDS, SELECTED, SIDES, AcceptedTable, SelectedTable, values
from harvester.results.scored import last_round, scored_tables
from harvester.run.summary import AuditResult, read_summary
from harvester.storage.location import Location
from harvester.store.store import Store

CERTIFIED: Final = "certified.json"
"""In an audit's folder, once its list is the run's harvest."""
WITH_ROUND: Final = SELECTED.append(FINDS.field("round"))
CUTS: Final = (0.97, 0.95, 0.93, 0.90)
"""Precisions on V_M, as counted, at which the list is cut into rungs; the last one ends it."""
SCORE_CUTS: Final = (0.9, 0.8, 0.7, 0.5)
"""Scores at which it is cut where V_M proposes nothing."""
PLANTED: Final = 30
"""Finds of V_M that are none; none accepted of them bounds the reader's false accepts at 0.14 (0.01 of the level)."""
LESIONS_PLANTED: Final = 5
"""Known lesions beside them: who refuses everything is seen, too."""


def draw(run: Location, store: Store, settings: Settings, seed: int, planted: int = PLANTED) -> AuditFolder:
    """The next audit of a finished run: RUN/audit-<attempt>.

    Raises StoreError where nothing is there to be audited, and where the same list was drawn before.
    """
    summary = read_summary(run)
    k = last_round(run)
    choice = ScoreFusion(**summary.rounds[k].choice)  # type: ignore[arg-type]  # figures, whole ones among them
    view = RoundView(scored_tables(run, k), StoreTables.of(store, settings), settings)
    cuts = score_cuts(view.accepted(choice, 0.0))
    found = view.reaching(choice, cuts[-1])
    if not len(found):
        raise StoreError(f"{run}: nothing of V_H scores {cuts[-1]:.3f} or more: there is nothing to be audited")
    score = found["score"].to_numpy()
    sizes = rungs([int((score >= cut).sum()) for cut in cuts], len(found))
    rng = np.random.default_rng((seed, len(attempts(run))))
    known = controls(view, choice, planted, rng)
    point = settings.operating_point
    return drawn(run, summary.run_id, found, k, known, sizes, (point.target_precision, point.level), seed)


def drawn(
    folder: Location,
    run_id: str,
    found: SelectedTable,
    round_index: int,
    known: Iterable[tuple[Mapping[str, Any], bool]],
    sizes: tuple[int, ...],
    promise: tuple[float, float],
    seed: int,
) -> AuditFolder:
    """The next audit in a folder.

    found    the list, best first; sizes: its rungs
    known    finds to be planted, and whether each is a lesion
    promise  the precision, and the chance that it is broken
    """
    before = [AuditFolder.open(each) for each in attempts(folder)]
    salt = f"{run_id}-{seed}-{len(before)}"

    def named(row: Mapping[str, Any]) -> dict[str, Any]:
        return {**row, "round": round_index, "find": find_id(row, salt)}

    rows = [named(row) for row in found.to_pylist()]
    lures = [(named(row), lesion) for row, lesion in known]
    ranked = [row["find"] for row in rows]
    what = list_hash(f"{row['volume_id']}/{row['tubelet_id']}/{row['z']}" for row in rows)
    if any(what == each.plan.content for each in before):
        raise StoreError(f"{folder}: this very list was drawn already; a list has one audit, go on with that one")
    deck = Deck.drawn(ranked, sizes, {row["find"]: lesion for row, lesion in lures}, seed + len(before))
    plan = Plan(
        run_id=run_id,
        attempt=len(before),
        target=promise[0],
        level=level_of_attempt(promise[1], len(before)),
        seed=seed,
        list_hash=list_hash(ranked),
        content=what,
        ranked=deck.ranked,
        sizes=deck.sizes,
        order=deck.order,
        planted=dict(deck.planted),
        places=deck.places,
    )
    table = pa.Table.from_pylist([*rows, *(row for row, _ in lures)], FINDS)
    return AuditFolder.create(folder / f"audit-{len(before)}", plan, table)


@dataclass(frozen=True, eq=False)
class Audited:
    """What an audit certified.

    lesions   the list, best first, without what readers rejected or could not tell; moved ones where they belong
    rejected  what they rejected
    """

    lesions: SelectedTable
    rejected: SelectedTable
    round: int
    result: AuditResult


def certify(run: Location) -> Audited:
    """Write down that the newest audit's largest proven rung is the run's harvest. Raises StoreError where none is."""
    made = attempts(run)
    if not made:
        raise StoreError(f"{run}: no audit was drawn; harvester audit --run {run} draw")
    folder = AuditFolder.open(made[-1])
    found = _audited(folder)
    if found is None:
        raise StoreError(f"{folder.path}: {folder.plan.target:g} is not proven yet; harvester audit --run {run} status")
    (made[-1] / CERTIFIED).write_text(found.result.model_dump_json(indent=1) + "\n")
    return found


def certified(run: Location) -> Audited | None:
    """What the newest audit certified, once `certify` was called and as its verdicts are now; None where nothing."""
    made = attempts(run)
    return _audited(AuditFolder.open(made[-1])) if made and (made[-1] / CERTIFIED).is_file() else None


def _audited(folder: AuditFolder) -> Audited | None:
    plan, decided = folder.plan, folder.decided()
    claim = claim_of(plan.deck, decided, plan.target, plan.level)
    proven = [each for each in standings(plan.deck, decided, claim) if each.proven_at]
    if not proven:
        return None
    rung, lures = proven[-1], [find for find, lesion in plan.planted.items() if not lesion]
    reviewed = np.array(rung.right, bool)
    result = AuditResult(
        attempt=plan.attempt,
        list_hash=plan.list_hash,
        size=rung.size,
        reviewed=len(reviewed),
        right=int(reviewed.sum()),
        proven_at=rung.proven_at or 0,
        target=plan.target,
        level=plan.level,
        bound=rung.bound,
        planted=len(lures),
        planted_accepted=sum(decided.get(find) in RIGHT for find in lures),
        false_accepts=claim.false_accepts,
        readers=len(folder.readers()),
        curve=tuple(round(lower_bound(reviewed[:at], rung.size, claim), 4) for at in range(1, len(reviewed) + 1)),
    )
    named = {row.pop("find"): row for row in folder.finds.to_pylist()}
    members, moved = plan.ranked[: rung.size], folder.moved()
    kept = [named[find] | moved.get(find, {}) for find in members if decided.get(find, Verdict.ACCEPTED) in RIGHT]
    out = [named[find] for find in members if decided.get(find) == Verdict.REJECTED]
    lesions, rejected = (SelectedTable(pa.Table.from_pylist(rows, WITH_ROUND)) for rows in (kept, out))
    return Audited(lesions, rejected, named[members[0]]["round"], result)


def score_cuts(calibration: AcceptedTable) -> Array:
    """Falling scores at which the list is cut: the lowest at which V_M's precision, as counted, is CUTS or more."""
    score, correct = (calibration[name].to_numpy(zero_copy_only=False) for name in ("score", "correct"))
    steps = steps_of(Evidence(score, correct, np.array(values(calibration["patient_id"]), str), 0))
    reached = [steps.scores[steps.precision >= cut] for cut in CUTS]
    return np.array([scores[-1] for scores in reached if len(scores)]) if len(reached[-1]) else np.array(SCORE_CUTS)


def controls(
    view: RoundView, choice: ScoreFusion, count: int, rng: np.random.Generator
) -> list[tuple[Mapping[str, Any], bool]]:
    """Of V_M the best-scored finds that touch no lesion, and a few that are right; (row, whether it is a lesion)."""
    clear = clear_of(view.calibration, exclusion_labels(view.known), view.settings.mining)
    wrong = select(clear, choice, 0.0).slice(0, count).to_pylist()
    accepted = view.accepted(choice, 0.0)
    right = [row for row in accepted.slice(0, 20 * LESIONS_PLANTED).to_pylist() if row.pop("correct")]
    some = rng.permutation(len(right))[: LESIONS_PLANTED if wrong else 0]
    return [*((row, False) for row in wrong), *((right[at], True) for at in some)]


def as_finds(table: pa.Table, scores: Array, patients: Mapping[str, str]) -> SelectedTable:
    """Anybody's tubelets, best first, as finds: both scores are theirs."""
    order = np.argsort(-scores, kind="stable")
    rows = [
        {
            "volume_id": row["volume_id"],
            "patient_id": patients[row["volume_id"]],
            "tubelet_id": number,
            **{name: float(score) for name in ("lpg_score", "lpc_score", "score")},
            "width_mm": 0.0,
            **{name: row[name] for name in ("z", *SIDES)},
            "slice_score": [float(score)] * len(row["z"]),
        }
        for number, (row, score) in enumerate(zip(table.take(order).to_pylist(), scores[order], strict=True))
    ]
    names = [field for field in FINDS if field.name not in ("round", "find")]
    return SelectedTable(pa.Table.from_pylist(rows, pa.schema(names)))
