"""The arms: ways to harvest the same archive. Most are the loop with other settings; the rest are made here.

loop             the loop, as the settings say
union            what any round of the loop certified, in place of the last round's list
audit, both      the loop's finds, certified by a reader who knows the truth; or by V_M or such a reader
self_training    the generator alone, finetuned on its own finds of a score of FIXED_CUT and more, which are the
                 harvest: no classifier, no certificate, no hard negatives
teacher_student  the generator alone, whose running mean adds what it is sure of to each step's targets
missing_ranking  the first round's proposals that match no mark, by score, as many as the full loop harvests
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from harvester.certificate.audit import Deck, Verdict, level_of_attempt, read_through
from harvester.certificate.selection import Calibration, SelectedPoint, select_point
from harvester.errors import StepError
from harvester.evaluation.matching import tubelet_overlaps
from harvester.harvest import harvest, propose, train_generator
from harvester.labels import ledger as ledgers
from harvester.labels.ledger import exclusion_labels, extrude_marks
from harvester.mining.candidates import candidates, split_of
from harvester.mining.fusion import select
from harvester.mining.round_view import RoundView, StoreTables
from harvester.records import PARTLY_MARKED, SELECTED, Role, SelectedTable, Source, values
from harvester.results.audit import PLANTED, controls, cut_list, score_cuts
from harvester.results.history import History
from harvester.results.rounds import up_to
from harvester.run.folder import Artifact, Run
from harvester.run.tracking import Tracker
from harvester.study.ranking import Ranking

FIXED_CUT: Final = 0.9
"""Of self-training: the score from which a find is believed, as is common."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What an arm came to.

    certified   whether its list is proven; None of arms that prove nothing
    reviewed    finds that the oracle looked at, those planted among them
    """

    ranking: Ranking
    certified: bool | None
    reviewed: int = 0


@dataclass(frozen=True, eq=False)
class Looped:
    """A loop that ended: its history and the last round that was scored."""

    run: Run
    history: History

    @classmethod
    def of(cls, run: Run) -> "Looped":
        """Harvest; what is done already is taken as it is."""
        with Tracker.open(run, None) as tracker:
            return cls(run, harvest(run, tracker))

    @property
    def view(self) -> RoundView:
        """Raises StepError where no round was scored."""
        if self.history.view is None:
            raise StepError(f"{self.run.folder}: no round was scored: {self.history.rounds[-1].refused}")
        return self.history.view

    def at(self, k: int) -> tuple[RoundView, SelectedPoint]:
        """A round and its operating point."""
        return up_to(self.view, k), self.history.origins[k][0]

    @property
    def last(self) -> int:
        """The number of the last round that was scored."""
        return len(self.view.rounds) - 1

    @property
    def candidates(self) -> SelectedTable:
        """All that the last round could harvest, with the score that it selects by."""
        view, selected = self.at(self.last)
        return select(view.harvestable, selected.choice, 0.0)


def loop(run: Run, full: Looped | None) -> Outcome:
    """The loop."""
    mine = full or Looped.of(run)
    lesions = mine.history.lesions
    return Outcome(Ranking.of(mine.candidates, lesions, mine.history.truth), len(lesions) > 0)


def union(run: Run, full: Looped) -> Outcome:
    """The last round's list, and what rounds before it certified elsewhere."""
    lists = []
    for k in range(full.last, -1, -1):
        view, selected = full.at(k)
        lists.append(view.harvested(selected.choice, selected.point.threshold))
    taken = lists[0]
    for earlier in lists[1:]:
        found = tubelet_overlaps(earlier, taken)
        again = np.isin(np.arange(len(earlier)), found.tubelet[found.iou >= run.settings.mining.known_iou])
        # Tubelets of two rounds may have one id: those of an earlier one are told apart.
        new = renumbered(SelectedTable(earlier.filter(pa.array(~again))), taken)
        taken = SelectedTable(pa.concat_tables([taken, new]))
    others = SelectedTable(pa.concat_tables([full.candidates, taken.slice(len(lists[0]))]))
    return Outcome(Ranking.of(others, taken, full.history.truth), len(taken) > 0)


def audit(run: Run, full: Looped) -> Outcome:
    """The loop's finds, proven by a reader alone."""
    taken, reviewed = oracle_audit(full, run.settings.operating_point.level)
    return Outcome(Ranking.of(full.candidates, taken, full.history.truth), len(taken) > 0, reviewed)


def both(run: Run, full: Looped) -> Outcome:
    """V_M's proof or the reader's, each at half of the level: the longer list."""
    settings = run.settings.operating_point.model_copy(update={"certificate": "both"})
    view, selected = full.at(full.last)
    point = select_point(Calibration.of(view), selected.choice, settings).point
    proven = view.harvested(selected.choice, point.threshold)
    read, reviewed = oracle_audit(full, settings.level)
    taken = max(proven, read, key=len)
    return Outcome(Ranking.of(full.candidates, taken, full.history.truth), len(taken) > 0, reviewed)


def self_training(run: Run, full: Looped) -> Outcome:
    """Rounds of the generator alone: what scores FIXED_CUT and more are lesions of the next round."""
    ledger, start = StoreTables.of(run.store, run.settings).ledger, run.starting("generator")
    for k in range(run.settings.rounds):
        start = train_generator(run, k, ledger, start)
        ranked, taken = proposals(run, k, start, FIXED_CUT)
        found = ledgers.from_tubelets(taken, Role.LESION, Source.HARVESTED, k, "", run.id)
        ledger = ledgers.extend(ledgers.persistent(ledger), found)
    return Outcome(Ranking.of(ranked, taken, full.history.truth), None)


def teacher_student(run: Run, full: Looped) -> Outcome:
    """The generator alone, its teacher's confident boxes among each step's targets, fitted once, as long as the full
    loop's generators in all rounds; what its teacher would believe is the harvest."""
    ledger = StoreTables.of(run.store, run.settings).ledger
    lpg = train_generator(run, 0, ledger, run.starting("generator"))
    ranked, taken = proposals(run, 0, lpg, run.settings.teacher.cut)
    return Outcome(Ranking.of(ranked, taken, full.history.truth), None)


def proposals(run: Run, k: int, lpg: Artifact, cut: float) -> tuple[SelectedTable, SelectedTable]:
    """What a generator proposes in V_H and nobody knows, best first; and of it what scores `cut` and more."""
    known = StoreTables.of(run.store, run.settings)
    places = extrude_marks(exclusion_labels(known.ledger), known.manifest)
    tubelets = propose(run, k, lpg).table.whole()
    mine = candidates(split_of(tubelets, known.manifest, *PARTLY_MARKED), places, run.settings.mining)
    ranked = by_generator(mine)
    return ranked, SelectedTable(ranked.filter(pa.array(ranked["score"].to_numpy() >= cut)))


def missing_ranking(run: Run, full: Looped) -> Outcome:
    """The first round's unmatched proposals by the generator's score, as many as the full loop harvests."""
    first, _ = full.at(0)
    ranked = by_generator(first.harvestable)
    taken = SelectedTable(ranked.slice(0, len(full.history.lesions)))
    return Outcome(Ranking.of(ranked, taken, full.history.truth), None)


def by_generator(tubelets: pa.Table) -> SelectedTable:
    """Proposals by the generator's score, best first."""
    if "lpc_score" not in tubelets.column_names:
        tubelets = tubelets.append_column("lpc_score", tubelets["lpg_score"])
    ordered = tubelets.append_column("score", tubelets["lpg_score"]).select(SELECTED.names)
    return SelectedTable(ordered.take(np.argsort(-ordered["score"].to_numpy(), kind="stable")))


def renumbered(tubelets: SelectedTable, others: SelectedTable) -> SelectedTable:
    """With ids that the others do not have."""
    first = 1 + max(values(others["tubelet_id"]), default=0) + len(others)
    ids = pa.array(np.arange(first, first + len(tubelets)), pa.int32())
    at = tubelets.column_names.index("tubelet_id")
    return SelectedTable(tubelets.set_column(at, "tubelet_id", ids))


def oracle_audit(full: Looped, level: float) -> tuple[SelectedTable, int]:
    """What a reader who knows the truth proves of the last round's finds, and after how many looks.

    As harvester audit does it (results/audit.py): the same list, rungs, planted finds and test, the first attempt.
    """
    view, selected = full.at(full.last)
    point = view.settings.operating_point
    cuts = score_cuts(view.accepted(selected.choice, 0.0))
    found, sizes = cut_list(view, selected.choice, cuts)
    if not len(found):
        return found, 0
    rng = np.random.default_rng(view.settings.seed)
    planted = {f"planted-{at}": lesion for at, (_, lesion) in enumerate(controls(view, selected.choice, PLANTED, rng))}
    ranked = [f"find-{at}" for at in range(len(found))]
    deck = Deck.drawn(ranked, sizes, planted, view.settings.seed)
    right = dict(zip(ranked, map(bool, full.history.truth.correct(found)), strict=True)) | planted
    said, proven = read_through(
        deck,
        lambda find: Verdict.ACCEPTED if right[find] else Verdict.REJECTED,
        point.target_precision,
        level_of_attempt(level, 0),
    )
    kept = [find for find in ranked[:proven] if said.get(find) != Verdict.REJECTED]
    rows = pa.array([ranked.index(find) for find in kept], pa.int64())  # none at all are rows, too
    return SelectedTable(found.take(rows)), len(said)


RULES: Final[dict[str, Callable[[Run, Any], Outcome]]] = {
    "loop": loop,
    "union": union,
    "audit": audit,
    "both": both,
    "self_training": self_training,
    "teacher_student": teacher_student,
    "missing_ranking": missing_ranking,
}
OF_THE_FULL_LOOP: Final = ("union", "audit", "both", "missing_ranking")
"""Rules that select anew from what the full loop has scored: nothing is fitted."""
