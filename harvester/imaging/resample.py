"""Resampling to another spacing; outer corners coincide: geometry.scale_boxes, scale_slices lead back."""

import numpy as np
from scipy import sparse

from harvester.geometry import SAME_SPACING, Array, scale_slices
from harvester.records import Volume


def resample(volume: Volume, spacing_zyx_mm: tuple[float, float, float]) -> Volume:
    """The volume at another spacing: linear interpolation where it grows, its antialiased form (a triangle as
    wide as the new voxel) where it shrinks, edges repeated. An axis keeps its own spacing where the two agree
    within SAME_SPACING; where all three do, the same object is returned.

    The new voxel 0 starts at the same outer corner, and an axis gets max(1, round(length / spacing)) voxels.
    """
    target = tuple(
        own if abs(own / want - 1) < SAME_SPACING else float(want)
        for own, want in zip(volume.spacing_zyx_mm, spacing_zyx_mm, strict=True)
    )
    if target == volume.spacing_zyx_mm:
        return volume
    ratios = [want / own for own, want in zip(volume.spacing_zyx_mm, target, strict=True)]
    z, y, x = (_weights(count, ratio) for count, ratio in zip(volume.hu_zyx.shape, ratios, strict=True))
    hu = np.rint(_along_z(np.stack([_in_plane(plane, y, x) for plane in volume.hu_zyx]), z))
    spacing = (target[0], target[1], target[2])
    return Volume(volume.volume_id, volume.patient_id, hu.astype(np.int16), spacing)


def _in_plane(plane: Array, rows: sparse.csr_array | None, columns: sparse.csr_array | None) -> Array:
    values = plane.astype(np.float32)
    if rows is not None:
        values = rows @ values
    return values if columns is None else np.ascontiguousarray((columns @ values.T).T)


def _along_z(values_zyx: Array, weights: sparse.csr_array | None) -> Array:
    if weights is None:
        return values_zyx
    return np.asarray(weights @ values_zyx.reshape(len(values_zyx), -1)).reshape(-1, *values_zyx.shape[1:])


def _weights(count: int, ratio: float) -> sparse.csr_array | None:
    """(new, old) interpolation weights, rows summing to 1; ratio = new spacing / old. None leaves as is."""
    if ratio == 1.0:
        return None
    centres = scale_slices(np.arange(max(1, round(count / ratio))), ratio)
    reach = max(1.0, ratio)
    taps = np.floor(centres - reach)[:, None].astype(np.int64) + np.arange(int(2 * np.ceil(reach)) + 2)
    weights = np.maximum(0.0, 1 - np.abs(taps - centres[:, None]) / reach)
    weights /= weights.sum(axis=1, keepdims=True)
    rows = np.repeat(np.arange(len(centres)), taps.shape[1])
    places = (weights.astype(np.float32).ravel(), (rows, np.clip(taps, 0, count - 1).ravel()))
    matrix = sparse.csr_array(places, shape=(len(centres), count))  # clipped taps repeat the edge: sums add up
    matrix.eliminate_zeros()
    return matrix
