"""Where the patient is: proposals on wires, leads and the table are not lesions."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

BODY_HU: Final = -300
COARSE_MM: Final = 6.4
"""The mask is found on pixels of about this size: exact to a few millimetres, and fast."""
IN_SLICE: Final = ndimage.generate_binary_structure(2, 1)[None]
THICK: Final = 2
"""Erosions that a part of the body outlasts: five pixels, 3 cm. What is left of a table is flat: at most one, in 29
real scans."""


def coarse_step(pixel_mm: float) -> int:
    """Every how many rows and columns the mask is found, for pixels of this side."""
    return max(1, round(COARSE_MM / pixel_mm))


def body_mask(dense_zyx: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels of the body, lungs included, (z, y, x), from those above BODY_HU. Nothing dense: nothing.

    The connected parts of what is dense that are THICK (two legs, an arm beside the trunk), and the largest in any
    case; eroded first so that the table falls away, their holes filled slice by slice. Rows and columns are taken
    every coarse_step.
    """
    eroded = ndimage.binary_erosion(dense_zyx, IN_SLICE)
    parts, count = ndimage.label(eroded)
    if count == 0:
        return np.zeros(dense_zyx.shape, bool)
    body = np.zeros(count + 1, bool)
    body[np.bincount(parts.ravel())[1:].argmax() + 1] = True
    body[parts[ndimage.binary_erosion(eroded, IN_SLICE, iterations=THICK - 1)]] = True
    return _filled(ndimage.binary_dilation(body[parts], IN_SLICE, iterations=2))


def _filled(body_zyx: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """With all that no path in a slice leads out of."""
    parts, _ = ndimage.label(~body_zyx, np.pad(IN_SLICE, ((1, 1), (0, 0), (0, 0))))
    edges = np.concatenate([parts[:, [0, -1]].ravel(), parts[:, :, [0, -1]].ravel()])
    return ~np.isin(parts, edges[edges > 0])
