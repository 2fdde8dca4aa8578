"""The ledger: every label with its origin."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.columns import in_order, joined
from harvester.errors import LabelError
from harvester.geometry import Array
from harvester.list_columns import Lists, lists, one_each
from harvester.records import (
    LEDGER,
    SIDES,
    AcceptedTable,
    Column,
    IgnoreTable,
    LedgerTable,
    ManifestTable,
    MarkTable,
    ReviewedTable,
    Role,
    SelectedTable,
    Source,
    rows_where,
    values,
)

NEAR: Final = 0.25
"""A mark on one slice holds on slices within this share of its short side (paper.md)."""
UNSURE: Final = 0.75
"""From there to this share the lesion may or may not still be there: neither lesion nor background."""
OLD_CALIBRATION: Final = "rehearsed"
"""The role `calibration` in stores that were reviewed before version 0.2."""


def from_marks(marks: MarkTable) -> LedgerTable:
    """The archive's own marks as the ledger's first rows: one slice each, round -1."""
    boxes = {name: one_each(marks[name]) for name in ("z", *SIDES)}
    source = pc.if_else(marks["clinical"], str(Source.CLINICAL), str(Source.ANNOTATED))
    given = {"volume_id": marks["volume_id"], "label_id": marks["mark_id"], "source": source, **boxes}
    return _filled(len(marks), {"role": str(Role.LESION), "round": -1}, given)


def from_reviewed(reviewed: ReviewedTable) -> LedgerTable:
    """What people said of earlier finds as ledger rows: known before round 0, so round -1."""
    return _table(
        row | {"round": -1, "role": Role.CALIBRATION if row["role"] == OLD_CALIBRATION else row["role"]}
        for row in reviewed.to_pylist()
    )


def initial_ledger(marks: MarkTable, reviewed: ReviewedTable) -> LedgerTable:
    """The ledger that a run begins with: the archive's marks, then what people reviewed."""
    return LedgerTable(pa.concat_tables([from_marks(marks), from_reviewed(reviewed)]).combine_chunks())


def persistent(ledger: LedgerTable) -> LedgerTable:
    """What stays from round to round: what archive and reviewers say. What a round mined is mined anew."""
    return rows_where(ledger, "source", Source.CLINICAL, Source.ANNOTATED, Source.REVIEWED)


def exclusion_labels(ledger: LedgerTable) -> LedgerTable:
    """Where nothing is mined: lesions, and what people reviewed, whatever they said of it."""
    role, source = (ledger[name].to_numpy().astype(str) for name in ("role", "source"))
    reviewed = (source == Source.REVIEWED) & (role != Role.CALIBRATION)
    return ledger.filter(pa.array((role == Role.LESION) | reviewed))


def from_tubelets(
    tubelets: SelectedTable | AcceptedTable,
    role: Role,
    source: Source,
    round_index: int,
    model_hash: str,
    run_id: str,
    probabilities: Array | None = None,
) -> LedgerTable:
    """Mined tubelets as ledger rows, one per tubelet, with their origin, and that each is a lesion, where known."""
    given: dict[str, Any] = {name: tubelets[name] for name in ("volume_id", "score", "z", *SIDES)}
    given["label_id"] = label_ids(source, str(round_index), tubelets["tubelet_id"])
    if probabilities is not None:
        given["probability"] = pa.array(probabilities, pa.float64())
    origin = {"role": str(role), "source": str(source), "round": round_index, "model_hash": model_hash}
    return _filled(len(tubelets), origin | {"run_id": run_id}, given)


def label_ids(source: Source, rounds: "str | Column", tubelet_ids: Column) -> "pa.Array[Any]":
    """What a mined tubelet is called, in the ledger as in the harvest: unique in its volume."""
    return joined("-", str(source), rounds, tubelet_ids)


def extrude_marks(labels: LedgerTable, manifest: ManifestTable) -> LedgerTable:
    """The labels with every one-slice box on all slices where its lesion may still show (UNSURE).

    What touches a label is asked of these: a piece of a marked lesion beside its key slice is neither a find nor a
    false one.
    """
    known = pc.index_in(labels["volume_id"], manifest["volume_id"].combine_chunks())
    if known.null_count:
        strange = sorted(set(values(labels.filter(pc.is_null(known))["volume_id"])))
        raise LabelError(f"labels name {len(strange)} volumes that the manifest does not know: {strange[:3]}")
    own = manifest.select(["depth", *(f"spacing_{axis}_mm" for axis in "zyx")]).take(known)
    depth, z_mm, y_mm, x_mm = (column.to_numpy() for column in own.columns)
    z, *sides = (Lists.of(labels[name]) for name in ("z", *SIDES))
    x1, y1, x2, y2 = (side.first() for side in sides)
    reach = np.ceil(UNSURE * np.minimum((x2 - x1 + 1) * x_mm, (y2 - y1 + 1) * y_mm) / z_mm).astype(np.int64)
    single, key = z.lengths == 1, z.first().astype(np.int64)
    low, high = np.maximum(key - reach, 0), np.minimum(key + reach, depth - 1)
    lengths = np.where(single, np.maximum(high - low + 1, 0), z.lengths)
    row = np.repeat(np.arange(len(labels)), lengths)
    place = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    source = z.starts[row] + np.where(single[row], 0, place)
    shown = np.where(single[row], low[row] + place, z.values[source])
    columns: dict[str, Any] = dict(zip(labels.column_names, labels.columns, strict=True))
    columns["z"] = lists(shown, lengths, pa.int32())
    for name, side in zip(SIDES, sides, strict=True):
        columns[name] = lists(side.values[source], lengths, pa.float64())
    return LedgerTable(pa.table(columns, schema=LEDGER))


def from_ignored(regions: IgnoreTable) -> LedgerTable:
    """Regions left out as rows of role `ignored`, one box per slice: what training must not judge."""
    return _table(
        {
            "volume_id": region["volume_id"],
            "label_id": f"ignored-{index}",
            "role": Role.IGNORED,
            "source": Source.IGNORED,
            "round": -1,
            "z": list(range(region["z1"], region["z2"] + 1)),
            **{side: [region[side]] * (region["z2"] - region["z1"] + 1) for side in SIDES},
        }
        for index, region in enumerate(regions.to_pylist())
    )


def extend(ledger: LedgerTable, *found: LedgerTable) -> LedgerTable:
    """The ledger with new rows, sorted so that the same labels make the same table."""
    return LedgerTable(in_order(pa.concat_tables([ledger, *found]), "volume_id", "role", "source", "label_id"))


def _filled(count: int, alike: Mapping[str, Any], given: Mapping[str, Any]) -> LedgerTable:
    """A ledger of so many rows: columns that are given, those that are alike in all rows, nulls."""
    columns = [
        given[field.name].cast(field.type)
        if field.name in given
        else pa.repeat(pa.scalar(alike.get(field.name), field.type), count)
        for field in LEDGER
    ]
    return LedgerTable(pa.table(columns, schema=LEDGER))


def _table(rows: Iterable[dict[str, Any]]) -> LedgerTable:
    return LedgerTable(pa.Table.from_pylist(list(rows), LEDGER))


def by_volume(table: pa.Table) -> dict[str, list[dict[str, Any]]]:
    """Rows of any table that has a volume_id, grouped by it."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        groups.setdefault(row["volume_id"], []).append(row)
    return groups
