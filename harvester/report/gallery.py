"""The report's galleries: harvested lesions, wrong ones, hard negatives, misses, each a strip of slices."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.config.settings import ReportSettings
from harvester.labels.ledger import by_volume
from harvester.records import SIDES, HarvestTable, LedgerTable, MarkTable, Source, rows_where
from harvester.report.html import Html, number, tag
from harvester.report.pictures import Outline, slices_to_show, strip
from harvester.store.store import Store

BLUE: Final = "#3d94ff"
GREEN: Final = "#2fd06a"
AMBER: Final = "#ffb02e"
RED: Final = "#ff5a5a"
VIOLET: Final = "#c77dff"
LEGEND: Final = {
    "harvested": BLUE,
    "not proven": VIOLET,
    "clinical mark": GREEN,
    "hidden truth": AMBER,
    "hard negative": RED,
}
NAMED: Final = {BLUE: "harvested lesion", VIOLET: "proposal that is not proven"}
LesionRow = Mapping[str, Any]
"""A row of a harvest, a ledger or marks."""
Correct = Mapping[tuple[str, str], bool | None]


class Gallery:
    """Draws lesions with what else is known of their volumes: clinical marks, the harvest, the truth."""

    def __init__(self, store: Store, settings: ReportSettings, harvest: HarvestTable) -> None:
        self._store, self._settings = store, settings
        self._depth: dict[str, int] = {row["volume_id"]: row["depth"] for row in store.manifest.to_pylist()}
        marks, truth = store.marks(), store.truth()
        self._clinical = _by_volume(marks.filter(marks["clinical"]), GREEN)
        self._truth = _by_volume(truth.filter(pc.invert(truth["clinical"])), AMBER, dashed=True)
        self._harvested = _by_volume(harvest, BLUE)

    def harvested(self, rows: Sequence[LesionRow], correct: Correct, colour: str = BLUE) -> Html:
        """The best, the last and evenly between by score: a fair sample, best first. VIOLET: of what is not proven."""
        chosen = sample_evenly(sorted(rows, key=_worst_last), self._settings.gallery)
        return _grid([self._found(row, correct, with_truth=False, colour=colour) for row in chosen])

    def wrong(self, rows: Sequence[LesionRow], correct: Correct) -> Html:
        """Harvested ones that the truth calls wrong, best-scored first, the truth drawn beside them."""
        wrong = [row for row in sorted(rows, key=_worst_last) if correct.get(_key(row)) is False]
        chosen = wrong[: self._settings.gallery // 2]
        return _grid([self._found(row, correct, with_truth=True) for row in chosen])

    def hard_negatives(self, ledger: LedgerTable) -> Html:
        """The best-scored sure hard negatives, one per volume: one false structure shows in many tubelets."""
        rows = rows_where(ledger, "source", Source.HARD_NEGATIVE_VM).to_pylist()
        firsts = {row["volume_id"]: row for row in sorted(rows, key=_worst_last, reverse=True)}
        chosen = sorted(firsts.values(), key=_worst_last)[: self._settings.gallery // 2]
        return _grid([self._negative(row) for row in chosen])

    def misses(self, missed: MarkTable) -> Html:
        """Hidden lesions that were not harvested, evenly over the volumes."""
        rows = sorted(missed.to_pylist(), key=lambda row: (row["volume_id"], row["mark_id"]))
        chosen = sample_evenly(rows, self._settings.gallery // 2)
        return _grid(
            [self._figure(row, AMBER, "missed lesion", [row["kind"]] if row["kind"] else []) for row in chosen]
        )

    def _found(self, row: LesionRow, correct: Correct, with_truth: bool, colour: str = BLUE) -> Html:
        found = {True: "right", False: "wrong", None: ""}[correct.get(_key(row))]
        verdict = [tag("b", found, class_=found)] if found else []
        facts = [f"score {number(row['score'])}", f"round {row['round']}", *verdict]
        hidden = self._truth.get(row["volume_id"], []) if with_truth else []
        return self._figure(row, colour, NAMED[colour], facts, hidden)

    def _negative(self, row: LesionRow) -> Html:
        facts = [f"LPG score {number(row['score'])}", f"round {row['round']}"]
        return self._figure(row, RED, "hard negative", facts)

    def _figure(
        self, row: LesionRow, colour: str, words: str, facts: Sequence[str], hidden: Sequence[Outline] = ()
    ) -> Html:
        """The lesion with what else is known near it, and of the truth what is `hidden`."""
        volume_id, subject = row["volume_id"], outline(row, colour)
        depth, slices = self._depth[volume_id], list(subject.boxes_xyxy_px)
        near = [*self._clinical.get(volume_id, []), *self._harvested.get(volume_id, [])]
        others = [*(other for other in near if other.boxes_xyxy_px != subject.boxes_xyxy_px), *hidden]
        shown = slices_to_show(slices, depth, self._settings.slices_per_picture)
        slab = self._store.read(volume_id, shown[0], shown[-1] + 1)
        pictures = strip(slab, shown, subject, others, f"{words} in {volume_id}")
        parts = [tag("b", volume_id), f"{_range(slices)} of {depth}", *facts]
        return tag("figure", pictures, tag("figcaption", *_dotted(parts)))


def outline(row: LesionRow, colour: str, dashed: bool = False) -> Outline:
    """The boxes of a row of HARVEST (x1_px ...), LEDGER (lists) or MARKS (single values)."""
    values = [row.get(f"{side}_px", row.get(side)) for side in ("z", *SIDES)]
    lists = [value if isinstance(value, list) else [value] for value in values]
    boxes = {int(z): (x1, y1, x2, y2) for z, x1, y1, x2, y2 in zip(*lists, strict=True)}
    return Outline(boxes, colour, dashed)


def sample_evenly(rows: Sequence[LesionRow], wanted: int) -> list[LesionRow]:
    """`wanted` rows evenly from first to last; all where there are fewer, none where none is wanted."""
    if wanted <= 0:
        return []
    places = np.linspace(0, len(rows) - 1, min(wanted, len(rows)))
    return [rows[int(place)] for place in np.round(places)]


def legend(*names: str) -> Html:
    """What the colours of the boxes mean, of those in LEGEND that are named."""
    keys = [
        tag("li", tag("span", class_="key", style=f"border-color:{LEGEND[name]};background:#333"), name)
        for name in names
    ]
    return tag("ul", *keys, class_="legend")


def _by_volume(table: pa.Table, colour: str, dashed: bool = False) -> dict[str, list[Outline]]:
    return {volume: [outline(row, colour, dashed) for row in rows] for volume, rows in by_volume(table).items()}


def _grid(figures: Sequence[Html]) -> Html:
    return tag("div", *figures, class_="gallery") if figures else tag("p", "None.", class_="soft")


def _key(row: LesionRow) -> tuple[str, str]:
    return row["volume_id"], row["lesion_id"]


def _worst_last(row: LesionRow) -> tuple[float, str, str]:
    return -row["score"], row["volume_id"], row.get("lesion_id") or row["label_id"]


def _range(slices: Sequence[int]) -> str:
    low, high = min(slices), max(slices)
    return f"slice {low}" if low == high else f"slices {low}–{high}"


def _dotted(parts: Sequence[str]) -> list[str]:
    return [piece for part in parts for piece in (" · ", part)][1:]
