"""What tests are made of: tubelets, marks, ledgers, manifests, pairs that overlap, and small stores.

A volume's patient is p-<volume_id>. Boxes are (x1, y1, x2, y2), both ends inclusive.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harvester.config.fingerprint import settings_hash
from harvester.config.settings import Settings
from harvester.evaluation.matching import Overlaps
from harvester.labels.ledger import from_marks
from harvester.mining.bank import pool
from harvester.records import (
    LEDGER,
    MANIFEST,
    MARKS,
    REVIEWED,
    SCORED,
    SELECTED,
    SIDES,
    Box,
    LedgerTable,
    ManifestTable,
    Mark,
    MarkTable,
    PooledTable,
    ReviewedTable,
    ScoredTable,
    SelectedTable,
    Split,
    Volume,
)
from harvester.storage.location import Location
from harvester.store.container import open_shard
from harvester.store.store import Store, finish_store
from harvester.weights.starting import CARD, STAGES, networks_of

Hu = NDArray[np.int16]
SPACING = (4.0, 1.0, 1.0)
NO_HU: Hu = np.zeros((9, 8, 8), np.int16)


def sides(box: Box) -> dict[str, float]:
    """A box as the four columns of a row of marks."""
    return dict(zip(SIDES, map(float, box), strict=True))


def boxes(by_slice: Mapping[int, Box]) -> dict[str, list[Any]]:
    """Boxes by slice as the five lists of a row: z and the four sides."""
    columns = {side: [float(box[at]) for box in by_slice.values()] for at, side in enumerate(SIDES)}
    return {"z": list(by_slice), **columns}


def tubelet(
    volume_id: str, box: Box | Mapping[int, Box], z: Sequence[int] = (4, 5, 6), **columns: Any
) -> dict[str, Any]:
    """A row of a tubelet, with all columns that tubelets get on their way: one box on all of `z`, or one by slice.

    `columns` replace those made here: lpg_score, lpc_score and score of 0.5, a width of 30 mm, id 0.
    """
    by_slice = box if isinstance(box, Mapping) else dict.fromkeys(z, box)
    lpg = columns.get("lpg_score", 0.5)
    row = {"volume_id": volume_id, "patient_id": f"p-{volume_id}", "tubelet_id": 0, "width_mm": 30.0}
    row |= {"lpg_score": lpg, "lpc_score": 0.5, "score": 0.5, "slice_score": [lpg] * len(by_slice)}
    return row | boxes(by_slice) | columns


def scored(*rows: Mapping[str, Any]) -> ScoredTable:
    """Rows of `tubelet` as a table, their ids counted from 0."""
    return ScoredTable(pa.Table.from_pylist(_counted(rows), SCORED))


def pooled(*rows: Mapping[str, Any]) -> PooledTable:
    """The same as the tubelets of a first round."""
    return pool([scored(*rows)])


def selected(*rows: Mapping[str, Any]) -> SelectedTable:
    """The same with their fused score."""
    return SelectedTable(pa.Table.from_pylist(_counted(rows), SELECTED))


def _counted(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "tubelet_id": number} for number, row in enumerate(rows)]


def mark(volume_id: str, box: Box, clinical: bool = True, z: int = 5, mark_id: str = "") -> Mark:
    """A mark; without an id it is named by its place."""
    return Mark(volume_id, mark_id or f"{volume_id}-{z}-{box[0]:g}", z, *box, clinical=clinical)


def marks(*given: Mark) -> MarkTable:
    """Marks as a table."""
    return MarkTable(pa.Table.from_pylist([asdict(one) for one in given], MARKS))


def ledger(*given: Mark) -> LedgerTable:
    """The ledger that a run with these marks begins with."""
    return LedgerTable(from_marks(marks(*given)))


def label(volume_id: str, box: Box, role: str, z: Sequence[int] = (5,), **columns: Any) -> dict[str, Any]:
    """A row of a ledger or of what was reviewed: one box on all of `z`."""
    row = {"volume_id": volume_id, "label_id": f"{role}-{box[0]:g}", "role": role, "source": "reviewed"}
    row |= {"round": -1, "verdict": "accepted"}
    return row | boxes(dict.fromkeys(z, box)) | columns


def labels(*rows: Mapping[str, Any]) -> LedgerTable:
    """Rows of `label` as a ledger."""
    return LedgerTable(pa.Table.from_pylist(list(rows), LEDGER))


def reviewed(*rows: Mapping[str, Any]) -> ReviewedTable:
    """Rows of `label` as what people said of them."""
    return ReviewedTable(pa.Table.from_pylist(list(rows), REVIEWED))


def manifest(
    splits: Mapping[str, str],
    shape_zyx: tuple[int, int, int] = (12, 128, 128),
    spacing_zyx_mm: tuple[float, float, float] = SPACING,
) -> ManifestTable:
    """Volumes of one shape by id and split; where they lie stays empty."""
    size = dict(zip(("depth", "height", "width"), shape_zyx, strict=True))
    spacing = {f"spacing_{axis}_mm": mm for axis, mm in zip("zyx", spacing_zyx_mm, strict=True)}
    rows = [
        {"volume_id": name, "patient_id": f"p-{name}", "split": split, **size, **spacing}
        for name, split in splits.items()
    ]
    return ManifestTable(pa.Table.from_pylist(rows, MANIFEST))


def write_volume(store: Location | Path | str, volume: Volume, split: Split, source_hash: str) -> dict[str, Any]:
    """One volume as a shard of its own; gives its manifest row."""
    name = f"v{settings_hash(volume.volume_id)}.shard"
    with open_shard(Location.of(store) / "shards" / name) as shard:
        return shard.add(volume, split, source_hash)


def made_store(
    folder: Path,
    splits: Mapping[str, str],
    known: Iterable[Mark] = (),
    truth: Iterable[Mark] = (),
    hu: Hu | Mapping[str, Hu] = NO_HU,
    spacing_zyx_mm: tuple[float, float, float] = SPACING,
) -> Store:
    """A store of volumes by id and split: all of one content, or of one by id."""
    rows = []
    for name, split in splits.items():
        own = hu[name] if isinstance(hu, Mapping) else hu
        volume = Volume(name, f"p-{name}", own.astype(np.int16), spacing_zyx_mm)
        rows.append(write_volume(folder, volume, Split(split), name))
    return finish_store(folder, rows, known, truth)


def overlapping(*pairs: tuple[int, int, float]) -> Overlaps:
    """Pairs of a detection's row, a mark's row and their overlap; in the order of Overlaps."""
    rows, of_mark, iou = zip(*pairs, strict=True) if pairs else ((), (), ())
    return Overlaps(np.array(rows, np.int64), np.array(of_mark, np.int64), np.array(iou, np.float64))


def starting_weights_in(folder: Path, folds: int, **changed: Any) -> Path:
    """Starting weights that hold no weights: a file for each fold and one of all patients, and their card."""
    folder.mkdir()
    files = {}
    for stage in STAGES:
        for name in (stage, *(f"{stage}-{fold}" for fold in range(folds))):
            (folder / f"{name}.safetensors").write_bytes(name.encode())
            files[f"{name}.safetensors"] = hashlib.sha256(name.encode()).hexdigest()
    card = {
        "harvester": "0", "networks": json.loads(json.dumps(networks_of(Settings()))), "folds": folds, "patients": {},
        "scans": {}, "files": files, "seed": 0, "steps": {"generator": 1}, "volumes": 4, "seconds": 1.0, "figures": {},
    }  # fmt: skip
    (folder / CARD).write_text(json.dumps(card | changed))
    return folder
