"""Plots of the report, each an SVG image that stands on its own."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from harvester.report_page import Html, tag
from harvester.report_pictures import data_uri

INK: Final = "#1c2430"
SOFT: Final = "#5a6675"
ROUND_COLOURS: Final = ("#9aa5b1", "#2f7fe0", "#c77700", "#1f9d4c", "#8a4fbf", "#cf3a3a")
PARTS: Final = {"right": "#2f7fe0", "wrong": "#cf3a3a", "unknown": "#9db8d6"}
STYLE: Final[Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "harvester",
    "font.family": ["sans-serif"],
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
}


def froc_plot(curves: Sequence[Mapping[str, Any]]) -> Html:
    """Sensitivity on unmarked lesions against false positives a volume, one line a curve."""

    def draw(axes: Any) -> None:
        for curve in curves:
            fp, sensitivity = curve["froc"]
            axes.plot(fp, sensitivity, label=curve["name"], **_line_style(curve["name"]))
        axes.set_xscale("symlog", linthresh=0.25, linscale=0.4)
        axes.set_xlim(0, 32)
        axes.set_ylim(0, 1)
        ticks = (0, 0.25, 1, 4, 16)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("false positives a volume")
        axes.set_ylabel("sensitivity on unmarked lesions")
        axes.legend(loc="best")

    return _figure(draw, "FROC curves", "FROC: unmarked lesions proposed against false positives a volume.")


def precision_recall_plot(curves: Sequence[Mapping[str, Any]], target: float) -> Html:
    """Precision against recall, one line a curve, the target as a dashed line."""

    def draw(axes: Any) -> None:
        axes.axhline(target, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
        axes.text(1.0, target + 0.012, f"target {target:g}", ha="right", va="bottom", color=SOFT)
        for curve in curves:
            recall, precision = curve["precision_recall"]
            axes.plot(recall, precision, label=curve["name"], **_line_style(curve["name"]))
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.04)
        axes.set_xlabel("recall of unmarked lesions")
        axes.set_ylabel("precision")
        axes.legend(loc="lower left")

    return _figure(draw, "Precision-recall curves", "Precision against recall as the threshold is lowered.")


def yield_plot(by_round: Mapping[int, Mapping[str, int]]) -> Html:
    """Harvested lesions a round, a bar each: {round: {"right", "wrong", "unknown"}}."""

    def draw(axes: Any) -> None:
        bottom = dict.fromkeys(by_round, 0)
        for part, colour in PARTS.items():
            heights = [by_round[k].get(part, 0) for k in by_round]
            if any(heights):
                base = [bottom[k] for k in by_round]
                axes.bar(list(by_round), heights, 0.55, bottom=base, color=colour, label=f"{part} by truth")
                bottom = {k: bottom[k] + height for k, height in zip(by_round, heights, strict=True)}
        for k, total in bottom.items():
            axes.text(k, total, f" {total}", ha="center", va="bottom")
        axes.set_xticks(list(by_round), [f"round {k}" for k in by_round])
        axes.set_xlim(min(by_round) - 0.7, max(by_round) + 0.7)
        axes.set_ylim(0, max(1.0, 1.18 * max(bottom.values())))
        axes.set_ylabel("lesions harvested")
        if any(bottom.values()):
            axes.legend(loc="upper right")

    return _figure(draw, "Yield per round", "Lesions that each round added.")


def _line_style(name: str) -> dict[str, Any]:
    """Rounds by colour, in the order of their numbers; the generator alone is dashed."""
    digits = [int(word.rstrip(":")) for word in name.split() if word.rstrip(":").isdigit()]
    dashed = {"linestyle": (0, (4, 2))} if "LPC" not in name else {}
    colour = ROUND_COLOURS[(digits[0] if digits else 0) % len(ROUND_COLOURS)]
    return {"color": colour, "linewidth": 1.8, **dashed}


def _figure(draw: Callable[[Any], None], title: str, caption: str) -> Html:
    # matplotlib takes a second to import; only a report needs it.
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 3.5), layout="constrained")
        draw(figure.add_subplot())
        buffer = io.BytesIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    source = data_uri(buffer.getvalue(), "image/svg+xml")
    return tag("figure", tag("img", src=source, alt=title), tag("figcaption", caption))
