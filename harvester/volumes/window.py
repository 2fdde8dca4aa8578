"""Grey values: windows in HU, each one channel."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


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
