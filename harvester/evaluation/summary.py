"""An evaluation in words and numbers: a table for the terminal, a dictionary for JSON at full precision."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, Final

import numpy as np

from harvester.evaluation.bootstrap import CONFIDENCE
from harvester.evaluation.evaluate import Comparison, Evaluation
from harvester.evaluation.matching import Floats
from harvester.evaluation.scorecard import Protocol, Scorecard, difference
from harvester.evaluation.strata import Strata
from harvester.text import table

FEW: Final = 20
"""Patients below which a bootstrap shows little of their spread."""
METRIC_NAMES: Final = {"p3d_iou": "P3D IoU", "iobb": "3D IoBB", "iou": "3D IoU", "iogt": "3D IoGT"}


def as_json(done: Evaluation) -> dict[str, Any]:
    """Every figure as JSON has it: no rounding, null where a figure is undefined."""
    truth, rules = done.truth, done.protocol
    tree: dict[str, Any] = {
        "metric": rules.metric,
        "threshold": rules.threshold,
        "froc_fp_per_volume": list(rules.rates),
        "num_volumes": len(truth.volume_ids),
        "num_patients": truth.num_patients,
        "patients_from": truth.patients_from,
        "accept": done.accept,
        "bootstrap": {"resamples": done.resamples, "seed": done.seed, "confidence": CONFIDENCE},
    }
    tree |= _compared(done.overall)
    if rules.boxes3d:
        tree["num_boxes"] = tree["num_marks"]  # what LENS' evaluator calls them
    tree["strata"] = {
        cut.name: {
            "unit": cut.unit or None,
            "strata": [{"label": label} | _compared(one) for label, one in zip(cut.labels, cards, strict=True)],
        }
        for cut, cards in done.by_strata
    }
    return tree


def _compared(pair: Comparison) -> dict[str, Any]:
    figures = _card(pair.run)
    if pair.baseline is not None:
        figures["baseline"] = _card(pair.baseline)
        figures["difference"] = {
            name: {key: _plain(value) for key, value in difference(pair.run, pair.baseline, name).items()}
            for name in pair.run.figures
        }
    return figures


def _card(card: Scorecard) -> dict[str, Any]:
    """Intervals are [low, high]; of the sensitivity, a list of them, one per rate."""
    intervals = {name: card.interval(name) for name in card.figures if name in card.replicates}
    return (
        card.counts
        | {name: _plain(value) for name, value in card.figures.items()}
        | {"intervals": {name: _plain(ends.T) for name, ends in intervals.items() if ends is not None}}
    )


def _plain(values: Floats) -> Any:
    """Numbers and nested lists of them; None for nan."""
    plain = np.asarray(values, dtype=np.float64).astype(object)
    plain[plain != plain] = None
    return plain.tolist()


def as_text(done: Evaluation) -> str:
    """The table for the terminal."""
    lines = [*_headline(done), "", *_figures_table(done.overall, done)]
    for cut, cards in done.by_strata:
        lines += ["", *_strata_table(cut, cards)]
    return "\n".join(lines)


def _headline(done: Evaluation) -> Iterator[str]:
    truth, counts, rules = done.truth, done.overall.run.counts, done.protocol
    things = "boxes" if rules.boxes3d else "tubelets"
    yield (
        f"{counts['num_marks']:,} marks in {len(truth.volume_ids):,} volumes of {truth.num_patients:,} patients "
        f"({truth.patients_from})"
    )
    yield (
        f"{counts['num_tubelets']:,} {things}, {METRIC_NAMES[rules.metric]} >= {rules.threshold:g}: "
        f"{counts['tp']:,} marks found, {counts['fp_froc']:,} false positives ({counts['fp_ap']:,} for AP)"
    )
    if done.accept is not None:
        yield (
            f"{counts['accepted']:,} {things} score >= {done.accept:g}: {counts['correct']:,} are the first on a mark, "
            f"{counts['found']:,} marks found"
        )
    if done.resamples:
        few = f"; {truth.num_patients} patients are few: take them as rough" * (truth.num_patients < FEW)
        yield f"intervals: {CONFIDENCE:.0%}, {done.resamples:,} resamples of patients, seed {done.seed}{few}"


def _figures_table(pair: Comparison, done: Evaluation) -> list[str]:
    """One row per figure; with a baseline its columns and the difference beside it."""
    head = ["", "run", "interval"]
    if pair.baseline is not None:
        head += ["baseline", "interval", "difference", "interval", "share <= 0"]
    rows = [head]
    for name, label, place in _rows(done):
        cells = [label, *_cells(pair.run, name, place)]
        if pair.baseline is not None:
            cells += _cells(pair.baseline, name, place)
            cells += _difference_cells(pair.run, pair.baseline, name, place)
        rows.append(cells)
    return table(rows if done.resamples else [_without_empty(row, head) for row in rows])


def _rows(done: Evaluation) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Name of the figure, its label and its place in the array."""
    yield "ap", "AP", ()
    for place, label in enumerate(rate_labels(done.protocol)):
        yield "sensitivity", f"sensitivity at {label} FP", (place,)
    yield "mean", "mean of 1/8 to 8 FP", ()
    if done.accept is not None:
        yield "precision", f"precision from {done.accept:g}", ()
        yield "recall", f"recall from {done.accept:g}", ()


def rate_labels(rules: Protocol) -> list[str]:
    """1/8, 1/4, ... 16: false positives per volume."""
    return [str(Fraction(rate).limit_denominator(1000)) for rate in rules.rates]


def _cells(card: Scorecard, name: str, place: tuple[int, ...] = ()) -> list[str]:
    return [_number(card.figures[name][place]), _interval(card.interval(name), place)]


def _difference_cells(run: Scorecard, baseline: Scorecard, name: str, place: tuple[int, ...]) -> list[str]:
    moved = difference(run, baseline, name)
    share = f"{moved['share_at_most_0'][place]:.3f}".replace("nan", "-") if "share_at_most_0" in moved else ""
    return [_number(moved["value"][place], "+"), _interval(moved.get("interval"), place, "+"), share]


def _strata_table(cut: Strata, cards: Sequence[Comparison]) -> list[str]:
    """One row per stratum; every other figure is in the JSON."""
    compared = any(card.baseline is not None for card in cards)
    title = "by longer side" if cut.unit else f"by {cut.name}"
    head = [title, "marks", "found", "AP", "interval", "mean sens.", "interval"]
    rows = [head + ["mean of baseline", "difference", "interval"] * compared]
    for label, pair in zip(cut.labels, cards, strict=True):
        counts = [f"{pair.run.counts['num_marks']:,}", f"{pair.run.counts['tp']:,}"]
        row = [label, *counts, *_cells(pair.run, "ap"), *_cells(pair.run, "mean")]
        if pair.baseline is not None:
            row.append(_number(pair.baseline.figures["mean"]))
            row += _difference_cells(pair.run, pair.baseline, "mean", ())[:2]
        rows.append(row)
    shown = rows if any(row[4] for row in rows[1:]) else [_without_empty(row, rows[0]) for row in rows]
    return table(shown)


def _without_empty(row: list[str], head: list[str]) -> list[str]:
    return [cell for cell, name in zip(row, head, strict=True) if name not in ("interval", "share <= 0")]


def _number(value: float | Floats, sign: str = "") -> str:
    return "-" if np.isnan(value) else f"{float(value):{sign}.4f}"


def _interval(ends: Floats | None, place: tuple[int, ...], sign: str = "") -> str:
    if ends is None:
        return ""
    low, high = ends[(0, *place)], ends[(1, *place)]
    return "-" if np.isnan(low) else f"{_number(low, sign)} to {_number(high, sign)}"
