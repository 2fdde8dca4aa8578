"""What people said of exported labels, as labels of their own: accepted, rejected or moved, with source `reviewed`.

An accepted or moved lesion is a lesion of every later run from round 0 on, a rejected one a sure hard negative; where
one was moved from, nothing is learnt. Nothing that touches them is harvested or mined again.

What of V_H is known then is not found again, so its like in V_M must not vouch for what is left: as large a share of
what the reviewed run accepted in V_M is left out of later calibration sets (role `calibration`). Best score first where
people reviewed so, as of an export; at random where the order was drawn, as in an audit.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from harvester.errors import LabelError
from harvester.labels.ledger import OLD_CALIBRATION
from harvester.records import REVIEWED, SIDES, AcceptedTable, ManifestTable, Placed, ReviewedTable, Role, Source, values

VERDICTS: Final = ("accepted", "rejected", "moved")
MACHINE_MADE: Final = (Source.HARVESTED, Source.HARD_NEGATIVE_VM, Source.HARD_NEGATIVE_VH)
OTHER_ROLE: Final = {Role.LESION: Role.HARD_NEGATIVE, Role.HARD_NEGATIVE: Role.LESION}
BEFORE: Final = "-before"
"""Ends the id of the place that a label was moved from."""


@dataclass(frozen=True)
class Verdict:
    """One label as it came back.

    where    file and row, for errors
    verdict  one of VERDICTS
    label    volume_id, label_id, role, source, round, score, model_hash, run_id as exported
    found    its boxes as exported: (z, (x1, y1, x2, y2)) in the stored order
    now      its boxes as they came back: other ones if it was moved
    """

    where: str
    verdict: str
    label: Mapping[str, Any]
    found: Sequence[Placed]
    now: Sequence[Placed]


def reviewed_table(verdicts: Sequence[Verdict], manifest: ManifestTable) -> ReviewedTable:
    """The verdicts as rows (records.REVIEWED). Raises LabelError for boxes outside their volume and doubles.

    Accepted marks of the archive are passed over: people made them. To reject or move one is an error.
    """
    volumes = {row["volume_id"]: row for row in manifest.to_pylist()}
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for verdict in verdicts:
        if not _machine_made(verdict):
            continue
        for row in _rows(verdict):
            _check(row, volumes, verdict.where)
            if (row["volume_id"], row["label_id"]) in rows:
                raise LabelError(f"{verdict.where}: its label_id has a verdict already; want one per label")
            rows[row["volume_id"], row["label_id"]] = row
    return ReviewedTable(pa.Table.from_pylist(list(rows.values()), REVIEWED))


def merged(before: ReviewedTable, new: ReviewedTable) -> ReviewedTable:
    """Earlier verdicts and new ones; of two on one label the new one."""
    again = {(row["volume_id"], _base(row["label_id"])) for row in new.to_pylist()}
    kept = [row for row in before.to_pylist() if (row["volume_id"], _base(row["label_id"])) not in again]
    return ReviewedTable(pa.concat_tables([pa.Table.from_pylist(kept, REVIEWED), new]))


def with_calibration(
    reviewed: ReviewedTable, hits: AcceptedTable, harvested: int, run_id: str, drawn: int | None = None
) -> ReviewedTable:
    """With the share of a run's calibration hits that later ones leave out, in place of what the table had of that run.

    hits        what the run accepted in V_M
    harvested   how many lesions it harvested; the share is that of them which have a verdict
    drawn       seed of the order in which they were reviewed, where it was drawn; None: best first
    """
    prefix = f"{Role.CALIBRATION}-{run_id}-"
    ids = reviewed["label_id"].to_pylist()
    old = (prefix, f"{OLD_CALIBRATION}-{run_id}-")
    others = reviewed.filter(pa.array([not str(each).startswith(old) for each in ids], pa.bool_()))
    count = math.ceil(len(hits) * share_reviewed(others, harvested, run_id))
    best = hits.sort_by([("score", "descending"), ("volume_id", "ascending"), ("tubelet_id", "ascending")])
    if drawn is not None:
        best = AcceptedTable(best.take(np.random.default_rng(drawn).permutation(len(best))))
    rows = [
        {
            **{name: row[name] for name in ("volume_id", "score", "z", *SIDES)},
            "label_id": f"{prefix}{number}",
            "role": Role.CALIBRATION,
            "source": Source.REVIEWED,
            "round": -1,
            "run_id": run_id,
        }
        for number, row in enumerate(best.slice(0, count).to_pylist())
    ]
    return ReviewedTable(pa.concat_tables([others, pa.Table.from_pylist(rows, REVIEWED)]))


def share_reviewed(reviewed: ReviewedTable, harvested: int, run_id: str) -> float:
    """Share of a run's harvested lesions that have a verdict, 0 to 1; 0 where it harvested none."""
    judged = {
        (volume_id, _base(label_id))
        for volume_id, label_id in zip(values(reviewed["volume_id"]), values(reviewed["label_id"]), strict=True)
        if label_id.startswith(f"reviewed-{run_id}-harvested-")
    }
    return min(1.0, len(judged) / harvested) if harvested else 0.0


def _machine_made(verdict: Verdict) -> bool:
    if verdict.label["source"] in (*MACHINE_MADE, Source.REVIEWED):
        return True
    if verdict.verdict != "accepted":
        raise LabelError(
            f"{verdict.where}: a mark of the archive was {verdict.verdict}; correct it where the archive keeps it and "
            "prepare again"
        )
    return False


def _rows(verdict: Verdict) -> list[dict[str, Any]]:
    label = verdict.label
    again = label["source"] == Source.REVIEWED
    label_id = label["label_id"] if again else f"reviewed-{label['run_id']}-{label['label_id']}"
    role = OTHER_ROLE[label["role"]] if verdict.verdict == "rejected" else label["role"]
    origin = {name: label[name] for name in ("volume_id", "round", "score", "model_hash", "run_id")}
    common = origin | {"source": Source.REVIEWED, "verdict": verdict.verdict}
    rows = [common | {"label_id": label_id, "role": role, **_lists(verdict.now)}]
    if verdict.verdict == "moved":
        rows.append(common | {"label_id": label_id + BEFORE, "role": Role.IGNORED, **_lists(verdict.found)})
    return rows


def _lists(placed: Sequence[Placed]) -> dict[str, Any]:
    ordered = sorted(placed)
    sides = {side: [box[at] for _, box in ordered] for at, side in enumerate(SIDES)}
    return {"z": [z for z, _ in ordered], **sides}


def _check(row: Mapping[str, Any], volumes: Mapping[str, Mapping[str, Any]], where: str) -> None:
    volume = volumes.get(row["volume_id"])
    if volume is None:
        raise LabelError(f"{where}: its volume is not in the store; give the store that was harvested")
    if not row["z"] or len(set(row["z"])) < len(row["z"]):
        raise LabelError(f"{where}: want at least one box, and one per slice")
    for z, x1, y1, x2, y2 in zip(row["z"], *(row[side] for side in SIDES), strict=True):
        inside = -1 <= x1 <= x2 <= volume["width"] and -1 <= y1 <= y2 <= volume["height"]
        if not (inside and 0 <= z < volume["depth"]):
            raise LabelError(
                f"{where}: a box lies outside its volume of {volume['depth']} slices, {volume['height']} rows and "
                f"{volume['width']} columns, or its ends are out of order"
            )


def _base(label_id: str) -> str:
    return label_id.removesuffix(BEFORE)
