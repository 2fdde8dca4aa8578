"""Which volumes miss the most annotations: what the engine believes, from the harvest and from what it left.

A score is turned into a probability on V_M (mining/probability.py). A volume then misses its harvested lesions, plus
what its other tubelets add up to. That is unknown, not 0, of a volume that was left out, and of all where V_M taught
nothing.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from harvester.certificate.selection import SelectedPoint
from harvester.columns import joined
from harvester.labels.ledger import from_tubelets
from harvester.mining.candidates import candidates, split_of
from harvester.mining.fusion import select
from harvester.mining.probability import probabilities
from harvester.mining.round_view import RoundView
from harvester.records import (
    MISSING,
    PARTLY_MARKED,
    AcceptedTable,
    ManifestTable,
    MarkTable,
    MissingTable,
    Role,
    SelectedTable,
    Source,
    values,
)

NOTHING: Final[Mapping[str, str]] = {}
UNSCORED: Final = "nothing was scored"


def expected_missing(
    view: RoundView, selected: SelectedPoint, harvested: SelectedTable, left_out: Mapping[str, str] | None
) -> MissingTable:
    """V_H's volumes by how many lesions they miss: those harvested, and those that the last round leaves unproven.

    left_out: why the round left out volumes, by id; None: nothing was scored.
    """
    fusion = selected.choice
    calibration = view.accepted(fusion, 0.0)
    names = _names(harvested)  # every task is sent them

    def of_part(part: RoundView) -> MissingTable:
        every = select(part.harvestable, fusion, 0.0)
        mine = SelectedTable(every.filter(pc.is_in(_names(every), names)))
        labels = from_tubelets(mine, Role.LESION, Source.HARVESTED, 0, "", "")
        left = candidates(every, labels, part.settings.mining)
        reasons = left_out
        if reasons is None:
            reasons = dict.fromkeys(values(part.store.manifest["volume_id"]), UNSCORED)
        return rank_volumes(part.store.manifest, part.store.marks, mine, left, calibration, reasons)

    return MissingTable(pa.concat_tables(view.over_vh(of_part)).sort_by(ORDER).combine_chunks())


def _names(tubelets: SelectedTable) -> "pa.Array[Any]":
    """Of each tubelet a text that is its own."""
    return joined(" ", tubelets["volume_id"], tubelets["tubelet_id"])


ORDER: Final[list[tuple[str, Any]]] = [("expected_missing", "descending"), ("volume_id", "ascending")]


def rank_volumes(
    manifest: ManifestTable,
    marks: MarkTable,
    harvest: SelectedTable,
    left: SelectedTable,
    calibration: AcceptedTable,
    left_out: Mapping[str, str] = NOTHING,
) -> MissingTable:
    """One row per volume of V_H, the most missing first, what is unknown last; ties by id.

    marks        the clinical ones are counted
    harvest      harvested lesions, counted
    left         the volumes' tubelets that are neither a marked nor a harvested lesion, with `score` in 0..1
    calibration  V_M's candidates with `score`, and whether each is right: if none is, it teaches nothing
    left_out     why volumes were left out, by id
    """
    taught = any(values(calibration["correct"]))
    likely = left.append_column("probability", pa.array(probabilities(calibration, left)))
    grouped = likely.group_by("volume_id").aggregate([("probability", "sum"), ("probability", "max")])
    expected = {row["volume_id"]: row for row in grouped.to_pylist()}
    marked = Counter(marks.filter(marks["clinical"])["volume_id"].to_pylist())
    harvested = Counter(harvest["volume_id"].to_pylist())
    rows = []
    for volume in split_of(manifest, manifest, *PARTLY_MARKED).to_pylist():
        name = volume["volume_id"]
        more = expected.get(name, {"probability_sum": 0.0, "probability_max": None})
        row = volume | {"marked": marked[name], "harvested": harvested[name], "left_out": left_out.get(name)}
        if taught and name not in left_out:
            row |= {"expected_more": more["probability_sum"], "best_left": more["probability_max"]}
            row |= {"expected_missing": harvested[name] + more["probability_sum"]}
        rows.append(row)
    return MissingTable(pa.Table.from_pylist(rows, MISSING).sort_by(ORDER))
