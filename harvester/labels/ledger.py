"""The ledger: every label with its origin."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa

from harvester.errors import LabelError
from harvester.geometry import Array
from harvester.records import (
    LEDGER,
    SIDES,
    AcceptedTable,
    IgnoreTable,
    LedgerTable,
    ManifestTable,
    MarkTable,
    ReviewedTable,
    Role,
    SelectedTable,
    Source,
    rows_where,
)

NEAR: Final = 0.25
"""A mark on one slice holds on slices within this share of its short side (paper.md)."""
UNSURE: Final = 0.75
"""From there to this share the lesion may or may not still be there: neither lesion nor background."""
OLD_CALIBRATION: Final = "rehearsed"
"""The role `calibration` in stores that were reviewed before version 0.2."""


def from_marks(marks: MarkTable) -> LedgerTable:
    """The archive's own marks as the ledger's first rows: one slice each, round -1."""
    return _table(
        {
            "volume_id": mark["volume_id"],
            "label_id": mark["mark_id"],
            "role": Role.LESION,
            "source": Source.CLINICAL if mark["clinical"] else Source.ANNOTATED,
            "round": -1,
            "z": [mark["z"]],
            **{side: [mark[side]] for side in SIDES},
        }
        for mark in marks.to_pylist()
    )


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
    rows = zip(ledger["role"].to_pylist(), ledger["source"].to_pylist(), strict=True)
    kept = [role == Role.LESION or (source == Source.REVIEWED and role != Role.CALIBRATION) for role, source in rows]
    return ledger.filter(pa.array(kept, pa.bool_()))


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
    likely = [None] * len(tubelets) if probabilities is None else probabilities.tolist()
    return _table(
        {
            "volume_id": row["volume_id"],
            "label_id": f"{source}-{round_index}-{row['tubelet_id']}",
            "role": role,
            "source": source,
            "round": round_index,
            "score": row["score"],
            "probability": probability,
            "model_hash": model_hash,
            "run_id": run_id,
            **{name: row[name] for name in ("z", *SIDES)},
        }
        for row, probability in zip(tubelets.to_pylist(), likely, strict=True)
    )


def extrude_marks(labels: LedgerTable, manifest: ManifestTable) -> LedgerTable:
    """The labels with every one-slice box on all slices where its lesion may still show (UNSURE).

    What touches a label is asked of these: a piece of a marked lesion beside its key slice is neither a find nor a
    false one.
    """
    volumes = {row["volume_id"]: row for row in manifest.to_pylist()}
    strange = sorted({row["volume_id"] for row in labels.to_pylist()} - volumes.keys())
    if strange:
        raise LabelError(f"labels name {len(strange)} volumes that the manifest does not know: {strange[:3]}")
    return _table(_extruded(row, volumes[row["volume_id"]]) for row in labels.to_pylist())


def _extruded(row: dict[str, Any], volume: Mapping[str, Any]) -> dict[str, Any]:
    if len(row["z"]) != 1:
        return row
    width_mm = (row["x2"][0] - row["x1"][0] + 1) * volume["spacing_x_mm"]
    height_mm = (row["y2"][0] - row["y1"][0] + 1) * volume["spacing_y_mm"]
    reach = int(np.ceil(UNSURE * min(width_mm, height_mm) / volume["spacing_z_mm"]))
    z = [at for at in range(row["z"][0] - reach, row["z"][0] + reach + 1) if 0 <= at < volume["depth"]]
    return row | {"z": z, **{side: row[side] * len(z) for side in SIDES}}


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
    keys: list[tuple[str, Any]] = [(name, "ascending") for name in ("volume_id", "role", "source", "label_id")]
    return LedgerTable(pa.concat_tables([ledger, *found]).sort_by(keys).combine_chunks())


def _table(rows: Iterable[dict[str, Any]]) -> LedgerTable:
    return LedgerTable(pa.Table.from_pylist(list(rows), LEDGER))


def by_volume(table: pa.Table) -> dict[str, list[dict[str, Any]]]:
    """Rows of any table that has a volume_id, grouped by it."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        groups.setdefault(row["volume_id"], []).append(row)
    return groups
