"""Operating points for other precision targets, from a finished run's tables: recall against precision.

The models and their scores stay; only the cut is chosen anew, as if no round had harvested before. So the frontier
shows what one round with the run's last models gives at each target, certified and by the point estimate alone.
"""

import json
from typing import Any

import pyarrow as pa

from harvester.certificate.frontier import Frontier, Row
from harvester.certificate.operating_point import OperatingPoint
from harvester.certificate.selection import Rehearsal, Solved
from harvester.config.settings import OperatingPointSettings, Settings
from harvester.distributed.tuning import evaluate, sweep
from harvester.errors import StoreError
from harvester.labels import ledger as ledgers
from harvester.mining import calibration, candidates, fusion
from harvester.records import ACCEPTED, PARTLY_MARKED
from harvester.results.truth import Judge, with_round
from harvester.run.folder import NOTE
from harvester.storage.location import Location, Where
from harvester.store.store import Store


def last_round(run: Where) -> int:
    """The last round whose tubelets are scored. Raises StoreError where there is none."""
    numbers = [
        int(name.removeprefix("round-")) for name in Location.of(run).folders() if name.startswith("round-")
    ]
    rounds = [number for number in numbers if _scored(run, number)]
    if not rounds:
        raise StoreError(
            f"{run}: no scored tubelets (round-*/scored-*.parquet); give the folder of a finished run"
        )
    return max(rounds)


def scored_table(run: Where, round_index: int) -> pa.Table:
    """The scored tubelets of a round; of several (settings were changed) those made last."""
    notes = _scored(run, round_index)
    if not notes:
        raise StoreError(f"{run}: round {round_index} has no scored tubelets; the last is {last_round(run)}")
    latest = max(notes, key=lambda note: json.loads(note.read_bytes()).get("ended", 0.0))
    return (latest.parent / f"{latest.name.removesuffix(NOTE)}.parquet").read_table()


def _scored(run: Where, round_index: int) -> list[Location]:
    folder = Location.of(run) / f"round-{round_index}"
    return [folder / name for name in folder.files() if name.startswith("scored-") and name.endswith(NOTE)]


def trace(
    scored: pa.Table,
    store: Store,
    settings: Settings,
    targets: list[float],
    work: Where,
    round_index: int,
) -> Frontier:
    """Sweep the settings' choices with Ray Tune, then solve every target with the best one."""
    folder = Location.of(work)
    rehearsal = _rehearsal(scored, store, settings, folder)
    trials = sweep(rehearsal, settings.operating_point, folder / "tune")
    judge = Judge(store, settings)
    free = _candidates(scored, store, settings)
    rows = []
    for target in sorted(targets):
        own = settings.operating_point.model_copy(update={"target_precision": target})
        solved = evaluate(rehearsal, trials[0].choice, own, len(trials))
        for way, point in (("certified", solved.point), ("point estimate", solved.naive)):
            rows.append(_row(target, way, point, solved, free, judge))
    return Frontier(round_index, trials, rows)


def narrowed(settings: Settings, frontier: Frontier, target: float) -> Settings:
    """The run's settings with the target and the one choice that the sweep found best."""
    choice = frontier.trials[0].choice
    own: OperatingPointSettings = settings.operating_point.model_copy(
        update={
            "target_precision": target,
            "lpg_weights": (choice.lpg_weight,),
            "lpg_floors": (choice.lpg_floor,),
            "min_slices": (choice.min_slices,),
            "small_bonuses": (choice.small_bonus,),
        }
    )
    return settings.model_copy(update={"operating_point": own})


def _rehearsal(scored: pa.Table, store: Store, settings: Settings, folder: Location) -> Rehearsal:
    marks = ledgers.known_before(store.marks(), store.reviewed())
    known = ledgers.spread(marks, store.manifest)
    own = settings.operating_point
    tables = {
        "candidates": calibration.rehearsal_candidates(
            scored, store.manifest, known, ACCEPTED.empty_table(), settings.mining
        ),
        "lesions": calibration.rehearsal_lesions(store.marks(), store.manifest),
        "accepted": ACCEPTED.empty_table(),
        "known": calibration.clinical_finds(scored, marks, own.match_iou),
    }
    for name, table in tables.items():
        (folder / f"{name}.parquet").write_table(table)
    files = {name: folder / f"{name}.parquet" for name in tables}
    return Rehearsal(files["candidates"], files["lesions"], files["accepted"], files["known"])


def _candidates(scored: pa.Table, store: Store, settings: Settings) -> pa.Table:
    """V_H's tubelets that touch neither a clinical mark nor what was reviewed."""
    known = ledgers.spread(ledgers.known_before(store.marks(), store.reviewed()), store.manifest)
    partly = candidates.split_of(scored, store.manifest, *PARTLY_MARKED)
    return candidates.candidates(partly, ledgers.settled(known), settings.mining)


def _row(target: float, way: str, point: OperatingPoint, solved: Solved, free: pa.Table, judge: Judge) -> Row:
    found = with_round(fusion.select(free, solved.choice, point.threshold), 0)
    measured: dict[str, Any] = judge.harvest(found)
    return Row(
        target=target,
        way=way,
        threshold=point.threshold if point.threshold < float("inf") else None,
        bound=point.precision_bound,
        accepted_vm=point.accepted,
        precision_vm=point.precision_estimate,
        recall_vm=point.recall_estimate,
        harvested=len(found),
        precision=measured["precision"],
        recall_unmarked=measured["recall_unmarked"],
        reason=point.reason,
    )
