"""The picture of a retraining: what each label set is worth to each detector, and what precision and recall are."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from harvester.report.plots import INK, SOFT, image
from harvester.run.retraining import SETS, DetectorFigures, Retraining, SetFigures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS: Final = {"harvest": "#2f7fe0", "hard_negatives": "#2f7fe0", "full_truth": "#1f9d4c"}
GRADED: Final = re.compile(r"truth_p(\d+)_r(\d+)")


def retraining_picture(done: Retraining) -> bytes:
    """A PNG: AP of each label set with its interval, a panel per detector; and AP by precision and recall, if known."""
    graded = [each for each in done.detectors if each.exchange_rate]
    panels = len(done.detectors) + len(graded)

    def draw(figure: "Figure") -> None:
        axes = figure.subplots(1, panels, squeeze=False)[0]
        span = ap_span(done.detectors)
        for own, each in zip(axes, done.detectors, strict=False):
            draw_sets(own, each, named=own is axes[0])
            own.set_xlim(*span)
        for own, each in zip(axes[len(done.detectors) :], graded, strict=True):
            _exchange(own, each)

    return image(draw, (2.2 + 3.1 * panels, 3.2), dpi=120)


def ap_span(detectors: Sequence[DetectorFigures]) -> tuple[float, float]:
    """From the lowest to the highest AP of all panels, with some room."""
    shown = [one.ap for each in detectors for one in each.sets if one.labels in SETS]
    ends = [end for ap in shown for end in ap.interval or (ap.value, ap.value)]
    return min(ends) - 0.04, max(ends) + 0.04


def draw_sets(axes: "Axes", own: DetectorFigures, named: bool) -> None:
    """AP of each label set with its interval; the sets' names beside them where asked."""
    shown = [each for name in SETS for each in own.sets if each.labels == name]
    for place, each in enumerate(reversed(shown)):
        colour = COLOURS.get(each.labels, SOFT)
        if each.ap.interval:
            axes.plot(each.ap.interval, (place, place), color=colour, linewidth=2, solid_capstyle="round")
        axes.plot(each.ap.value, place, color=colour, marker="o", markersize=7)
        axes.annotate(f"{each.ap.value:.2f}", (each.ap.value, place), (0, 7), textcoords="offset points", ha="center")
    names = [SETS[each.labels] for each in reversed(shown)]
    axes.set_yticks(range(len(shown)), names if named else [""] * len(shown))
    axes.set(title=own.detector, xlabel="AP on V_D^test", ylim=(-0.5, len(shown) - 0.3))


def _exchange(axes: "Axes", own: DetectorFigures) -> None:
    grid = {_grade(each): each.ap.value for each in own.sets if _grade(each)}
    precisions, recalls = (sorted({key[axis] for key in grid if key}) for axis in (0, 1))
    values = np.array([[grid[(p, r)] for r in recalls] for p in precisions])
    low, span = values.min(), max(float(np.ptp(values)), 0.01)
    # The lighter half of the colours: figures stand on them.
    axes.imshow(values, origin="lower", cmap="Blues", aspect="auto", vmin=low - 0.3 * span, vmax=low + 2.5 * span)
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=INK)
    _ticks(axes, recalls, precisions)
    axes.set(title=f"{own.detector}: AP of a harvest", xlabel="its recall, %", ylabel="its precision, %")


def _ticks(axes: "Axes", across: Sequence[int], up: Sequence[int]) -> None:
    axes.set_xticks(range(len(across)), [str(each) for each in across])
    axes.set_yticks(range(len(up)), [str(each) for each in up])


def _grade(each: SetFigures) -> tuple[int, int] | None:
    if each.labels == "full_truth":
        return 100, 100
    found = GRADED.fullmatch(each.labels)
    return (int(found[1]), int(found[2])) if found else None
