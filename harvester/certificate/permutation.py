"""Are two groups of patients alike? A permutation test of several ratios at once.

Which patients are called V_M is drawn anew, and each aspect, a ratio of sums over patients, is compared with what such
draws give. Each has a p of its own, and the least of them is compared with the least of every draw (Westfall and Young
1993): looking at all aspects costs nothing further. Exact where patients are exchangeable. A difference counts in its
standard errors, so that it nearly holds where one group has fewer volumes of a patient (Chung and Romano 2013).
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Array = NDArray[Any]

PERMUTATIONS: Final = 1999
TINY: Final = 1e-12
"""Added to variances: groups without any spread are equal, or far apart."""


def permuted(
    sums: Array, weights: Array, in_vm: Array, seed: int, permutations: int = PERMUTATIONS
) -> tuple[float, list[float]]:
    """p that V_M and V_H are alike in all aspects, and each aspect's own, corrected for the number of aspects.

    sums, weights  (p, a) of each patient and aspect; one without weight on a side does not differ
    in_vm          (p,) bool, both sides filled
    """
    rows = np.concatenate([sums, weights, sums**2, sums * weights, weights**2], axis=1)
    rng, patients, drawn = np.random.default_rng(seed), len(rows), int(in_vm.sum())
    chosen = (rng.choice(patients, drawn, replace=False, shuffle=False) for _ in range(permutations))
    vm = np.stack([rows[in_vm].sum(axis=0), *(rows[picked].sum(axis=0) for picked in chosen)])
    apart = _apart(vm, drawn, rows.sum(axis=0) - vm, patients - drawn)
    least = np.minimum(*(rankdata(signed, method="max", axis=0) for signed in (apart, -apart)))
    own = np.minimum(1.0, 2 * least / len(vm))
    smallest = own.min(axis=1)
    corrected = [float(np.mean(smallest <= value)) for value in own[0]]
    return min(corrected), corrected


def _apart(vm: Array, patients_vm: int, vh: Array, patients_vh: int) -> Array:
    """(n, a) V_H's ratio less V_M's in standard errors, rounded: what differs by the last digit alone is a tie."""
    (first, spread), (second, other) = _ratios(vh, patients_vh), _ratios(vm, patients_vm)
    apart: Array = np.round(np.nan_to_num((first - second) / np.sqrt(spread + other + TINY)), 6)
    return apart


def _ratios(moments: Array, patients: int) -> tuple[Array, Array]:
    """(n, a) sum per weight, and its variance over patients (linearised)."""
    s, w, ss, sw, ww = np.split(moments, 5, axis=1)
    ratio = _ratio(s, w)
    spread = np.maximum(ss - 2 * ratio * sw + ratio**2 * ww, 0) * patients / max(patients - 1, 1)
    return ratio, _ratio(spread, w**2)


def _ratio(sums: Array, weights: Array) -> Array:
    """nan where there is no weight."""
    ratio: Array = np.divide(sums, weights, out=np.full(sums.shape, np.nan), where=weights > 0)
    return ratio
