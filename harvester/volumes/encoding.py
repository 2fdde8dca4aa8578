"""A slice as it lies in the store: its low bytes, then its high bytes, as one LZ4 frame.

High bytes of HU hardly change from pixel to pixel, low bytes are mostly noise: apart they take two thirds of the
room that LZ4 needs for whole values, and come back as fast. Measured beside others in docs/decisions/0007.
"""

from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

CODEC: Final = pa.Codec("lz4")
HU: Final = np.dtype("<i2")


def encode_slice(hu_yx: NDArray[np.int16]) -> bytes:
    """One slice, int16 (rows, columns), as bytes."""
    pairs = np.ascontiguousarray(hu_yx, HU).view(np.uint8).reshape(-1, 2)
    return CODEC.compress(np.ascontiguousarray(pairs.T), asbytes=True)


def decode_slice(frame: Any, out_yx: NDArray[np.int16]) -> None:
    """Bytes of encode_slice into a contiguous array of the slice's shape. Raises OSError for other bytes."""
    planes = np.frombuffer(CODEC.decompress(frame, out_yx.nbytes), np.uint8)
    low, high = planes[: out_yx.size], planes[out_yx.size :]
    flat = out_yx.reshape(-1)
    # Three passes over a slice in the cache are faster than one that writes every second byte.
    flat[:] = high
    flat <<= 8
    flat |= low
