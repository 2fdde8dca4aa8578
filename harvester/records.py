"""What the tables hold: one class for a scan, one schema and type per table. Frames and box ends: see geometry.py."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NewType, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from harvester.errors import StoreError, VolumeError


class Split(StrEnum):
    """Which set a volume belongs to.

    vm       every lesion is marked: the mining set V_M
    vh       partly marked, to be harvested: V_H
    vh_test  the same, with a hidden truth used for nothing but scoring: V_H^test
    vd_test  fully annotated, never seen while harvesting: V_D^test
    """

    VM = "vm"
    VH = "vh"
    VH_TEST = "vh_test"
    VD_TEST = "vd_test"


class Role(StrEnum):
    """What a label says of its place. See LEDGER and REVIEWED."""

    LESION = "lesion"
    HARD_NEGATIVE = "hard_negative"
    IGNORED = "ignored"
    CALIBRATION = "calibration"


class Source(StrEnum):
    """Where a label comes from. See LEDGER.

    clinical and annotated are the archive's own; hard_negative_vm are the sure ones, hard_negative_vh the possible;
    likely ones were not harvested and teach with their probability (RoundView.likely); left_for_review reached the
    threshold and was not harvested (mining/limits.py).
    """

    CLINICAL = "clinical"
    ANNOTATED = "annotated"
    HARVESTED = "harvested"
    LIKELY = "likely"
    REVIEWED = "reviewed"
    HARD_NEGATIVE_VM = "hard_negative_vm"
    HARD_NEGATIVE_VH = "hard_negative_vh"
    LEFT_FOR_REVIEW = "left_for_review"
    IGNORED = "ignored"
    CALIBRATION = "calibration"


SPLITS: Final = tuple(Split)
PARTLY_MARKED: Final = (Split.VH, Split.VH_TEST)
"""What is harvested."""
MINED: Final = (Split.VM, *PARTLY_MARKED)
"""All but V_D^test, which is for detectors trained on the harvest: nothing of a harvest may look at it."""
SIDES: Final = ("x1", "y1", "x2", "y2")
"""The columns of a box: pixel indices, both ends inclusive."""
Box = tuple[float, float, float, float]
"""The same as a value."""
Placed = tuple[int, Box]
"""A slice and a box on it."""


@dataclass(frozen=True, eq=False)
class Volume:
    """One CT (sub-)volume, valid once built.

    hu_zyx          int16 (depth, height, width) in Hounsfield units, at least one voxel on each axis
    spacing_zyx_mm  three positive finite distances between voxel centres
    patient_id      splits, folds and intervals go by it; for inserted lesions the background's patient
    """

    volume_id: str
    patient_id: str
    hu_zyx: NDArray[np.int16]
    spacing_zyx_mm: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.hu_zyx.dtype != np.int16 or self.hu_zyx.ndim != 3 or self.hu_zyx.size == 0:
            found = f"{self.hu_zyx.dtype} {self.hu_zyx.shape}"
            raise VolumeError("bad_array", f"volume {self.volume_id}: want int16 (z, y, x) HU, got {found}")
        if len(self.spacing_zyx_mm) != 3 or not all(np.isfinite(s) and s > 0 for s in self.spacing_zyx_mm):
            raise VolumeError(
                "bad_spacing", f"volume {self.volume_id}: spacing {self.spacing_zyx_mm} mm; want three positive numbers"
            )
        if not self.volume_id or not self.patient_id:
            raise VolumeError("bad_id", "a volume needs a volume_id and a patient_id that are not empty")


@dataclass(frozen=True)
class Mark:
    """One lesion as a box on its key slice: inclusive pixel ends in the volume's own grid.

    clinical    True if the archive carries the mark; False for one that only full annotation shows
    kind        free text ("nodule", "node", "hypodense", ...), "" where unknown
    """

    volume_id: str
    mark_id: str
    z: int
    x1: float
    y1: float
    x2: float
    y2: float
    clinical: bool
    kind: str = ""


def schema_of(*columns: tuple[str, pa.DataType]) -> pa.Schema:
    """The schema of a table with these columns."""
    return pa.schema(columns)


def _of(kind: pa.DataType, *names: str) -> list[tuple[str, pa.DataType]]:
    """Columns of one type."""
    return [(name, kind) for name in names]


TEXT: Final = pa.string()
NUMBER: Final = pa.float64()
LISTS: Final = pa.list_(pa.float32())
BOXES: Final = (("z", pa.list_(pa.int32())), *_of(LISTS, *SIDES))
"""Boxes on slices: five lists of one length."""

MANIFEST: Final = schema_of(
    *_of(TEXT, "volume_id", "patient_id", "split"),
    *_of(NUMBER, "spacing_z_mm", "spacing_y_mm", "spacing_x_mm"),
    *_of(pa.int32(), "depth", "height", "width"),
    *_of(TEXT, "source_hash", "voxel_hash", "shard"),
    *_of(pa.int64(), "offset", "bytes", "checksum"),
)
"""One row per stored volume. voxel_hash is of its HU; shard, offset, bytes and checksum say where it lies."""

REJECTS: Final = schema_of(*_of(TEXT, "source_hash", "reason", "message"))
"""One row per scan that was refused, and why."""

MARKS: Final = schema_of(
    *_of(TEXT, "volume_id", "mark_id"),
    ("z", pa.int32()),
    *_of(NUMBER, *SIDES),
    ("clinical", pa.bool_()),
    ("kind", TEXT),
)
"""One row per lesion: the fields of Mark. marks.parquet: all lesions of vm, the clinical ones of vh and vh_test.
truth.parquet: every lesion of vh_test and vd_test, for scoring alone."""

IGNORE: Final = schema_of(("volume_id", TEXT), *_of(pa.int32(), "z1", "z2"), *_of(NUMBER, *SIDES))
"""One row per region that is left out of harvest and scoring, inclusive ends: disease that nobody annotated."""

TUBELETS: Final = schema_of(
    *_of(TEXT, "volume_id", "patient_id"),
    ("tubelet_id", pa.int32()),
    *_of(NUMBER, "lpg_score", "width_mm"),
    *BOXES,
    ("slice_score", LISTS),
)
"""One row per tubelet: a chain of boxes, one per slice, z ascending, in the volume's own pixels; ids count from 0
in each volume. lpg_score is the highest slice score, width_mm the shorter side of that slice's box."""

SCORED: Final = TUBELETS.append(pa.field("lpc_score", NUMBER))
"""Tubelets with the classifier's probability."""

POOLED: Final = schema_of(*((field.name, field.type) for field in SCORED), *_of(NUMBER, "lpg_logit", "lpc_logit"))
"""Scored tubelets with what all rounds say of them (mining/bank.py): the mean logit of each score."""

SELECTED: Final = SCORED.append(pa.field("score", NUMBER))
"""Scored tubelets with the fused score that they were selected by."""

ACCEPTED: Final = SELECTED.append(pa.field("correct", pa.bool_()))
"""A calibration hit: a tubelet of V_M that the rule accepted, its fused score, and whether it found a lesion."""

FINDS: Final = SELECTED.append(pa.field("round", pa.int32())).append(pa.field("find", TEXT))
"""What an audit shows: selected tubelets, their round, and an id that says nothing of them."""

HARVEST: Final = schema_of(
    *_of(TEXT, "volume_id", "patient_id", "lesion_id"),
    ("round", pa.int32()),
    *_of(NUMBER, "score", "lpg_score", "lpc_score", "threshold", "precision_bound"),
    ("z", pa.list_(pa.int32())),
    *_of(LISTS, *(f"{side}_px" for side in SIDES), "z_mm", *(f"{side}_mm" for side in SIDES)),
    *_of(TEXT, "model_hash", "run_id"),
)
"""One row per harvested lesion, with its origin. precision_bound: at the threshold of its round, not corrected for the
search (operating_point.OperatingPoint)."""

MISSING: Final = schema_of(
    *_of(TEXT, "volume_id", "patient_id", "split"),
    *_of(pa.int64(), "marked", "harvested"),
    *_of(NUMBER, "expected_more", "expected_missing", "best_left"),
    ("left_out", TEXT),
)
"""One row per volume of V_H: marks of the archive, lesions harvested, lesions expected among what was left (a sum of
probabilities), both together, the probability of the best tubelet left (null if none), and why the volume was left out
(null if it was not). What is expected is null where nobody knows: of a volume that was left out, and of all where
nothing right was found in V_M to learn from."""

LABELS: Final = schema_of(
    *_of(TEXT, "volume_id", "label_id", "role", "source"),
    ("round", pa.int32()),
    ("score", NUMBER),
    *_of(TEXT, "model_hash", "run_id"),
    *BOXES,
)
LEDGER: Final = LABELS.append(pa.field("probability", NUMBER))
"""One row per label of any origin. role: lesion or hard_negative; ignored for what the last round left for review; of
what was reviewed also ignored, calibration (see REVIEWED). source: see Source.
Archive marks and reviewed labels have round -1; marks have no score or model, reviewed ones those that found them.
probability: that a harvested or likely one is a lesion, by V_M; null where not known, and of what people say."""

REVIEWED: Final = LABELS.append(pa.field("verdict", TEXT))
"""What people said of exported labels: labels of source reviewed, and their verdict (accepted, rejected, moved).

role        lesion: accepted, or moved to these boxes. hard_negative: rejected. (Of an exported hard negative: lesion if
            rejected.) ignored: the place that a moved one was moved from. calibration: what the reviewed run accepted
            in V_M, without a verdict; a later run does not count on it again.
round       of the run that found it; the ledger has -1
"""


# The same tables as types: a function that takes one kind is not given another. A NewType costs nothing at run time;
# `checked` looks once, where a table is made or read.
ManifestTable = NewType("ManifestTable", pa.Table)
RejectTable = NewType("RejectTable", pa.Table)
MarkTable = NewType("MarkTable", pa.Table)
IgnoreTable = NewType("IgnoreTable", pa.Table)
TubeletTable = NewType("TubeletTable", pa.Table)
ScoredTable = NewType("ScoredTable", pa.Table)
PooledTable = NewType("PooledTable", pa.Table)
SelectedTable = NewType("SelectedTable", pa.Table)
AcceptedTable = NewType("AcceptedTable", pa.Table)
FindTable = NewType("FindTable", pa.Table)
HarvestTable = NewType("HarvestTable", pa.Table)
MissingTable = NewType("MissingTable", pa.Table)
LedgerTable = NewType("LedgerTable", pa.Table)
ReviewedTable = NewType("ReviewedTable", pa.Table)

SCHEMAS: Final[dict[Callable[[pa.Table], Any], pa.Schema]] = {
    ManifestTable: MANIFEST,
    RejectTable: REJECTS,
    MarkTable: MARKS,
    IgnoreTable: IGNORE,
    TubeletTable: TUBELETS,
    ScoredTable: SCORED,
    PooledTable: POOLED,
    SelectedTable: SELECTED,
    AcceptedTable: ACCEPTED,
    FindTable: FINDS,
    HarvestTable: HARVEST,
    MissingTable: MISSING,
    LedgerTable: LEDGER,
    ReviewedTable: REVIEWED,
}

Kind = TypeVar("Kind")
AnyTable = TypeVar("AnyTable", bound=pa.Table)
Column: TypeAlias = "pa.ChunkedArray[Any] | pa.Array[Any]"


def checked(kind: Callable[[pa.Table], Kind], table: pa.Table, source: object = "a table") -> Kind:
    """The table as what it is meant to be, e.g. checked(LedgerTable, table); more columns than the schema's may follow.

    `source` names its file for the error. Raises StoreError where columns are missing, of another type, or hold NaN or
    infinity: no comparison with a threshold would tell it.
    """
    found = {field.name: field.type for field in table.schema}
    wrong = [
        f"{field.name} ({found.get(field.name, 'missing')}, want {field.type})"
        for field in SCHEMAS[kind]
        if found.get(field.name) != field.type
    ]
    wrong = wrong or [f"{name} (NaN or infinity)" for name in SCHEMAS[kind].names if not _is_finite(table[name])]
    if wrong:
        raise StoreError(f"{source} is no {getattr(kind, '__name__', kind)}: {', '.join(wrong)}; make it again")
    return kind(table)


def _is_finite(column: Column) -> bool:
    """Whether all its numbers, or those in its lists, are; nulls are none."""
    if pa.types.is_list(column.type):
        column = pc.list_flatten(column)
    return not pa.types.is_floating(column.type) or pc.all(pc.is_finite(column), min_count=0).as_py()


def boxes_of(row: Mapping[str, Any]) -> list[Placed]:
    """(z, box) for each slice of a row with BOXES, in its order."""
    sides: Iterable[Box] = zip(*(row[side] for side in SIDES), strict=True)
    return list(zip(row["z"], sides, strict=True))


def empty(kind: Callable[[pa.Table], Kind]) -> Kind:
    """A table of this kind without rows."""
    return kind(SCHEMAS[kind].empty_table())


def rows_where(table: AnyTable, column: str, *wanted: str) -> AnyTable:
    """The rows whose column has one of the wanted values: a table of the same kind."""
    found = pc.is_in(table[column], value_set=pa.array(wanted, pa.string()))
    return table if pc.all(found).as_py() else table.filter(found)  # all of an archive is not copied


def values(column: Column) -> list[Any]:
    """A column as Python's values; what they are, and whether they may be None, says its schema."""
    return column.to_pylist()


@dataclass(frozen=True, eq=False)
class EachRow(Iterable[dict[str, Any]]):
    """A table's rows as Python's, a few at a time. Every loop over it goes through all of them."""

    table: pa.Table

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.table.to_batches(max_chunksize=1024):
            yield from batch.to_pylist()


def each_row(table: pa.Table, *columns: str) -> EachRow:
    """A table's rows, or some columns of them."""
    return EachRow(table.select(list(columns)) if columns else table)


@dataclass(frozen=True)
class Reject:
    """A row of rejects.parquet (records.REJECTS), known before a pixel was read.

    source_hash  salted hash of what names the file or series in the archive (salted_hash)
    reason       one word, as of VolumeError
    message      what is wrong and what to do, without path, UID or any text of the file
    files        which files of the archive it is about, for who holds the archive; never stored
    """

    source_hash: str
    reason: str
    message: str
    files: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @property
    def row(self) -> dict[str, str]:
        """What is stored."""
        return {"source_hash": self.source_hash, "reason": self.reason, "message": self.message}
