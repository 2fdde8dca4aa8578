"""The report: one self-contained page from a run's saved results. It decides nothing and measures nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from harvester.config.settings import Settings
from harvester.records import HarvestTable, LedgerTable, MarkTable, MissingTable, values
from harvester.report.gallery import VIOLET, Gallery, legend
from harvester.report.html import Html, page, section, tag
from harvester.report.plots import froc_plot, precision_recall_plot, yield_plot
from harvester.report.sections import (
    ablations,
    archive,
    audit,
    certificate,
    likeness,
    missing,
    opening,
    resolved,
    rounds,
    steps,
)
from harvester.run.summary import Summary
from harvester.storage.location import Location
from harvester.store.store import Store

REPORT: Final = "report.html"
MISSING_SHOWN: Final = 15


@dataclass(frozen=True, eq=False)
class ReportInputs:
    """What a run leaves, and what the truth says of it where there is one.

    folder    the run's folder; report.html goes there
    summary   what summary.json says
    unproven  what the point estimate alone would have taken in the last round; shown where nothing was harvested,
              and nowhere else
    correct   (volume_id, lesion_id) of a harvested lesion -> right or wrong; None or absent where unknown
    missed    hidden lesions that were not harvested; empty where there is no truth
    missing   the volumes that miss the most first
    curves    {"name", "froc": (fp_per_volume, sensitivity), "precision_recall": (recall, precision)} each;
              names like "round 0: LPG + LPC"; none without truth
    """

    folder: Location
    store: Store
    settings: Settings
    summary: Summary
    harvest: HarvestTable
    unproven: HarvestTable
    ledger: LedgerTable
    correct: Mapping[tuple[str, str], bool | None]
    missed: MarkTable
    missing: MissingTable
    curves: Sequence[Mapping[str, Any]]


def write_report(inputs: ReportInputs) -> Location:
    """Write folder/report.html and return where it is; a run without lesions or truth has a report too."""
    target = inputs.folder / REPORT
    target.write_text(build(inputs))
    return target


def build(inputs: ReportInputs) -> str:
    """The page; the same inputs give the same bytes."""
    return page(f"harvester: {inputs.summary.config}", *chapters(inputs))


def chapters(inputs: ReportInputs) -> list[Html]:
    """What stands on it."""
    summary, settings = inputs.summary, inputs.settings
    volumes = len(set(values(inputs.harvest["volume_id"])))
    return [
        opening(summary, settings.operating_point, volumes),
        rounds(summary),
        _plots(inputs),
        *_galleries(inputs),
        *audit(summary),
        certificate(summary, settings.operating_point),
        likeness(summary),
        ablations(summary),
        *([missing(inputs.missing.slice(0, MISSING_SHOWN).to_pylist())] if len(inputs.missing) else []),
        archive(inputs.store),
        steps(summary),
        resolved(settings, summary),
    ]


def _plots(inputs: ReportInputs) -> Html:
    figures = [yield_plot(yields(inputs.summary))]
    if inputs.curves:
        target = inputs.settings.operating_point.target_precision
        figures += [froc_plot(inputs.curves), precision_recall_plot(inputs.curves, target)]
    return section("Yield and curves", tag("div", *figures, class_="plots"), wide=True)


def yields(summary: Summary) -> dict[int, dict[str, int]]:
    """Lesions of each round's list."""
    return {
        row.round: {
            "right": row.test_correct or 0,
            "wrong": row.test_harvested - (row.test_correct or 0) if row.test_correct is not None else 0,
            "unknown": row.harvested - (row.test_harvested if row.test_correct is not None else 0),
        }
        for row in summary.rounds
    }


def _galleries(inputs: ReportInputs) -> list[Html]:
    gallery = Gallery(inputs.store, inputs.settings.report, inputs.harvest)
    words = (
        "A fair sample: from the best score to the last one above the threshold, in even steps. Each row of slices is "
        "one lesion with about 100 mm around it, in a lung or a soft-tissue window."
    )
    shown = gallery.harvested(inputs.harvest, inputs.correct)
    chapters = [_chapter("Harvested lesions", words, shown, "harvested", "clinical mark")]
    if not len(inputs.harvest) and len(inputs.unproven):
        words = (
            "Not harvested, and in no table: too little backs them. The precision as counted on V_M would have "
            "taken these; the best, the last and evenly between by score."
        )
        shown = gallery.harvested(inputs.unproven, inputs.correct, VIOLET)
        title = "What the point estimate would have taken"
        chapters.append(_chapter(title, words, shown, "not proven", "clinical mark"))
    if inputs.summary.final.precision is not None:
        words = "Harvested, and not on a hidden lesion by a P3D IoU of at least 0.5. Best-scored first."
        shown = gallery.wrong(inputs.harvest, inputs.correct)
        chapters.append(_chapter("Wrong ones", words, shown, "harvested", "clinical mark", "hidden truth"))
    words = (
        "Sure hard negatives: the generator’s best-scored proposals in V_M that are no lesion, one per "
        "volume. From round 1 on the generator learns to leave them alone."
    )
    shown = gallery.hard_negatives(inputs.ledger)
    chapters.append(_chapter("Hardest negatives", words, shown, "hard negative", "clinical mark"))
    if inputs.curves or len(inputs.missed):
        words = f"{len(inputs.missed):,} unmarked lesions of V_H test were not harvested; some of them:"
        shown = gallery.misses(inputs.missed)
        chapters.append(_chapter("Misses", words, shown, "hidden truth", "harvested", "clinical mark"))
    return chapters


def _chapter(title: str, words: str, figures: Html, *keys: str) -> Html:
    return section(title, tag("p", words), legend(*keys), figures, wide=True)
