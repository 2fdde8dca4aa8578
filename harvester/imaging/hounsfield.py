"""Hounsfield units: their range, air, and the windows in which they are shown to people and networks."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from harvester.geometry import Array

AIR_HU: Final = -1024
"""What lies beyond an image."""
HU_RANGE: Final = (AIR_HU, 3071)
"""Values are clipped to the 12 bits of a common scanner: padding becomes air, metal becomes 3071."""


def to_hu(values: Array) -> NDArray[np.int16]:
    """Rounded int16 clipped to HU_RANGE; what is not a number becomes air."""
    if np.issubdtype(values.dtype, np.floating):
        values = np.rint(np.nan_to_num(values, nan=AIR_HU))
    return np.ascontiguousarray(np.clip(values, *HU_RANGE), dtype=np.int16)


def windowed(hu_zyx: NDArray[Any], windows_hu: Sequence[tuple[float, float]]) -> NDArray[np.float32]:
    """(windows, z, y, x) float32 in [0, 1]: each (low, high) in HU mapped to 0 and 1, clipped beyond.

    `hu_zyx` may be of any shape and any real type; no windows give an array whose first axis is 0.
    """
    channels = np.empty((len(windows_hu), *hu_zyx.shape), np.float32)
    for channel, (low, high) in zip(channels, windows_hu, strict=True):
        np.subtract(hu_zyx, np.float32(low), out=channel, dtype=np.float32)
        channel *= np.float32(1 / (high - low))
        np.clip(channel, 0.0, 1.0, out=channel)
    return channels
