"""Plots of the report, each an SVG image that stands on its own."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from harvester.certificate.frontier import Frontier, FrontierRow
from harvester.errors import StoreError
from harvester.evaluation.bootstrap import CONFIDENCE
from harvester.evaluation.curves import froc, precision_recall
from harvester.evaluation.evaluate import Evaluation
from harvester.evaluation.scorecard import CURVE_RATES, CURVE_RECALLS, Scorecard
from harvester.evaluation.summary import METRIC_NAMES, rate_labels
from harvester.report.pictures import data_uri

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FP_LABEL: Final = "false positives per volume"
INK: Final = "#1c2430"
SOFT: Final = "#5a6675"
ROUND_COLOURS: Final = ("#9aa5b1", "#2f7fe0", "#c77700", "#1f9d4c", "#8a4fbf", "#cf3a3a")
PARTS: Final = {"right": "#2f7fe0", "wrong": "#cf3a3a", "unknown": "#9db8d6"}
STYLE: Final[Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "harvester",
    "font.family": ["sans-serif"],
    "font.size": 10,
    **dict.fromkeys(("text.color", "axes.labelcolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), SOFT),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **dict.fromkeys(("axes.facecolor", "figure.facecolor"), "none"),
}


@dataclass(frozen=True)
class Plot:
    """A plot of the report; source is an SVG as a data URI."""

    title: str
    caption: str
    source: str


def froc_plot(curves: Sequence[Mapping[str, Any]]) -> Plot:
    """Sensitivity on unmarked lesions against false positives per volume, one line per curve."""

    def draw(axes: "Axes") -> None:
        for curve in curves:
            fp, sensitivity = curve["froc"]
            axes.plot(fp, sensitivity, label=curve["name"], **_line_style(curve["name"]))
        axes.set_xscale("symlog", linthresh=0.25, linscale=0.4)
        ticks = (0, 0.25, 1, 4, 16)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.set(xlim=(0, 32), ylim=(0, 1), xlabel=FP_LABEL, ylabel="sensitivity on unmarked lesions")
        legend_below(axes)

    return _figure(draw, "FROC curves", "FROC: unmarked lesions proposed against false positives per volume.")


def precision_recall_plot(curves: Sequence[Mapping[str, Any]], target: float) -> Plot:
    """Precision against recall, one line per curve, the target as a dashed line."""

    def draw(axes: "Axes") -> None:
        axes.axhline(target, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
        axes.text(1.0, target + 0.012, f"target {target:g}", ha="right", va="bottom", color=SOFT)
        for curve in curves:
            recall, precision = curve["precision_recall"]
            axes.plot(recall, precision, label=curve["name"], **_line_style(curve["name"]))
        axes.set(xlim=(0, 1), ylim=(0, 1.04), xlabel="recall of unmarked lesions", ylabel="precision")
        legend_below(axes)

    return _figure(draw, "Precision-recall curves", "Precision against recall as the threshold is lowered.")


def yield_plot(by_round: Mapping[int, Mapping[str, int]]) -> Plot:
    """Harvested lesions per round, a bar each: {round: {"right", "wrong", "unknown"}}."""

    def draw(axes: "Axes") -> None:
        bottom = np.zeros(len(by_round), np.int64)
        for part, colour in PARTS.items():
            heights = np.array([found.get(part, 0) for found in by_round.values()])
            if heights.any():
                axes.bar(list(by_round), heights, 0.55, bottom=bottom, color=colour, label=f"{part} by truth")
                bottom = bottom + heights
        for k, total in zip(by_round, bottom.tolist(), strict=True):
            axes.text(k, total, f" {total}", ha="center", va="bottom")
        axes.set_xticks(list(by_round), [f"round {k}" for k in by_round])
        highest = max(1.0, 1.18 * bottom.max())
        axes.set(xlim=(min(by_round) - 0.7, max(by_round) + 0.7), ylim=(0, highest), ylabel="lesions harvested")
        if bottom.any():
            legend_below(axes)

    return _figure(draw, "Yield per round", "Lesions on each round's list; the last one is the harvest.")


def audit_plot(curve: Sequence[float], target: float) -> Plot:
    """What was proven after each review."""

    def draw(axes: "Axes") -> None:
        axes.plot(range(1, len(curve) + 1), curve, color=ROUND_COLOURS[0], linewidth=1.8)
        axes.axhline(target, color="#888", linewidth=1, linestyle=(0, (4, 2)))
        axes.set(ylim=(0, 1), xlabel="finds looked at", ylabel="right at least")

    return _figure(draw, "Proven by looking", "The share of the list that is right at least; dashed: the target.")


def legend_below(axes: "Axes") -> None:
    """Below the axes, where no curve is."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2)


def _line_style(name: str) -> dict[str, Any]:
    """Rounds by colour, in the order of their numbers; the generator alone is dashed."""
    digits = [int(word.rstrip(":")) for word in name.split() if word.rstrip(":").isdigit()]
    dashed = {"linestyle": (0, (4, 2))} if "LPC" not in name else {}
    colour = ROUND_COLOURS[(digits[0] if digits else 0) % len(ROUND_COLOURS)]
    return {"color": colour, "linewidth": 1.8, **dashed}


def _figure(draw: Callable[["Axes"], None], title: str, caption: str) -> Plot:
    source = data_uri(image(lambda figure: draw(figure.add_subplot()), (4.6, 4.0), "svg"), "image/svg+xml")
    return Plot(title, caption, source)


def image(
    draw: Callable[["Figure"], None], inches: tuple[float, float], kind: str = "png", dpi: float | None = None
) -> bytes:
    """What `draw` draws, on white where it is a PNG; the same bytes each time."""
    # matplotlib takes a second to import; only pictures need it.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    ground = {"figure.facecolor": "white", "grid.color": SOFT} if kind == "png" else {}
    with mpl.rc_context(STYLE | ground):
        figure = Figure(figsize=inches, dpi=dpi, layout="constrained")
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, metadata={"Software" if kind == "png" else "Date": None})
    return buffer.getvalue()


def write_plots(done: Evaluation, folder: Path) -> list[Path]:
    """Write froc.png and precision_recall.png into `folder`, made if need be. Raises StoreError where it cannot."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        figures = {"froc.png": _froc, "precision_recall.png": _precision_recall}
        return [_write(folder / name, draw, done) for name, draw in figures.items()]
    except OSError as error:
        raise StoreError(f"{folder}: plots cannot be written ({error.strerror})") from None


def _cards(done: Evaluation) -> Iterator[tuple[str, str, Scorecard]]:
    """Name, colour and figures; the baseline first: the run is drawn over it."""
    if done.overall.baseline is not None:
        yield "baseline", "#c77700", done.overall.baseline
    yield "run", "#2f7fe0", done.overall.run


def _froc(axes: "Axes", done: Evaluation) -> None:
    rates, volumes = done.protocol.rates, len(done.truth.volume_ids)
    for name, colour, card in _cards(done):
        curve = froc(card.hits, volumes)
        _band(axes, CURVE_RATES, card, "curve_sensitivity", colour)
        # Carried to the right edge: beyond its last tubelet a run finds no more.
        fp = np.append(curve.fp_per_volume, np.maximum(curve.fp_per_volume[-1:], CURVE_RATES[-1]))
        found = np.append(curve.sensitivity, curve.sensitivity[-1:])
        axes.plot(fp, found, color=colour, linewidth=1.8, label=f"{name}, mean {card.figures['mean']:.3f}")
        axes.plot(rates, card.figures["sensitivity"], "o", color=colour, markersize=3.5)
    axes.set_xscale("log", base=2)
    axes.set_xticks(rates, rate_labels(done.protocol))
    axes.set_xticks([], minor=True)
    sensitivity = f"sensitivity, {METRIC_NAMES[done.protocol.metric]} ≥ {done.protocol.threshold:g}"
    axes.set(xlim=(CURVE_RATES[0], CURVE_RATES[-1]), ylim=(0, 1), xlabel=FP_LABEL, ylabel=sensitivity)
    axes.grid(alpha=0.25)
    legend_below(axes)


def _precision_recall(axes: "Axes", done: Evaluation) -> None:
    for name, colour, card in _cards(done):
        curve = precision_recall(card.hits)
        envelope = np.maximum.accumulate(curve.precision[::-1])[::-1]
        _band(axes, CURVE_RECALLS, card, "curve_precision", colour)
        axes.plot(curve.recall, envelope, color=colour, linewidth=1.8, label=f"{name}, AP {card.figures['ap']:.3f}")
        if done.accept is not None:
            point = card.figures["recall"], card.figures["precision"]
            axes.plot(*point, "D", color=colour, markersize=5, label=f"{name}, score ≥ {done.accept:g}")
    axes.set(xlim=(0, 1), ylim=(0, 1.04), xlabel="recall", ylabel="precision (envelope)")
    axes.grid(alpha=0.25)
    legend_below(axes)


def _band(axes: "Axes", x: NDArray[np.float64], card: Scorecard, name: str, colour: str) -> None:
    ends = card.interval(name)
    if ends is not None:
        axes.fill_between(x, *ends, color=colour, alpha=0.2, linewidth=0, label=f"{CONFIDENCE:.0%} interval")


def _write(file: Path, draw: Callable[["Axes", Evaluation], None], done: Evaluation) -> Path:
    file.write_bytes(image(lambda figure: draw(figure.add_subplot(), done), (5.4, 4.2), dpi=150))
    return file


FRONTIER_COLOURS: Final = {"certified": "#2f7fe0", "point estimate": "#c77700"}


def frontier_picture(frontier: Frontier) -> bytes:
    """A PNG: recall against the precision target, certified and by the point estimate; measured precision beside it."""
    known = any(row.precision is not None for row in frontier.rows)

    def draw(figure: "Figure") -> None:
        axes = figure.subplots(1, 2 if known else 1, squeeze=False)[0]
        _recalls(axes[0], frontier, known)
        if known:
            _precisions(axes[1], frontier)

    return image(draw, (10 if known else 5, 4), dpi=120)


def _recalls(axes: "Axes", frontier: Frontier, known: bool) -> None:
    for way, colour in FRONTIER_COLOURS.items():
        rows = _rows_of(frontier, way)
        targets = [row.target for row in rows]
        axes.plot(targets, [row.recall_vm for row in rows], color=colour, marker="o", label=f"{way}, V_M")
        if known:
            recalls = np.array([row.recall_unmarked for row in rows], np.float64)
            axes.plot(targets, recalls, color=colour, marker="s", linestyle=(0, (4, 2)), label=f"{way}, V_H test")
    axes.set(ylim=(0, 1), xlabel="precision target", ylabel="share of unmarked lesions found")
    legend_below(axes)


def _precisions(axes: "Axes", frontier: Frontier) -> None:
    for way, colour in FRONTIER_COLOURS.items():
        rows = [row for row in _rows_of(frontier, way) if row.precision is not None]
        precisions = np.array([row.precision for row in rows], np.float64)
        axes.plot([row.target for row in rows], precisions, color=colour, marker="s", label=way)
    targets = [row.target for row in frontier.rows]
    axes.plot(targets, targets, color=SOFT, linewidth=1, linestyle=(0, (4, 3)), label="target")
    axes.set(xlabel="precision target", ylabel="precision measured on V_H test")
    legend_below(axes)


def _rows_of(frontier: Frontier, way: str) -> list[FrontierRow]:
    return [row for row in frontier.rows if row.way == way]
