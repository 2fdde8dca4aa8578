"""FROC and precision-recall of an evaluation as PNG files, with bootstrap intervals and the baseline beside them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from harvester.errors import StoreError
from harvester.evaluation.bootstrap import CONFIDENCE
from harvester.evaluation.curves import froc, precision_recall
from harvester.evaluation.evaluate import Evaluation
from harvester.evaluation.scorecard import CURVE_RATES, CURVE_RECALLS, Scorecard
from harvester.evaluation.summary import METRIC_NAMES, rate_labels
from harvester.report_plots import SOFT, STYLE

COLOURS: Final = {"run": "#2f7fe0", "baseline": "#c77700"}
DOTS_PER_INCH: Final = 150


def write_plots(done: Evaluation, folder: Path) -> list[Path]:
    """Write froc.png and precision_recall.png into `folder`, made if need be. Raises StoreError where it cannot."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [
            _write(folder / "froc.png", lambda axes: _froc(axes, done)),
            _write(folder / "precision_recall.png", lambda axes: _precision_recall(axes, done)),
        ]
    except OSError as error:
        raise StoreError(f"{folder}: plots cannot be written ({error.strerror})") from None


def _cards(done: Evaluation) -> Iterator[tuple[str, Scorecard]]:
    """The baseline first: the run is drawn over it."""
    if done.overall.baseline is not None:
        yield "baseline", done.overall.baseline
    yield "run", done.overall.run


def _froc(axes: Any, done: Evaluation) -> None:
    rates, volumes = done.protocol.rates, len(done.truth.volume_ids)
    for name, card in _cards(done):
        curve = froc(card.hits, volumes)
        _band(axes, CURVE_RATES, card, "curve_sensitivity", COLOURS[name])
        # Carried to the right edge: beyond its last tubelet a run finds no more.
        fp = np.append(curve.fp_per_volume, np.maximum(curve.fp_per_volume[-1:], CURVE_RATES[-1]))
        found = np.append(curve.sensitivity, curve.sensitivity[-1:])
        axes.plot(fp, found, color=COLOURS[name], linewidth=1.8, label=f"{name}, mean {_told(card, 'mean')}")
        axes.plot(rates, card.figures["sensitivity"], "o", color=COLOURS[name], markersize=3.5)
    axes.set_xscale("log", base=2)
    axes.set_xlim(CURVE_RATES[0], CURVE_RATES[-1])
    axes.set_xticks(rates, rate_labels(done.protocol))
    axes.set_xticks([], minor=True)
    axes.set_ylim(0, 1)
    axes.set_xlabel("false positives a volume")
    axes.set_ylabel(f"sensitivity, {METRIC_NAMES[done.protocol.metric]} ≥ {done.protocol.threshold:g}")
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right")


def _precision_recall(axes: Any, done: Evaluation) -> None:
    for name, card in _cards(done):
        curve = precision_recall(card.hits)
        envelope = np.maximum.accumulate(curve.precision[::-1])[::-1]
        _band(axes, CURVE_RECALLS, card, "curve_precision", COLOURS[name])
        axes.plot(
            curve.recall,
            envelope,
            color=COLOURS[name],
            linewidth=1.8,
            label=f"{name}, AP {_told(card, 'ap')}",
        )
        if done.accept is not None:
            point = card.figures["recall"], card.figures["precision"]
            axes.plot(
                *point, "D", color=COLOURS[name], markersize=5, label=f"{name}, score ≥ {done.accept:g}"
            )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.04)
    axes.set_xlabel("recall")
    axes.set_ylabel("precision (envelope)")
    axes.grid(alpha=0.25)
    axes.legend(loc="upper right")


def _band(axes: Any, x: Any, card: Scorecard, name: str, colour: str) -> None:
    ends = card.interval(name)
    if ends is not None:
        axes.fill_between(x, *ends, color=colour, alpha=0.2, linewidth=0, label=f"{CONFIDENCE:.0%} interval")


def _told(card: Scorecard, name: str) -> str:
    return f"{card.figures[name]:.3f}"


def _write(file: Path, draw: Callable[[Any], None]) -> Path:
    # matplotlib takes a second to import; only plots need it.
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE | {"figure.facecolor": "white", "grid.color": SOFT}):
        figure = Figure(figsize=(5.4, 4.2), dpi=DOTS_PER_INCH, layout="constrained")
        draw(figure.add_subplot())
        FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
    return file
