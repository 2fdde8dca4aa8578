"""The report: one self-contained page from a run's saved results. It decides nothing and measures nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow.compute as pc

from harvester.columns import count_sorted
from harvester.config.loading import dump
from harvester.config.settings import Settings
from harvester.records import HarvestTable, LedgerTable, MarkTable, MissingTable
from harvester.report import sections
from harvester.report.gallery import VIOLET, Gallery
from harvester.report.guide import write_guide
from harvester.report.plots import Plot, audit_plot, froc_plot, precision_recall_plot, yield_plot
from harvester.report.templates import render
from harvester.report.words import is_left_to_audit, next_steps, sentence, warnings
from harvester.run.summary import Summary
from harvester.storage.location import Location
from harvester.store import looks
from harvester.store.store import Store

REPORT: Final = "report.html"
MISSING_SHOWN: Final = 15
UNNAMED: Final = Settings.model_fields["name"].default
"""A run without a config is called by its folder."""
BOUND: Final = "lower bound at this threshold, not corrected for the search"


@dataclass(frozen=True, eq=False)
class ReportInputs:
    """What a run leaves, and what the truth says of it where there is one.

    folder    the run's folder; report.html goes there
    summary   what summary.json says
    unproven  where nothing was harvested what the point estimate alone would have taken in the last round, or what
              an audit is to prove
    negatives the hard negatives of V_M, which are sure
    correct   (volume_id, lesion_id) of a harvested lesion -> right or wrong; None or absent where unknown
    missed    hidden lesions that were not harvested; empty where there is no truth
    missing   the volumes that miss the most, MISSING_SHOWN at most
    standing  how far an audit is that has proven nothing yet, a line each
    curves    {"name", "froc": (fp_per_volume, sensitivity), "precision_recall": (recall, precision)} each;
              names like "round 0: LPG + LPC"; none without truth
    """

    folder: Location
    store: Store
    settings: Settings
    summary: Summary
    harvest: HarvestTable
    unproven: HarvestTable
    negatives: LedgerTable
    correct: Mapping[tuple[str, str], bool | None]
    missed: MarkTable
    missing: MissingTable
    curves: Sequence[Mapping[str, Any]]
    standing: Sequence[str] = ()


def write_report(inputs: ReportInputs) -> Location:
    """Write folder/report.html, the guide beside it, and return where it is; a run without lesions or truth has a
    report too."""
    target = inputs.folder / REPORT
    write_guide(inputs.folder)
    target.write_text(build(inputs))
    return target


def build(inputs: ReportInputs) -> str:
    """The page; the same inputs give the same bytes."""
    return render("report.html", {"title": f"harvester: {inputs.summary.config}"} | chapters(inputs))


def chapters(inputs: ReportInputs) -> dict[str, Any]:
    """What page/chapters.html shows."""
    summary, settings = inputs.summary, inputs.settings
    volumes = count_sorted(inputs.harvest["volume_id"])
    return {
        "name": inputs.folder.name if summary.config == UNNAMED else summary.config,
        "summary": summary,
        "point": settings.operating_point,
        "sentence": sentence(summary, settings.operating_point, volumes, len(inputs.unproven)),
        "left_to_audit": is_left_to_audit(summary),
        "standing": inputs.standing,
        "lowest_waiting": pc.min(inputs.unproven["score"]).as_py(),
        "warnings": warnings(summary),
        "audit": summary.audit,
        "audit_plot": audit_plot(summary.audit.curve, summary.audit.target) if summary.audit else None,
        "next_steps": next_steps("RUN", summary, inputs.store),
        "bound": BOUND,
        "looks": looks.said(summary.earlier_looks),
        "round_rows": sections.rounds(summary),
        "plots": _plots(inputs),
        "certificate_rows": sections.certificate(summary),
        "likeness": sections.likeness(summary),
        "ablation_rows": sections.ablations(summary),
        "missing_rows": sections.missing(inputs.missing.to_pylist()),
        "archive": sections.archive(inputs.store),
        "step_rows": sections.steps(summary),
        "resolved": dump(settings),
        **_galleries(inputs),
    }


def _plots(inputs: ReportInputs) -> list[Plot]:
    plots = [yield_plot(yields(inputs.summary))]
    if inputs.curves:
        target = inputs.settings.operating_point.target_precision
        plots += [froc_plot(inputs.curves), precision_recall_plot(inputs.curves, target)]
    return plots


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


def _galleries(inputs: ReportInputs) -> dict[str, Any]:
    """The pictures of each gallery; None for one that has nothing to do with this run."""
    gallery = Gallery(inputs.store, inputs.settings.report, inputs.harvest)
    measured = inputs.summary.final.precision is not None
    hidden = bool(inputs.curves) or len(inputs.missed) > 0
    known = {} if is_left_to_audit(inputs.summary) else inputs.correct  # who is to judge them may not read it here
    return {
        "harvested": gallery.harvested(inputs.harvest, inputs.correct),
        "unproven": gallery.harvested(inputs.unproven, known, VIOLET),
        "wrong": gallery.wrong(inputs.harvest, inputs.correct) if measured else None,
        "negatives": gallery.hard_negatives(inputs.negatives),
        "missed": gallery.misses(inputs.missed) if hidden else None,
        "num_missed": len(inputs.missed),
    }
