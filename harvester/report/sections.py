"""What the report's sections show: figures as rows of cells. Their words are in page/chapters.html."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from harvester.certificate.exchangeability import said
from harvester.columns import count_sorted
from harvester.records import Split
from harvester.report.templates import piece
from harvester.report.words import compared, round_cells
from harvester.run.summary import AblationResult, FinalResult, StepResult, Summary
from harvester.store.commit import volumes_with_drawn_marks
from harvester.store.store import Store
from harvester.text import count, duration, number, percent

Rows = list[Sequence[str]]

SET_NAMES: Final = {
    Split.VM: "V_M, every lesion marked",
    Split.VH: "V_H, partly marked",
    Split.VH_TEST: "V_H test, partly marked, truth hidden",
    Split.VD_TEST: "V_D test, never seen",
}


@dataclass(frozen=True)
class ArchiveTable:
    """What the store holds; of how many volumes of V_M the clinical marks were drawn."""

    rows: Rows
    drawn: int


@dataclass(frozen=True)
class Likeness:
    """V_H beside V_M in the round that tells the most; `said` of each round."""

    round: int
    said: tuple[str, ...]
    rows: Rows
    beyond: str


def archive(store: Store) -> ArchiveTable:
    """What the store holds."""
    manifest, marks = store.manifest, store.marks()
    rows: Rows = []
    for split, name in SET_NAMES.items():
        here = pc.is_in(manifest["split"], pa.array([split]))  # columns are taken one by one: they may be long
        volumes = manifest["volume_id"].filter(here).combine_chunks()
        clinical = marks["clinical"].filter(pc.is_in(marks["volume_id"], volumes))
        if len(volumes):
            patients = count_sorted(manifest["patient_id"].filter(here).combine_chunks().sort())
            rows.append([name, *map(number, (len(volumes), patients, pc.sum(clinical).as_py() or 0, len(clinical)))])
    return ArchiveTable(rows, volumes_with_drawn_marks(store.path))


def rounds(summary: Summary) -> Rows:
    """One row per round, and the harvest's."""
    rows = [round_cells(str(row.round), row, row.lpc_ap) for row in summary.rounds]
    return [*rows, round_cells("final", summary.final)]


def certificate(summary: Summary) -> Rows:
    """What each round's promise rests on."""
    return [
        [
            str(row.round), number(row.accepted_vm), number(row.threshold, 4),
            number(row.precision_bound, 3), percent(row.recall_vm),
        ]
        for row in summary.rounds
    ]  # fmt: skip


def likeness(summary: Summary) -> Likeness | None:
    """What the certificate takes for granted, as far as it shows without labels; None where nothing was scored."""
    every = compared(summary)
    if not every:
        return None
    # The round that tells the most.
    k, shown = min(every, key=lambda each: (each[1].p is None, each[1].p or 0.0, -each[0]))
    rows: Rows = [[row.aspect, number(row.vm), number(row.vh), number(row.p, 4)] for row in shown.aspects]
    most = map(number, (shown.most_of_a_patient_vm, shown.most_of_a_patient_vh))
    rows.append(["most accepted of one patient", *most, ""])
    beyond = ", ".join(f"{amount:,} by {name}" for name, amount in shown.beyond_vm.items() if amount)
    return Likeness(k, tuple(f"Round {which}: {said(each)}" for which, each in every), rows, beyond)


def ablations(summary: Summary) -> Rows:
    """The full loop beside the generator alone and beside shuffled classifier scores."""
    known = summary.controls
    rows: Rows = [_ablation("full loop", summary.final)]
    for key, name in {"lpg_alone": "LPG alone, same target", "lpc_shuffled": "LPC scores shuffled"}.items():
        by_round = [row.controls[key] for row in summary.rounds if key in row.controls]
        rows += [_ablation(f"{name}, round {k}", row) for k, row in enumerate(by_round[:-1])]
        rows += [_ablation(f"{name}, last round", known[key])] if key in known else []
    return rows


def missing(rows: Sequence[Mapping[str, Any]]) -> Rows:
    """The volumes that miss the most annotations, as the engine believes; an en dash for what it does not know."""
    return [
        [
            row["volume_id"], count(row["marked"], "lesion"), number(row["harvested"]),
            number(row["expected_more"], 1), number(row["expected_missing"], 1),
        ]
        for row in rows
    ]  # fmt: skip


def steps(summary: Summary) -> Rows:
    """Where the time went; steps below 1 % of it go together."""
    done = summary.steps
    total = sum(step.seconds for step in done) or 1.0
    large = [step for step in done if step.seconds >= 0.01 * total]
    rows: Rows = [
        [f"{step.round} {step.step}", *_time(step.seconds, total), _rate(step), piece("bar", step.seconds / total)]
        for step in large
    ]
    rest = total - sum(step.seconds for step in large)
    if len(done) > len(large):
        rows.append([count(len(done) - len(large), "short step"), *_time(rest, total), "", ""])
    return rows


def _ablation(name: str, row: AblationResult | FinalResult) -> list[str]:
    return [name, number(row.harvested), number(row.precision, 3), number(row.recall_unmarked, 3)]


def _time(seconds: float, total: float) -> tuple[str, str]:
    return duration(seconds), percent(seconds / total)


def _rate(step: StepResult) -> str:
    slices = step.counts.get("slices")
    return number(slices / step.seconds if slices else None, 1)
