"""What a run says in sentences and as a table of rounds: on its page, and at the end in the terminal."""

from collections.abc import Mapping
from typing import Final

from harvester.certificate.exchangeability import UNLIKE, said
from harvester.certificate.selection import LEFT_TO_AUDIT
from harvester.config.settings import OperatingPointSettings
from harvester.records import Split, rows_where
from harvester.run.summary import Comparison, FinalResult, RoundResult, Summary
from harvester.store import looks
from harvester.store.store import Store
from harvester.text import count, duration, number, percent, table

RATES: Final = ("1", "4", "16")
LEGEND: Final = (
    "LPG @n: lesions that the generator finds at n false finds a scan; bound: the precision that is proven; "
    "precision, recall: by the truth, where it is known"
)
SHORT_NAMES: Final = {Split.VM: "V_M", Split.VH: "V_H", Split.VH_TEST: "V_H test"}


def sentence(summary: Summary, settings: OperatingPointSettings, volumes: int, waiting: int = 0) -> str:
    """What was done, for a reader who reads nothing else. waiting: finds that an audit is to prove."""
    final = summary.final
    if is_left_to_audit(summary):
        return f"{count(waiting, 'find')} to be looked at. Nothing is proven yet, so nothing is harvested yet."
    if not final.harvested:
        why = next((row.refused for row in reversed(summary.rounds) if row.refused), "")
        return "Nothing was harvested" + (f": {why}." if why else ".")
    said = (
        f"{count(final.harvested, 'unmarked lesion')} harvested in {count(volumes, 'volume')} at a precision "
        f"certified to be at least {settings.target_precision:g} ({100 * settings.confidence:g} % confidence)"
    )
    if final.precision is None:
        return said + "; there is no hidden truth here to measure it against."
    return (
        f"{said}; where the truth is known, {percent(final.precision)} of them are right and they are "
        f"{percent(final.recall_unmarked)} of the unmarked lesions."
    )


def warnings(summary: Summary) -> list[str]:
    """What to know before the harvest is used, a sentence each; none where all is well."""
    told = [f"Round {k}: {said(each)}" for k, each in compared(summary) if each.p is not None and each.p < UNLIKE]
    told += [f"Round {row.round} left out {_left_out(row.left_out)}" for row in summary.rounds if row.left_out]
    told += [
        f"Round {row.round} left {row.left_for_review.tubelets} of the tubelets that reach the threshold for review: "
        "V_M has shown no like of them (too many of one patient, or a fold that it never tried)"
        for row in summary.rounds
        if row.left_for_review.tubelets
    ]
    if compared(summary) and summary.earlier_looks != 0:
        told.append(looks.said(summary.earlier_looks))
    return told


def closing_table(summary: Summary) -> str:
    """The rounds for the terminal, and the sentence that matters."""
    head = ["round", "LPG @1", "@4", "@16", "threshold", "bound", "harvested", "negatives", "precision", "recall"]
    rows = [_short(str(row.round), row) for row in summary.rounds] + [_short("final", summary.final)]
    lines = table([head, *rows], "r")
    rule = "-" * len(lines[0])
    end = f"stopped: {summary.stopped_because}; {duration(summary.seconds)}"
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], LEGEND, *warnings(summary), end])


def next_steps(run: str, summary: Summary, store: Store) -> list[tuple[str, str]]:
    """What people do after a harvest in the folder `run`, and the command for it."""
    held_out = len(rows_where(store.manifest, "split", Split.VD_TEST))
    export = ("labels that other tools read", f"harvester export --run {run} --to coco --out {run}-coco")
    audit = ("prove it by looking at a part of it, then harvester review", f"harvester audit --run {run} draw")
    retrain = ("what detectors gain by it", f"harvester retrain --run {run}")
    tune = ("what other precision targets would harvest", f"harvester tune --run {run}")
    if is_left_to_audit(summary):
        return [
            ("freeze the list, and draw its order", f"harvester audit --run {run} draw"),
            ("look at it, one find a screen", f"harvester review --run {run}"),
            ("make what is proven the harvest", f"harvester audit --run {run} certify"),
        ]
    return [export, audit, retrain if held_out else tune] if summary.final.harvested else [audit, tune]


def is_left_to_audit(summary: Summary) -> bool:
    """Whether people are to prove the finds, and have not yet."""
    return summary.audit is None and summary.rounds[-1].refused == LEFT_TO_AUDIT


def compared(summary: Summary) -> list[tuple[int, Comparison]]:
    """Rounds whose V_H was compared with V_M."""
    return [(row.round, row.comparison) for row in summary.rounds if row.comparison]


def round_cells(name: str, row: RoundResult | FinalResult, lpc_ap: float | None = None) -> list[str]:
    """A round as cells: sensitivities, LPC's AP, threshold, bound, what was harvested and how right it is."""
    sensitivity = row.lpg_sensitivity or {}
    return [
        name, *(number(sensitivity.get(rate)) for rate in RATES), number(lpc_ap),
        number(row.threshold, 4), number(row.precision_bound, 3), number(row.harvested),
        number(row.hard_negatives), number(row.precision, 3), number(row.recall_unmarked, 3),
    ]  # fmt: skip


def _left_out(by_split: Mapping[str, int]) -> str:
    each = ", ".join(f"{amount:,} of {name}" for split, name in SHORT_NAMES.items() if (amount := by_split.get(split)))
    volumes = count(sum(by_split.values()), "volume")
    return f"{volumes} that could not be read or scored ({each}): see missing.csv and the log"


def _short(name: str, row: RoundResult | FinalResult) -> list[str]:
    cells = round_cells(name, row)
    return [*cells[:4], *cells[5:]]
