"""NIfTI label maps: one .nii.gz per volume in its file's own grid, each label's boxes filled with its number.

A NIfTI scan's map has its sform, qform and codes, so that every program sees both in one place, whichever it goes by.
NIfTI has one affine for all slices: the map of a tilted or uneven DICOM series has the even, upright grid in which
import assembled it. The file's slices lie in it at their own place in mm, to half a pixel; made slices are filled too.

Voxels lie in a box if their centres do, so that it comes back to half a voxel. Where boxes overlap, the better score
lies on top; index.csv has every number, and the boxes as they are are in the other formats.
"""

from pathlib import Path
from typing import Any, Final

import nibabel
import numpy as np
from numpy.typing import NDArray

from harvester.errors import VolumeError
from harvester.export.selection import LabelledVolume, Row, index_rows
from harvester.imaging.orientation import RAS_TO_LPS
from harvester.records import boxes_of

MOST: Final = 65_535
QFORM: Final = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
FORMS: Final = ("qform_code", "sform_code", *QFORM, "srow_x", "srow_y", "srow_z")
"""The header's fields that place its voxels, beside pixdim; texts, which may name somebody, stay behind."""


def write(labelled: LabelledVolume, folder: Path, _made_by: Row) -> list[Row]:
    """Write <volume_id>.nii.gz; one row per label with its number and the voxels that show it."""
    grid = labelled.grid
    drawn = label_map(labelled)
    kind: Any = nibabel.Nifti1Image
    image = kind(grid.slices.orientation.file_array(drawn), RAS_TO_LPS @ grid.affine_lps)
    image.header.set_xyzt_units("mm")
    if grid.nifti:
        for field in FORMS:
            image.header[field] = grid.nifti.raw[field]
        image.header["pixdim"][:4] = grid.nifti.raw["pixdim"][:4]
    file = folder / f"{labelled.volume['volume_id']}.nii.gz"
    nibabel.save(image, file)
    voxels = np.bincount(drawn.ravel(), minlength=len(labelled.labels) + 1)
    return [row | {"voxels": int(voxels[row["number"]])} for row in index_rows(file, labelled.labels)]


def label_map(labelled: LabelledVolume) -> NDArray[np.uint16]:
    """The numbers 1, 2, ... of the volume's labels in the stored order (z, y, x), 0 elsewhere."""
    if len(labelled.labels) > MOST:
        raise VolumeError("too_many", f"volume {labelled.volume['volume_id']}: over {MOST} labels for one map")
    drawn = np.zeros([labelled.volume[name] for name in ("depth", "height", "width")], np.uint16)
    for number in range(len(labelled.labels), 0, -1):  # the best scored come first, and are drawn last
        for z, (x1, y1, x2, y2) in boxes_of(labelled.labels[number - 1]):
            drawn[z, pixels(y1, y2), pixels(x1, x2)] = number
    return drawn


def pixels(first: float, last: float) -> slice:
    """The pixels whose centres lie between two inclusive ends, at least the one that is nearest to the middle."""
    low, high = int(np.ceil(first - 0.5)), int(np.floor(last + 0.5))
    return slice(max(0, low), max(low, high, 0) + 1)
