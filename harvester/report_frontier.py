"""The recall-precision frontier as a picture."""

import io
from typing import Any, Final

from harvester.frontier import Frontier, Row
from harvester.report_plots import SOFT, STYLE

COLOURS: Final = {"certified": "#2f7fe0", "point estimate": "#c77700"}


def plot(frontier: Frontier) -> bytes:
    """A PNG: recall against the precision target, certified and by the point estimate; measured precision beside it."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    known = any(row.precision is not None for row in frontier.rows)
    with mpl.rc_context({**STYLE, "figure.facecolor": "white"}):
        figure = Figure(figsize=(10 if known else 5, 4), layout="constrained", dpi=120)
        axes = figure.subplots(1, 2 if known else 1, squeeze=False)[0]
        _recalls(axes[0], frontier, known)
        if known:
            _precisions(axes[1], frontier)
        picture = io.BytesIO()
        FigureCanvasAgg(figure).print_png(picture)
    return picture.getvalue()


def _recalls(axes: Any, frontier: Frontier, known: bool) -> None:
    for way, colour in COLOURS.items():
        rows = _of(frontier, way)
        targets = [row.target for row in rows]
        axes.plot(targets, [row.recall_vm for row in rows], color=colour, marker="o", label=f"{way}, V_M")
        if known:
            recalls = [row.recall_unmarked for row in rows]
            axes.plot(
                targets, recalls, color=colour, marker="s", linestyle=(0, (4, 2)), label=f"{way}, V_H test"
            )
    axes.set_xlabel("precision target")
    axes.set_ylabel("share of unmarked lesions found")
    axes.set_ylim(0, 1)
    axes.legend(loc="best")


def _precisions(axes: Any, frontier: Frontier) -> None:
    for way, colour in COLOURS.items():
        rows = [row for row in _of(frontier, way) if row.precision is not None]
        axes.plot(
            [row.target for row in rows], [row.precision for row in rows], color=colour, marker="s", label=way
        )
    targets = [row.target for row in frontier.rows]
    axes.plot(targets, targets, color=SOFT, linewidth=1, linestyle=(0, (4, 3)), label="target")
    axes.set_xlabel("precision target")
    axes.set_ylabel("precision measured on V_H test")
    axes.legend(loc="best")


def _of(frontier: Frontier, way: str) -> list[Row]:
    return [row for row in frontier.rows if row.way == way]
