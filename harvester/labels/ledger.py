"""The ledger: every label with its origin, and the folds that keep patients apart."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.errors import LabelError
from harvester.records import LEDGER

BOX: Final = ("x1", "y1", "x2", "y2")

NEAR: Final = 0.25
"""A mark on one slice holds on slices within this share of its short side (paper.md)."""
UNSURE: Final = 0.75
"""From there to this share the lesion may or may not still be there: neither lesion nor background."""


def from_marks(marks: pa.Table) -> pa.Table:
    """The archive's own marks (records.MARKS) as the ledger's first rows: one slice each, round -1."""
    rows = [
        {
            "volume_id": mark["volume_id"],
            "label_id": mark["mark_id"],
            "role": "lesion",
            "source": "clinical" if mark["clinical"] else "annotated",
            "round": -1,
            "z": [mark["z"]],
            **{side: [mark[side]] for side in BOX},
        }
        for mark in marks.to_pylist()
    ]
    return pa.Table.from_pylist(rows, LEDGER)


def from_reviewed(reviewed: pa.Table) -> pa.Table:
    """What people said of earlier finds (records.REVIEWED) as ledger rows: known before round 0, so round -1."""
    known = reviewed.select(LEDGER.names).cast(LEDGER)
    rounds = pa.array(np.full(len(known), -1), pa.int32())
    return known.set_column(LEDGER.get_field_index("round"), LEDGER.field("round"), rounds)


def known_before(marks: pa.Table, reviewed: pa.Table) -> pa.Table:
    """The ledger that a run begins with: the archive's marks (records.MARKS), then what people reviewed."""
    return pa.concat_tables([from_marks(marks), from_reviewed(reviewed)]).combine_chunks()


def lasting(ledger: pa.Table) -> pa.Table:
    """What stays from round to round: lesions, and everything that people reviewed. Mined negatives do not."""
    return ledger.filter(pc.or_(pc.equal(ledger["role"], "lesion"), pc.equal(ledger["source"], "reviewed")))


def settled(ledger: pa.Table) -> pa.Table:
    """Where nothing is mined any more: lesions, and what people reviewed, whatever they said of it."""
    kept = lasting(ledger)
    return kept.filter(pc.not_equal(kept["role"], "rehearsed"))


def from_tubelets(
    tubelets: pa.Table, role: str, source: str, round_index: int, model_hash: str, run_id: str
) -> pa.Table:
    """Mined tubelets (with a `score` column) as ledger rows, one each, with their origin."""
    rows = [
        {
            "volume_id": row["volume_id"],
            "label_id": f"{source}-{round_index}-{row['tubelet_id']}",
            "role": role,
            "source": source,
            "round": round_index,
            "score": row["score"],
            "model_hash": model_hash,
            "run_id": run_id,
            **{name: row[name] for name in ("z", *BOX)},
        }
        for row in tubelets.to_pylist()
    ]
    return pa.Table.from_pylist(rows, LEDGER)


def spread(labels: pa.Table, manifest: pa.Table) -> pa.Table:
    """The labels with every one-slice box on all slices where its lesion may still show (UNSURE).

    What touches a label is asked of these: a piece of a marked lesion beside its key slice is neither a find nor a
    false one.
    """
    volumes = {row["volume_id"]: row for row in manifest.to_pylist()}
    strange = sorted(set(labels["volume_id"].to_pylist()) - volumes.keys())
    if strange:
        raise LabelError(f"labels name {len(strange)} volumes that the manifest does not know: {strange[:3]}")
    return pa.Table.from_pylist(
        [_spread(row, volumes[row["volume_id"]]) for row in labels.to_pylist()], LEDGER
    )


def _spread(row: dict[str, Any], volume: Mapping[str, Any]) -> dict[str, Any]:
    if len(row["z"]) != 1:
        return row
    width_mm = (row["x2"][0] - row["x1"][0] + 1) * volume["spacing_x_mm"]
    height_mm = (row["y2"][0] - row["y1"][0] + 1) * volume["spacing_y_mm"]
    reach = int(np.ceil(UNSURE * min(width_mm, height_mm) / volume["spacing_z_mm"]))
    z = [at for at in range(row["z"][0] - reach, row["z"][0] + reach + 1) if 0 <= at < volume["depth"]]
    return row | {"z": z, **{side: row[side] * len(z) for side in BOX}}


def from_ignored(regions: pa.Table) -> pa.Table:
    """Regions left out (records.IGNORE) as rows of role `ignored`, one box a slice: what training must not judge."""
    rows = [
        {
            "volume_id": region["volume_id"],
            "label_id": f"ignored-{index}",
            "role": "ignored",
            "source": "ignored",
            "round": -1,
            "z": list(range(region["z1"], region["z2"] + 1)),
            **{side: [region[side]] * (region["z2"] - region["z1"] + 1) for side in BOX},
        }
        for index, region in enumerate(regions.to_pylist())
    ]
    return pa.Table.from_pylist(rows, LEDGER)


def extend(ledger: pa.Table, *found: pa.Table) -> pa.Table:
    """The ledger with new rows, sorted so that the same labels make the same table."""
    keys: list[tuple[str, Any]] = [
        (name, "ascending") for name in ("volume_id", "role", "source", "label_id")
    ]
    return pa.concat_tables([ledger, *found]).sort_by(keys).combine_chunks()


def with_role(ledger: pa.Table, role: str) -> pa.Table:
    """The ledger's rows of one role."""
    return ledger.filter(pc.equal(ledger["role"], role))


def by_volume(table: pa.Table) -> dict[str, list[dict[str, Any]]]:
    """Rows of any table that has a volume_id, grouped by it."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        groups.setdefault(row["volume_id"], []).append(row)
    return groups
