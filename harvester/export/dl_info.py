"""A table in the columns of DeepLesion's DL_info.csv, one row per lesion on its key slice; then where it comes from.

What nobody measured stays empty: diameters, the lesion's place in the body, its window, and the patient's age and
sex, which are not kept. `boxes` holds the whole lesion as "slice x1 y1 x2 y2; ...", in the numbers of Key_slice_index;
`review` is empty: a reviewer puts accepted, rejected or moved there, and harvester review reads it back.

Slices of a DeepLesion volume are numbered as in DeepLesion, those of others from 0 in their file.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from harvester.export.selection import ORIGIN, LabelledVolume, Row, key_box, write_csv
from harvester.imaging.slice_map import SliceMap
from harvester.labels.deeplesion.volume_ids import split_id
from harvester.records import Split, boxes_of

FILE: Final = "DL_info.csv"
PUBLISHED: Final = (
    "File_name", "Patient_index", "Study_index", "Series_ID", "Key_slice_index", "Measurement_coordinates",
    "Bounding_boxes", "Lesion_diameters_Pixel_", "Normalized_lesion_location", "Coarse_lesion_type", "Possibly_noisy",
    "Slice_range", "Spacing_mm_px_", "Image_size", "DICOM_windows", "Patient_gender", "Patient_age", "Train_Val_Test",
)  # fmt: skip
OWN: Final = ("volume_id", "patient_id", "split", "label_id", *ORIGIN, "turn", "boxes", "review")
UNKNOWN_TYPE: Final = -1
"""DeepLesion's Coarse_lesion_type of lesions that nobody sorted."""


def write(volumes: Iterable[LabelledVolume], folder: Path, _made_by: Row) -> None:
    """Write DL_info.csv."""
    rows = (_row(each.volume, each.grid.axial(), label) for each in volumes for label in each.labels)
    write_csv(folder / FILE, [*PUBLISHED, *OWN], rows)


def first_slice(volume_id: str) -> int:
    """The number that the table gives to a volume's first slice: DeepLesion's own, else 0."""
    named = split_id(volume_id)
    return named.start if named else 0


def _row(volume: Row, slices: SliceMap, label: Row) -> Row:
    first = first_slice(volume["volume_id"])
    placed = slices.file_boxes(boxes_of(label))
    key, box = key_box(placed)
    stored = [volume[f"spacing_{axis}_mm"] for axis in "xyz"]
    spacing = [stored[slices.orientation.axes.index(axis)] for axis in range(3)]
    return {
        **_named(volume, first + key),
        "Key_slice_index": first + key,
        "Bounding_boxes": _listed(box),
        "Coarse_lesion_type": UNKNOWN_TYPE,
        "Possibly_noisy": 0,
        "Slice_range": f"{first}, {first + slices.shape[2] - 1}",
        "Spacing_mm_px_": _listed(spacing),
        "Image_size": f"{slices.shape[0]}, {slices.shape[1]}",
        "Train_Val_Test": 3 if volume["split"] == Split.VD_TEST else 1,
        **{name: volume[name] for name in ("volume_id", "patient_id", "split")},
        **{name: label[name] for name in ("label_id", *ORIGIN)},
        "turn": slices.text(),
        "boxes": "; ".join(" ".join(map(_number, (first + k, *sides))) for k, sides in placed),
    }


def _named(volume: Row, number: int) -> Row:
    """DeepLesion's own names for its volumes; for others the hashed ids."""
    named = split_id(volume["volume_id"])
    if not named:
        return {"File_name": f"{volume['volume_id']}_{number:03d}.png", "Patient_index": volume["patient_id"]}
    indices = map(int, named.folder.split("_"))
    own = dict(zip(("Patient_index", "Study_index", "Series_ID"), indices, strict=True))
    return {"File_name": f"{named.folder}_{number:03d}.png", **own}


def _listed(values: Iterable[float]) -> str:
    return ", ".join(map(_number, values))


def _number(value: float) -> str:
    """As many digits as a float32 holds."""
    return f"{value:.9g}"
