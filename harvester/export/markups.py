"""3D Slicer markups: one .mrk.json per volume, one ROI box per label in mm to the patient's left, back and head (LPS).

Slicer keeps a control point's description when it saves the file again, so that is where the origin stands.
Fields: https://github.com/Slicer/Slicer/tree/main/Modules/Loadable/Markups/Resources/Schema, version 1.0.3.
"""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from harvester.export.file_grid import FileGrid
from harvester.export.selection import ORIGIN, LabelledVolume, Row, index_rows
from harvester.records import Role, Source, boxes_of

SCHEMA: Final = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
COLORS: Final[dict[str, list[float]]] = {Role.LESION: [0.24, 0.58, 1.0], Role.HARD_NEGATIVE: [1.0, 0.69, 0.18]}


def write(labelled: LabelledVolume, folder: Path, _made_by: Row) -> list[Row]:
    """Write <volume_id>.mrk.json; one row per label of what it holds."""
    file = folder / f"{labelled.volume['volume_id']}.mrk.json"
    markups = [_roi(label, labelled.grid) for label in labelled.labels]
    file.write_text(json.dumps({"@schema": SCHEMA, "markups": markups}, indent=1) + "\n", encoding="utf-8")
    return index_rows(file, labelled.labels)


def _roi(label: Row, grid: FileGrid) -> dict[str, Any]:
    low, high = grid.corners(boxes_of(label))
    lengths = np.linalg.norm(grid.affine_lps[:3, :3], axis=0)
    center = (grid.affine_lps @ [*((low + high) / 2), 1.0])[:3].tolist()
    axes = grid.affine_lps[:3, :3] / lengths
    axes[:, 2] *= np.sign(np.linalg.det(axes))  # a box looks the same from behind; Slicer wants a rotation
    orientation = axes.ravel().tolist()
    origin = [f"{name} {label[name]}" for name in ORIGIN if label[name] not in (None, "")]
    by_people = label["source"] in (Source.CLINICAL, Source.ANNOTATED, Source.REVIEWED)
    status = "by a person" if by_people else "machine-made, not verified"
    point = {
        "id": "1",
        "label": label["label_id"],
        "description": "; ".join([*origin, status]),
        "position": center,
        "orientation": orientation,
        "selected": True,
        "locked": False,
        "visibility": True,
        "positionStatus": "defined",
    }
    return {
        "type": "ROI",
        "roiType": "Box",
        "name": label["label_id"],
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": True,
        "fixedNumberOfControlPoints": False,
        "center": center,
        "orientation": orientation,
        "size": ((high - low) * lengths).tolist(),
        "controlPoints": [point],
        "display": {"visibility": True, "opacity": 0.5, "selectedColor": COLORS[label["role"]]},
    }
