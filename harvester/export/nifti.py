"""NIfTI label maps: a .nii.gz a volume in its file's own grid, each label's boxes filled with its number.

Voxels lie in a box if their centres do, so that it comes back to half a voxel. Where boxes overlap, the better score
lies on top; index.csv has every number, and the boxes as they are are in the other formats.
"""

from pathlib import Path
from typing import Any, Final

import nibabel
import numpy as np
from numpy.typing import NDArray

from harvester.errors import VolumeError
from harvester.export.file_grid import RAS_TO_LPS
from harvester.export.selection import Case, Row, boxes

MOST: Final = 65_535


def write(case: Case, folder: Path, _made_by: Row) -> list[Row]:
    """Write <volume_id>.nii.gz; a row a label with its number and the voxels that show it."""
    volume_id = case.volume["volume_id"]
    drawn = label_map(case)
    image: Any = nibabel.Nifti1Image(case.grid.turn.file_array(drawn), RAS_TO_LPS @ case.grid.affine_lps)
    image.header.set_xyzt_units("mm")
    file = folder / f"{volume_id}.nii.gz"
    nibabel.save(image, file)
    voxels = np.bincount(drawn.ravel(), minlength=len(case.labels) + 1)
    return [
        {"file": file.name, "number": number, "voxels": int(voxels[number]), "label": label}
        for number, label in enumerate(case.labels, start=1)
    ]


def label_map(case: Case) -> NDArray[np.uint16]:
    """The numbers 1, 2, ... of the case's labels in the stored order (z, y, x), 0 elsewhere."""
    if len(case.labels) > MOST:
        raise VolumeError("too_many", f"volume {case.volume['volume_id']}: over {MOST} labels for one map")
    drawn = np.zeros([case.volume[name] for name in ("depth", "height", "width")], np.uint16)
    for number in range(len(case.labels), 0, -1):  # the best scored come first, and are drawn last
        for z, (x1, y1, x2, y2) in boxes(case.labels[number - 1]):
            drawn[z, pixels(y1, y2), pixels(x1, x2)] = number
    return drawn


def pixels(first: float, last: float) -> slice:
    """The pixels whose centres lie between two inclusive ends, at least the one that is nearest to the middle."""
    low, high = int(np.ceil(first - 0.5)), int(np.floor(last + 0.5))
    return slice(max(0, low), max(low, high, 0) + 1)
