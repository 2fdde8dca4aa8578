"""Linear interpolation between samples, along one axis and in a slice's plane; ends repeat."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harvester.geometry import Array


@dataclass(frozen=True)
class Taps:
    """Where values between samples come from: (n,) indices low and high, and the share (float32) of the high one."""

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    share: NDArray[np.float32]

    @classmethod
    def at(cls, positions: Array, count: int) -> "Taps":
        """For fractional indices into `count` samples; beyond the ends the end repeats."""
        positions = np.clip(positions, 0, count - 1)
        low = np.floor(positions).astype(np.int64)
        return cls(low, np.minimum(low + 1, count - 1), (positions - low).astype(np.float32))

    @property
    def whole(self) -> bool:
        """Whether every position is a sample's own: nothing to mix."""
        return not self.share.any()

    def part(self, start: int, stop: int) -> "Taps":
        """Those of positions [start, stop)."""
        return Taps(self.low[start:stop], self.high[start:stop], self.share[start:stop])


def between(values: Array, axis: int, taps: Taps) -> Array:
    """The values at the taps along an axis, as floats."""
    shape = [1] * values.ndim
    shape[axis] = -1
    share = taps.share.reshape(shape)
    return np.asarray(values.take(taps.low, axis) * (1 - share) + values.take(taps.high, axis) * share)


def interpolate(values: Array, axis: int, taps: Taps) -> Array:
    """The same rounded, of the values' own type; whole indices are just taken."""
    if not taps.whole:
        return np.rint(between(values, axis, taps)).astype(values.dtype)
    own = np.arange(values.shape[axis])
    return values if np.array_equal(taps.low, own) else values.take(taps.low, axis)


def interpolate_in_plane(values_zyx: Array, y: Taps, x: Taps) -> Array:
    """Each slice's rows and columns, as `interpolate` would do them one after the other.

    Slice by slice, in place: all that a slice needs stays in the processor's cache.
    """
    share_y = y.share[:, None]
    mixed = np.empty((len(values_zyx), len(y.low), len(x.low)), values_zyx.dtype)
    for plane, out in zip(values_zyx, mixed, strict=True):
        values = plane.astype(np.float32)
        rows = _mixed(values.take(y.low, 0), values.take(y.high, 0), share_y)
        out[...] = _mixed(rows.take(x.low, 1), rows.take(x.high, 1), x.share)
    return mixed


def _mixed(low: Array, high: Array, share: Array) -> Array:
    """low (1 - share) + high share, rounded to whole HU; overwrites both."""
    low *= 1 - share
    high *= share
    low += high
    return np.rint(low, out=low)
