"""DL_info.csv: DeepLesion's table of clinical marks, one row per lesion, with its published columns.

Read are the columns of COLUMNS and no others: a patient's age and gender never leave the file. Bounding_boxes are
the ends of the RECIST diameters padded by PAD_PX, inclusive, x first. They are rounded to DECIMALS, as the published
pickles of the same marks are; then both agree to the last digit.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harvester.errors import LabelError
from harvester.labels.columns import refuse_columns
from harvester.labels.sheets import read_sheet

COLUMNS: Final = (
    "File_name", "Patient_index", "Study_index", "Series_ID", "Key_slice_index", "Bounding_boxes",
    "Coarse_lesion_type", "Possibly_noisy", "Slice_range", "Spacing_mm_px_", "Image_size", "Train_Val_Test",
)  # fmt: skip
_ORGANS = ("bone", "abdomen", "mediastinum", "liver", "lung", "kidney", "soft tissue", "pelvis")
KINDS: Final = dict(enumerate(_ORGANS, start=1))
"""Coarse_lesion_type; -1, which the training rows have, is unknown."""
SPLITS: Final = {1: "train", 2: "val", 3: "test"}
"""Train_Val_Test: the official split."""
MAX_SLICES: Final = 10_000
PAD_PX: Final = 5.0
"""What boxes are padded by, over the edge of the slice if need be."""
DECIMALS: Final = 3
"""Places behind the point of a box, in pixels."""


@dataclass(frozen=True)
class InfoRow:
    """One mark of the archive.

    z           key slice counted from the sub-volume's first, in the order of the files' numbers
    spacing     mm between voxel centres, z, y, x; not checked here (a volume with a bad one is refused)
    size_px     the sides of its slices; the archive's are square, so which is which is unknown
    split       train, val or test; kind is "" where unknown
    """

    volume_id: str
    patient_id: str
    z: int
    box_xyxy: tuple[float, float, float, float]
    kind: str
    noisy: bool
    spacing_zyx_mm: tuple[float, float, float]
    size_px: tuple[int, int]
    split: str


def read_dl_info(file: Path) -> tuple[list[InfoRow], dict[int, str]]:
    """Every row of the table, in its order, and what is wrong with each line that is none, by its number.

    Both are empty for a table without rows. The messages do not quote the line.

    Raises LabelError where there is no such file, it is no CSV in UTF-8, or a column is missing.
    """
    rows: list[InfoRow] = []
    bad: dict[int, str] = {}
    for line, cells in _cells(file):
        try:
            rows.append(_row(cells))
        except ValueError as error:
            bad[line] = f"line {line} of {file.name}: {error}; correct or remove it"
    return rows, bad


def _cells(file: Path) -> list[tuple[int, dict[str, str]]]:
    if not file.is_file():
        raise LabelError(
            f"{file.name}: cannot be read (no such file); want DeepLesion's DL_info.csv (data.deeplesion.info)"
        )
    names, rows = read_sheet(file, COLUMNS, decimal_comma=False)
    lacking = [name for name in COLUMNS if name not in names]
    if lacking:
        raise LabelError(f"{file.name}: lacks the columns {', '.join(lacking)}; want DeepLesion's table as published")
    refuse_columns(file.name, names, COLUMNS, others=True)
    return [(line, {name: row.get(name, "") for name in COLUMNS}) for line, row in rows]


def _row(cells: dict[str, str]) -> InfoRow:
    """Raises ValueError, naming the column at fault."""
    patient, study, series, key = (
        _whole(cells, name) for name in ("Patient_index", "Study_index", "Series_ID", "Key_slice_index")
    )
    folder = f"{patient:06d}_{study:02d}_{series:02d}"
    if cells["File_name"].strip().lower() != f"{folder}_{key:03d}.png":
        raise ValueError("File_name is not PATIENT_STUDY_SERIES_SLICE.png of the row's own indices")
    start, end = _numbers(cells, "Slice_range", 2)
    if not 0 <= start <= end < start + MAX_SLICES or start != int(start) or end != int(end):
        raise ValueError(f"Slice_range is not the first and last of at most {MAX_SLICES} slices")
    x1, y1, x2, y2 = (round(value, DECIMALS) for value in _numbers(cells, "Bounding_boxes", 4))
    if not (x1 <= x2 and y1 <= y2):
        raise ValueError("Bounding_boxes are not x1, y1, x2, y2, low ends first")
    split = _whole(cells, "Train_Val_Test")
    if split not in SPLITS:
        raise ValueError("Train_Val_Test is not 1, 2 or 3")
    x, y, z = _numbers(cells, "Spacing_mm_px_", 3)
    width, height = _numbers(cells, "Image_size", 2)
    return InfoRow(
        volume_id=f"{folder}_{int(start):03d}-{int(end):03d}",
        patient_id=f"{patient:06d}",
        z=key - int(start),
        box_xyxy=(x1, y1, x2, y2),
        kind=KINDS.get(_whole(cells, "Coarse_lesion_type", low=-1), ""),
        noisy=_whole(cells, "Possibly_noisy") == 1,
        spacing_zyx_mm=(z, y, x),
        size_px=(int(width), int(height)),
        split=SPLITS[split],
    )


def _whole(cells: dict[str, str], name: str, low: int = 0) -> int:
    """A whole number of at most nine digits; some copies of the table write 1.0 for 1."""
    value = _numbers(cells, name, 1)[0]
    if value != int(value) or not low <= value < 10**9:
        raise ValueError(f"{name} is no whole number from {low}")
    return int(value)


def _numbers(cells: dict[str, str], name: str, count: int) -> list[float]:
    try:
        values = [float(text) for text in cells[name].split(",")]
    except ValueError:
        values = []
    if len(values) != count or not all(map(math.isfinite, values)):
        raise ValueError(f"{name} does not hold {count} {'number' if count == 1 else 'numbers'}")
    return values
