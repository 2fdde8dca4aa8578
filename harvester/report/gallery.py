"""The report's galleries: harvested lesions, wrong ones, hard negatives, misses, each a strip of slices."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.config.settings import ReportSettings
from harvester.datasets.discovery import LoadedVolume
from harvester.records import SIDES, AnyTable, HarvestTable, LedgerTable, MarkTable, Volume, rows_where, values
from harvester.report.pictures import Outline, Strip, slices_to_show, strip
from harvester.report.templates import COLOURS
from harvester.store.store import Store
from harvester.text import number

BLUE: Final = COLOURS["harvested"]
VIOLET: Final = COLOURS["not proven"]
GREEN: Final = COLOURS["clinical mark"]
AMBER: Final = COLOURS["hidden truth"]
RED: Final = COLOURS["hard negative"]
NAMED: Final = {BLUE: "harvested lesion", VIOLET: "proposal that is not proven"}
LesionRow = Mapping[str, Any]
"""A row of a harvest, a ledger or marks."""
Correct = Mapping[tuple[str, str], bool | None]


@dataclass(frozen=True)
class Picture:
    """A lesion and what stands below it. verdict: right, wrong, or empty where nobody knows."""

    volume_id: str
    strip: Strip
    facts: tuple[str, ...]
    verdict: str = ""


class Gallery:
    """Draws lesions with what else is known of their volumes: clinical marks, the harvest, the truth."""

    def __init__(self, store: Store, settings: ReportSettings, harvest: HarvestTable) -> None:
        self._store, self._settings, self._harvest = store, settings, harvest
        truth = store.truth()
        self._marks, self._truth = store.marks(), truth.filter(pc.invert(truth["clinical"]))

    def harvested(self, rows: HarvestTable, correct: Correct, colour: str = BLUE) -> list[Picture]:
        """The best, the last and evenly between by score: a fair sample, best first. VIOLET: of what is not proven."""
        chosen = sample_evenly(rows, self._settings.gallery, best_first(rows))
        return [self._found(row, correct, with_truth=False, colour=colour) for row in chosen]

    def wrong(self, rows: HarvestTable, correct: Correct) -> list[Picture]:
        """Harvested ones that the truth calls wrong, best-scored first, the truth drawn beside them."""
        keys = zip(values(rows["volume_id"]), values(rows["lesion_id"]), strict=True)
        wrong = rows.filter(pa.array([correct.get(key) is False for key in keys], pa.bool_()))
        chosen = wrong.take(best_first(wrong)[: self._settings.gallery // 2]).to_pylist()
        return [self._found(row, correct, with_truth=True) for row in chosen]

    def hard_negatives(self, rows: LedgerTable) -> list[Picture]:
        """The best-scored of some hard negatives, one per volume: one false structure shows in many tubelets."""
        rows = LedgerTable(rows.take(best_first(rows, "label_id")))
        _, firsts = np.unique(np.array(values(rows["volume_id"]), object), return_index=True)
        chosen = rows.take(np.sort(firsts)[: self._settings.gallery // 2]).to_pylist()
        return [self._negative(row) for row in chosen]

    def misses(self, missed: MarkTable) -> list[Picture]:
        """Hidden lesions that were not harvested, evenly over the volumes."""
        ordered = missed.sort_by([("volume_id", "ascending"), ("mark_id", "ascending")])
        chosen = sample_evenly(ordered, self._settings.gallery // 2)
        return [self._picture(row, AMBER, "missed lesion", [row["kind"]] if row["kind"] else []) for row in chosen]

    def marked(self) -> list[Picture]:
        """Clinical marks, evenly over the volumes."""
        ordered = _clinical(self._marks).sort_by([("volume_id", "ascending"), ("mark_id", "ascending")])
        chosen = sample_evenly(ordered, self._settings.gallery // 2)
        return [self._picture(row, GREEN, "clinical mark", []) for row in chosen]

    def _found(self, row: LesionRow, correct: Correct, with_truth: bool, colour: str = BLUE) -> Picture:
        verdict = {True: "right", False: "wrong", None: ""}[correct.get(_key(row))]
        facts = [f"score {number(row['score'])}", f"round {row['round']}"]
        hidden = _outlines(self._truth, row["volume_id"], AMBER, dashed=True) if with_truth else []
        return replace(self._picture(row, colour, NAMED[colour], facts, hidden), verdict=verdict)

    def _negative(self, row: LesionRow) -> Picture:
        facts = [f"LPG score {number(row['score'])}", f"round {row['round']}"]
        return self._picture(row, RED, "hard negative", facts)

    def _picture(
        self, row: LesionRow, colour: str, words: str, facts: Sequence[str], hidden: Sequence[Outline] = ()
    ) -> Picture:
        """The lesion with what else is known near it, and of the truth what is `hidden`."""
        volume_id, subject = row["volume_id"], outline(row, colour)
        (depth,) = values(rows_where(self._store.manifest, "volume_id", volume_id)["depth"])
        known = _clinical(rows_where(self._marks, "volume_id", volume_id))
        near = [*_outlines(known, volume_id, GREEN), *_outlines(self._harvest, volume_id, BLUE)]
        others = [*(other for other in near if other.boxes_xyxy_px != subject.boxes_xyxy_px), *hidden]
        shown = slices_to_show(list(subject.boxes_xyxy_px), depth, self._settings.slices_per_picture)
        slab = self._store.read(volume_id, shown[0], shown[-1] + 1)
        return _drawn(slab, shown, depth, subject, others, words, facts)


def outline(row: LesionRow, colour: str, dashed: bool = False) -> Outline:
    """The boxes of a row of HARVEST (x1_px ...), LEDGER (lists) or MARKS (single values)."""
    values = [row.get(f"{side}_px", row.get(side)) for side in ("z", *SIDES)]
    lists = [value if isinstance(value, list) else [value] for value in values]
    boxes = {int(z): (x1, y1, x2, y2) for z, x1, y1, x2, y2 in zip(*lists, strict=True)}
    return Outline(boxes, colour, dashed)


def first_look(loaded: Sequence[LoadedVolume], settings: ReportSettings) -> list[Picture]:
    """The first mark of each of some volumes that are in no store yet."""
    pictures = []
    for each in loaded:
        marks = [mark for mark in each.marks if mark.clinical]
        if marks:
            subject, *others = (outline(asdict(mark), GREEN) for mark in marks)
            depth = len(each.volume.hu_zyx)
            shown = slices_to_show(list(subject.boxes_xyxy_px), depth, settings.slices_per_picture)
            slab = replace(each.volume, hu_zyx=each.volume.hu_zyx[shown[0] : shown[-1] + 1])
            pictures.append(_drawn(slab, shown, depth, subject, others, "clinical mark", []))
    return pictures


def _drawn(
    slab: Volume,
    shown: Sequence[int],
    depth: int,
    subject: Outline,
    others: Sequence[Outline],
    words: str,
    facts: Sequence[str],
) -> Picture:
    """Some slices, of which `slab` starts at the first."""
    view = strip(slab, shown, subject, others, f"{words} in {slab.volume_id}")
    return Picture(slab.volume_id, view, (f"{_range(list(subject.boxes_xyxy_px))} of {depth}", *facts))


def best_first(rows: pa.Table, name: str = "lesion_id") -> "pa.Array[Any]":
    """Where the rows are by score, ties by volume and then by what names them in it. Of a long table none is copied."""
    return pc.sort_indices(rows, [("score", "descending"), ("volume_id", "ascending"), (name, "ascending")])


def sample_evenly(rows: pa.Table, wanted: int, order: "pa.Array[Any] | None" = None) -> list[LesionRow]:
    """`wanted` rows evenly from first to last, in their order or another; all where there are fewer, none where none is
    wanted."""
    if wanted <= 0:
        return []
    places = pa.array(np.round(np.linspace(0, len(rows) - 1, min(wanted, len(rows)))), pa.int64())
    return list(rows.take(places if order is None else order.take(places)).to_pylist())


def _outlines(table: AnyTable, volume_id: str, colour: str, dashed: bool = False) -> list[Outline]:
    """Of a table's rows in one volume."""
    return [outline(row, colour, dashed) for row in rows_where(table, "volume_id", volume_id).to_pylist()]


def _clinical(marks: MarkTable) -> MarkTable:
    return MarkTable(marks.filter(marks["clinical"]))


def _key(row: LesionRow) -> tuple[str, str]:
    return row["volume_id"], row["lesion_id"]


def _range(slices: Sequence[int]) -> str:
    low, high = min(slices), max(slices)
    return f"slice {low}" if low == high else f"slices {low}–{high}"
