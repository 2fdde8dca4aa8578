"""What an audit's verdicts make: the run's harvest, where they prove it, and labels of later runs."""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from harvester.certificate.audit import RIGHT, Verdict, claim_of, lower_bound, standings
from harvester.certificate.audit_folder import TEACHING, AuditFolder, attempts
from harvester.errors import StoreError
from harvester.labels import reviewed as labels
from harvester.labels.reviewed import merged, reviewed_table, with_calibration
from harvester.records import (
    FINDS,
    SELECTED,
    AcceptedTable,
    Role,
    ScoredTable,
    SelectedTable,
    Source,
    boxes_of,
    checked,
)
from harvester.results.audit import HITS
from harvester.results.harvest_table import lesion_id
from harvester.run.summary import AuditResult
from harvester.run.table_hash import table_hash
from harvester.storage.location import Location
from harvester.storage.owner import owned
from harvester.store.store import Store, write_reviewed

logger = logging.getLogger(__name__)

CERTIFIED: Final = "certified.json"
"""In an audit's folder, once its list is the run's harvest."""
CERTIFIED_FINDS: Final = "certified.parquet"
"""Beside it the finds themselves, where they are no run's."""
WITH_ROUND: Final = SELECTED.append(FINDS.field("round"))


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

    @property
    def said(self) -> str:
        """In words."""
        audit = self.result
        return (
            f"{len(self.lesions)} lesions certified at {audit.target:g} (of {audit.size} finds {audit.reviewed} were "
            f"read, {audit.right} right; at least {audit.bound:.3f} of them are)"
        )


def certify(folder: AuditFolder) -> Audited:
    """Write down that an audit's largest proven rung is certified. Raises StoreError where none is."""
    found = _audited(folder)
    if found is None:
        raise StoreError(f"{folder.path}: {not_proven(folder)}")
    (Location.of(folder.path) / CERTIFIED).write_text(found.result.model_dump_json(indent=1) + "\n")
    return found


def not_proven(folder: AuditFolder) -> str:
    """Why nothing is certified, and what can be done."""
    plan = folder.plan
    if left := plan.deck.unread(folder.decided()):
        return f"{plan.target:g} is not proven yet; {len(left)} finds are to be read"
    return (
        f"{plan.target:g} is not proven, and all is read (harvester audit status says how far it came). What was said "
        "is not lost: harvester audit teach, then harvest into a new folder, where it teaches; or ask a new run for "
        "less (operating_point.target_precision)"
    )


def certify_detections(folder: AuditFolder) -> str:
    """Write what an audit of anybody's finds proved, a table for harvester evaluate, beside it; a line that says so."""
    found, file = certify(folder), Location.of(folder.path) / CERTIFIED_FINDS
    file.write_table(found.lesions.drop_columns(["round", "lpg_score", "lpc_score", "width_mm"]))
    return f"{found.said}; {file}"


def certified(run: Location, scored: ScoredTable) -> Audited | None:
    """What the newest audit certified, once `certify` was called and as its verdicts are now; None where nothing.

    Nor where the run's last tubelets are other ones than those that were audited: what was seen says nothing of them.
    """
    made = attempts(run)
    if not made:
        return None
    if not (made[-1] / CERTIFIED).is_file():
        if AuditFolder.open(made[-1]).decided():
            logger.warning(
                "%s: what readers said there is no part of this harvest. harvester audit --run %s certify makes it "
                "one, where it is proven; harvester audit --run %s teach takes it into the store, for a new run",
                made[-1], run, run,
            )  # fmt: skip
        return None
    folder = AuditFolder.open(made[-1])
    if folder.plan.scored != table_hash(scored):
        logger.warning("%s: was of other tubelets than the run has now, and certifies none of these", folder.path)
        return None
    return _audited(folder)


def _audited(folder: AuditFolder) -> Audited | None:
    plan, decided = folder.plan, folder.decided()
    claim = claim_of(plan.deck, decided, plan.target, plan.level)
    proven = [each for each in standings(plan.deck, decided, claim) if each.proven_at]
    if not proven:
        return None
    rung, lures = proven[-1], plan.deck.lures
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
    members, moved = plan.deck.ranked[: rung.size], folder.moved()
    kept = [named[find] | moved.get(find, {}) for find in members if decided.get(find, Verdict.ACCEPTED) in RIGHT]
    out = [named[find] for find in members if decided.get(find) == Verdict.REJECTED]
    lesions, rejected = (SelectedTable(pa.Table.from_pylist(rows, WITH_ROUND)) for rows in (kept, out))
    return Audited(lesions, rejected, named[members[0]]["round"], result)


def teach(run: Location, store: Store) -> Counter[str]:
    """Put what people said of a run's finds into the store (reviewed.parquet), for later runs; how often which word.

    Planted finds and those that nobody could tell are passed over. Raises StoreError where nobody said anything.
    """
    audits = [AuditFolder.open(each) for each in attempts(run)]
    folders = [*audits, *(AuditFolder.open(each) for each in attempts(run, TEACHING))]
    verdicts = [verdict for folder in folders for verdict in _labels(folder)]
    if not verdicts:
        raise StoreError(f"{run}: nobody has said anything of its finds; harvester review --run {run}")
    with owned(store.path):
        table = merged(store.reviewed(), reviewed_table(verdicts, store.manifest))
        if audits:
            last = audits[-1]
            hits = checked(AcceptedTable, (Location.of(last.path) / HITS).read_table())
            table = with_calibration(table, hits, len(last.plan.deck.order), last.plan.run_id, last.plan.seed)
        write_reviewed(store.path, table)
    return Counter(verdict.verdict for verdict in verdicts)


def _labels(folder: AuditFolder) -> Iterator[labels.Verdict]:
    moved, rows = folder.moved(), {row["find"]: row for row in folder.finds.to_pylist()}
    for find, word in sorted(folder.decided().items()):
        row = rows[find]
        if find in folder.plan.deck.planted or word == Verdict.UNSURE:
            continue
        label = {
            **{name: row[name] for name in ("volume_id", "round", "score")},
            "label_id": lesion_id(row),
            "role": Role.LESION,
            "source": Source.HARVESTED,
            "model_hash": "",
            "run_id": folder.plan.run_id,
        }
        now = boxes_of(row | moved.get(find, {}))
        yield labels.Verdict(f"{folder.path.name} {find}", word.value, label, boxes_of(row), now)
