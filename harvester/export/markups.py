"""3D Slicer markups: a .mrk.json a volume, an ROI box a label in mm to the patient's left, back and head (LPS).

Slicer keeps a control point's description when it saves the file again, so that is where the origin stands.
Fields: https://github.com/Slicer/Slicer/tree/main/Modules/Loadable/Markups/Resources/Schema, version 1.0.3.
"""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from harvester.export.file_grid import Grid
from harvester.export.selection import ORIGIN, Case, Row, boxes

SCHEMA: Final = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
COLORS: Final = {"lesion": [0.24, 0.58, 1.0], "hard_negative": [1.0, 0.69, 0.18]}


def write(case: Case, folder: Path, _made_by: Row) -> list[Row]:
    """Write <volume_id>.mrk.json; a row a label of what it holds."""
    file = folder / f"{case.volume['volume_id']}.mrk.json"
    markups = [_roi(label, case.grid) for label in case.labels]
    file.write_text(json.dumps({"@schema": SCHEMA, "markups": markups}, indent=1) + "\n", encoding="utf-8")
    return [
        {"file": file.name, "number": place + 1, "label": label} for place, label in enumerate(case.labels)
    ]


def _roi(label: Row, grid: Grid) -> dict[str, Any]:
    z, sides = zip(*boxes(label), strict=True)
    low, high = grid.corners(z, sides)
    lengths = np.linalg.norm(grid.affine_lps[:3, :3], axis=0)
    center = (grid.affine_lps @ [*((low + high) / 2), 1.0])[:3].tolist()
    axes = grid.affine_lps[:3, :3] / lengths
    axes[:, 2] *= np.sign(np.linalg.det(axes))  # a box looks the same from behind; Slicer wants a rotation
    orientation = axes.ravel().tolist()
    point = {
        "id": "1",
        "label": label["label_id"],
        "description": _origin(label),
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


def _origin(label: Row) -> str:
    told = "; ".join(f"{name} {label[name]}" for name in ORIGIN if label[name] not in (None, ""))
    return f"{told}; {status(label)}"


def status(label: Row) -> str:
    """In words, whether a person stands behind a label."""
    by_people = label["source"] in ("clinical", "annotated", "reviewed")
    return "by a person" if by_people else "machine-made, not verified"
