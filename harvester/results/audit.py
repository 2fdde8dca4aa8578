"""From what a run scored, or any table of detections, to an audit: which finds are asked, in which order.

V_M, where there is one, proposes where the rungs are cut, and lends finds that are known to be none, to see how surely
a reader tells them apart. It proves nothing here.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from harvester.certificate.audit import Deck, level_of_attempt, list_hash, rungs
from harvester.certificate.audit_folder import AUDIT, TEACHING, AuditFolder, Plan, attempts, find_id
from harvester.certificate.evidence import Evidence, steps_of
from harvester.config.settings import Settings
from harvester.errors import StoreError
from harvester.geometry import Array
from harvester.labels.ledger import exclusion_labels
from harvester.mining.bank import log_odds
from harvester.mining.candidates import clear_of
from harvester.mining.fusion import ScoreFusion, select
from harvester.mining.round_view import RoundView
from harvester.records import FINDS, SIDES, AcceptedTable, SelectedTable, values
from harvester.results.rounds import rounds_viewed
from harvester.results.scored import last_round, scored_rounds
from harvester.run.summary import read_summary
from harvester.run.table_hash import table_hash
from harvester.storage.location import Location
from harvester.store import looks
from harvester.store.store import Store

HITS: Final = "calibration.parquet"
"""In an audit's folder: what the same rule takes of V_M (records.ACCEPTED), as it was when the audit was drawn."""
CUTS: Final = (0.97, 0.95, 0.93, 0.90)
"""Precisions on V_M, as counted, at which the list is cut into rungs; the last one ends it."""
SCORE_CUTS: Final = (0.9, 0.8, 0.7, 0.5)
"""Scores at which it is cut where V_M proposes nothing."""
PLANTED: Final = 30
"""Finds of V_M that are none; none accepted of them bounds the reader's false accepts at 0.14 (0.01 of the level)."""
LESIONS_PLANTED: Final = 5
"""Known lesions beside them: who refuses everything is seen, too."""


@dataclass(frozen=True, eq=False)
class Looked:
    """What the last scored round of a finished run shows, as its operating point fuses the scores.

    cuts   falling scores at which the list is cut into rungs (score_cuts)
    """

    run_id: str
    round: int
    choice: ScoreFusion
    view: RoundView
    cuts: Array

    @classmethod
    def at(cls, run: Location, store: Store, settings: Settings) -> "Looked":
        """Raises StoreError for a folder that is no finished run."""
        summary, k = read_summary(run), last_round(run)
        choice = ScoreFusion(**summary.rounds[k].choice)  # type: ignore[arg-type]  # figures, whole ones among them
        view = rounds_viewed(scored_rounds(run, k), store, settings)
        return cls(summary.run_id, k, choice, view, score_cuts(view.accepted(choice, 0.0)))


@dataclass(frozen=True, eq=False)
class Candidates:
    """What an audit is drawn of.

    found   the list, best first; sizes: its rungs, none where nothing is to be proven
    known   finds to be planted, and whether each is a lesion
    scored  hash of the tubelets that the list is of; "" where they are no run's
    """

    run_id: str
    round: int
    found: SelectedTable
    sizes: tuple[int, ...] = ()
    known: Sequence[tuple[Mapping[str, Any], bool]] = ()
    scored: str = ""

    @property
    def content(self) -> str:
        """Names the list by what its finds are, whatever their order or ids."""
        return list_hash(f"{row['volume_id']}/{row['tubelet_id']}/{row['z']}" for row in self.found.to_pylist())


def draw(run: Location, store: Store, settings: Settings, seed: int, planted: int = PLANTED) -> AuditFolder:
    """The next audit of a finished run: RUN/audit-<n>, at its share of the level that all audits of the store have.

    Raises StoreError where nothing is there to be audited, and where the same list was drawn before.
    """
    looked = Looked.at(run, store, settings)
    found, sizes = cut_list(looked.view, looked.choice, looked.cuts)
    if not len(found):
        raise StoreError(f"{run}: nothing of V_H scores {looked.cuts[-1]:.3f} or more: there is nothing to be audited")
    rng = np.random.default_rng((seed, len(attempts(run))))
    known = controls(looked.view, looked.choice, planted, rng)
    scored = table_hash(looked.view.scored)
    candidates = Candidates(looked.run_id, looked.round, found, sizes, known, scored)
    attempt = max(len(attempts(run)), looks.audit(store, candidates.content, looked.run_id) or 0)
    point = settings.operating_point
    made = drawn(run, candidates, (point.target_precision, level_of_attempt(point.level, attempt)), attempt, seed)
    (Location.of(made.path) / HITS).write_table(looked.view.accepted(looked.choice, looked.cuts[-1]))
    return made


def cut_list(view: RoundView, choice: ScoreFusion, cuts: Array) -> tuple[SelectedTable, tuple[int, ...]]:
    """What reaches the lowest of these falling scores, best first, and the sizes of its rungs."""
    found = view.reaching(choice, cuts[-1])
    score = found["score"].to_numpy()
    return found, rungs([int((score >= cut).sum()) for cut in cuts], len(found))


def draw_teaching(run: Location, store: Store, settings: Settings, count: int, seed: int) -> AuditFolder:
    """So many finds just below the list on which both stages differ most, of as many patients as can be.

    RUN/teaching-<n>. What is said of them teaches and proves nothing. Raises StoreError where nothing is below.
    """
    looked = Looked.at(run, store, settings)
    every = looked.view.reaching(looked.choice, 0.0)
    near = every.filter(pa.array(every["score"].to_numpy() < looked.cuts[-1])).slice(0, 4 * count)
    apart = np.abs(np.subtract(*(log_odds(near[name].to_numpy()) for name in ("lpg_score", "lpc_score"))))
    chosen = spread(SelectedTable(near), apart, count)
    if not len(chosen):
        raise StoreError(f"{run}: nothing is below the list: there is nothing to be taught")
    candidates = Candidates(looked.run_id, looked.round, chosen)
    return drawn(run, candidates, (0.5, 0.5), len(attempts(run, TEACHING)), seed, TEACHING)


def spread(finds: SelectedTable, worth: Array, count: int) -> SelectedTable:
    """So many finds of most worth, but the second of a patient after all first ones, and so on."""
    seen: Counter[str] = Counter()
    patients, order = values(finds["patient_id"]), []
    for at in np.argsort(-worth, kind="stable").tolist():
        order.append((seen[patients[at]], -worth[at], at))
        seen[patients[at]] += 1
    return SelectedTable(finds.take(pa.array([at for _, _, at in sorted(order)[:count]], pa.int64())))


def draw_detections(
    out: Location, store: Store, found: SelectedTable, promise: tuple[float, float], seed: int
) -> AuditFolder:
    """An audit of anybody's finds (as_finds), all of them one list: OUT/audit-0. promise: the precision, and the level.

    Raises StoreError where the same list was drawn before.
    """
    candidates = Candidates("detections", 0, found, (len(found),))
    looks.audit(store, candidates.content, f"detections, into {out}")
    return drawn(out, candidates, (promise[0], level_of_attempt(promise[1], 0)), 0, seed)


def drawn(
    folder: Location, of: Candidates, promise: tuple[float, float], attempt: int, seed: int, kind: str = AUDIT
) -> AuditFolder:
    """The next audit in a folder, or teaching deck. promise: the precision, and the chance that it is broken."""
    before = [AuditFolder.open(each) for each in attempts(folder, kind)]
    salt = f"{of.run_id}-{seed}-{len(before)}"

    def named(row: Mapping[str, Any]) -> dict[str, Any]:
        return {**row, "round": of.round, "find": find_id(row, salt)}

    rows = [named(row) for row in of.found.to_pylist()]
    lures = [(named(row), lesion) for row, lesion in of.known]
    ranked = [row["find"] for row in rows]
    if any(of.content == each.plan.content for each in before):
        raise StoreError(f"{folder}: this very list was drawn already; a list has one audit, go on with that one")
    plan = Plan(
        run_id=of.run_id,
        attempt=attempt,
        target=promise[0],
        level=promise[1],
        seed=seed,
        list_hash=list_hash(ranked),
        content=of.content,
        scored=of.scored,
        deck=Deck.drawn(ranked, of.sizes, {row["find"]: lesion for row, lesion in lures}, seed + len(before)),
    )
    table = pa.Table.from_pylist([*rows, *(row for row, _ in lures)], FINDS)
    return AuditFolder.create(folder / f"{kind}-{len(before)}", plan, table)


def score_cuts(calibration: AcceptedTable) -> Array:
    """Falling scores at which the list is cut: the lowest at which V_M's precision, as counted, is CUTS or more."""
    score, correct = (calibration[name].to_numpy(zero_copy_only=False) for name in ("score", "correct"))
    steps = steps_of(Evidence(score, correct, np.array(values(calibration["patient_id"]), str), 0))
    reached = [steps.scores[steps.precision >= cut] for cut in CUTS]
    return np.array([scores[-1] for scores in reached if len(scores)]) if len(reached[-1]) else np.array(SCORE_CUTS)


def controls(
    view: RoundView, choice: ScoreFusion, count: int, rng: np.random.Generator
) -> list[tuple[Mapping[str, Any], bool]]:
    """Of V_M the best-scored finds that touch no lesion, and a few that are right; (row, whether it is a lesion).

    Spread over patients: whoever takes one structure for a lesion does so in each scan that shows it.
    """
    clear = select(clear_of(view.calibration, exclusion_labels(view.known), view.settings.mining), choice, 0.0)
    wrong = spread(clear, clear["score"].to_numpy(), count).to_pylist()
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
