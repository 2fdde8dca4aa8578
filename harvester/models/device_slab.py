"""A volume's grid slices on the device that works on them: whole HU, two bytes per voxel, copied once.

A CPU gets what read_slab makes. A GPU gets the volume's own pixels and resamples them itself, to the same values:
one core decodes thousands of slices per second, but resamples only hundreds.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harvester.imaging.hounsfield import AIR_HU
from harvester.imaging.interpolation import Taps
from harvester.storage.location import Location
from harvester.store.slab import GridFrame, Slab, pad_widths, read_pixels, read_slab
from harvester.store.store import read_volume

SLICES_AT_ONCE: Final = 32
"""Resampled together: bounds the memory that float values take, not the result."""


def load_to_device(store: Location, frame: GridFrame, z_start: int, z_end: int, device: torch.device) -> Tensor:
    """Grid slices [z_start, z_end) as read_slab gives them, int16 HU (z, y, x), on the device, ready to use.

    To be called from a thread that runs ahead: on a GPU it copies and resamples in a stream of its own.
    """
    if device.type != "cuda":
        return torch.from_numpy(writable(read_slab(store, frame, z_start, z_end)))
    pixels, taps_z = read_pixels(store, frame, z_start, z_end)
    return _ahead(pixels, device, lambda hu: on_grid(hu, taps_z, *frame.taps_yx()))


def load_pixels(store: Location, frame: GridFrame, z_start: int, z_end: int, device: torch.device) -> Tensor:
    """The volume's own slices [z_start, z_end), int16 HU (z, y, x), on the device, ready to use; threads as above."""
    pixels = read_volume(store, frame.volume_id, z_start, z_end).hu_zyx
    return _ahead(pixels, device) if device.type == "cuda" else torch.from_numpy(writable(pixels))


def _ahead(pixels: Slab, device: torch.device, work: Callable[[Tensor], Tensor] = lambda hu: hu) -> Tensor:
    """Pixels to a GPU and what `work` makes of them there, while it does other things."""
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch gives it no types
    with torch.cuda.stream(stream):
        made = work(torch.from_numpy(writable(pixels)).pin_memory().to(device, non_blocking=True))
    stream.synchronize()
    # It was made in this stream's memory: that may not be used anew before the main stream is done with it.
    made.record_stream(torch.cuda.default_stream(device))
    return made


def on_grid(pixels_zyx: Tensor, taps_z: Taps, taps_y: Taps, taps_x: Taps) -> Tensor:
    """Pixels to grid slices where they lie: linear along z, y, x in turn, whole HU after each, air around."""
    parts = []
    for start in range(0, len(taps_z.low), SLICES_AT_ONCE):
        part = _mixed(pixels_zyx, taps_z.part(start, start + SLICES_AT_ONCE), 0)
        parts.append(_mixed(_mixed(part, taps_y, 1), taps_x, 2))
    grid = torch.cat(parts)
    rows, columns = pad_widths(grid.shape[1:])
    return torch.nn.functional.pad(grid, (0, columns, 0, rows), value=AIR_HU)


def _mixed(values: Tensor, taps: Taps, axis: int) -> Tensor:
    return mixed(values, {name: each.to(values.device) for name, each in as_tensors(taps).items()}, axis)


def as_tensors(taps: Taps) -> dict[str, Tensor]:
    """Taps for `mixed`: low, high and share; whole ones have an empty share."""
    share = taps.share[:0] if taps.whole else taps.share
    return {name: torch.from_numpy(each) for name, each in (("low", taps.low), ("high", taps.high), ("share", share))}


def mixed(values: Tensor, taps: dict[str, Tensor], axis: int) -> Tensor:
    """Whole values, linearly interpolated along an axis where the taps say, and rounded: as `interpolate` does."""
    low, high, share = taps["low"], taps["high"], taps["share"]
    if not len(share):
        return values.index_select(axis, low)
    share = share.reshape([-1 if at == axis else 1 for at in range(values.ndim)])
    sums = values.index_select(axis, low) * (1 - share) + values.index_select(axis, high) * share
    return sums.round().to(values.dtype)


def writable(values: NDArray[Any]) -> NDArray[Any]:
    """A cached volume is read-only, which torch cannot express: it is copied."""
    return values if values.flags.writeable else np.array(values)
