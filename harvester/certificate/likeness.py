"""Whether two groups of patients are alike: a permutation test of ratios, patient by patient.

V_M stands for V_H only if both were marked by the same clinic in the same way: as many clinical marks per volume, and
marks as large. Patients are exchangeable then, whatever their volumes have in common, and the test is exact. Its
statistic is studentized: it nearly holds where one group has fewer volumes of a patient (Chung and Romano 2013).
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

PERMUTATIONS: Final = 9999
BATCH: Final = 250
ENOUGH: Final = 50
"""Permutations as far apart as what is seen after which it is chance (sequential; Besag and Clifford 1991)."""
TINY: Final = 1e-9
"""Added to variances: of groups without any spread, those that are equal are no distance apart, others are far."""
ROUNDING: Final = 1e-3
"""Two groups whose distances differ by less than this share are as far apart: sums of squares are not exact."""


def marking(volumes: Array, sizes_mm: Array, patient: NDArray[np.int64]) -> Array:
    """(p, 3), a row per patient: volumes, clinical marks, and the sum of the logarithms of their sizes.

    volumes            (p,) how many volumes each patient has
    sizes_mm, patient  (m,) of each clinical mark its size, and its patient's row; m may be 0
    """
    counts = np.bincount(patient, minlength=len(volumes))
    logs = np.bincount(patient, np.log(sizes_mm), minlength=len(volumes))
    return np.column_stack([volumes, counts, logs]).astype(np.float64)


def permutation_p(one: Array, other: Array, seed: int = 0) -> float:
    """How often chance alone sets two groups of patients so far apart: 1 / (PERMUTATIONS + 1) to 1.

    Both are (patients, k), sums over each patient. Compared is each column per unit of the column before it: with
    `marking`, clinical marks per volume, and the mean log size of a mark. The ratio that differs most, in its standard
    errors, counts. Where a group has nothing of a column, ratios to it say nothing; with an empty group p is 1.
    """
    pooled, few = _moments(np.concatenate([one, other])), min(len(one), len(other))
    if not few:
        return 1.0
    smaller = _moments(one if len(one) == few else other)
    seen = _apart(smaller.sum(0)[None], pooled, few)[0]
    rng, hits, tried = np.random.default_rng(seed), 0, 0
    while tried < PERMUTATIONS and hits < ENOUGH:
        count = min(BATCH, PERMUTATIONS - tried)
        draws = [rng.choice(len(pooled), few, replace=False, shuffle=False) for _ in range(count)]
        sums = np.array([pooled[draw].sum(0) for draw in draws])
        hits += int((_apart(sums, pooled, few) >= seen * (1 - ROUNDING)).sum())
        tried += count
    return (hits + 1) / (tried + 1)


def _moments(rows: Array) -> Array:
    """(patients, 3 k - 1): the columns, their squares, and each times the one before."""
    return np.hstack([rows, rows**2, rows[:, 1:] * rows[:, :-1]])


def _apart(sums: Array, pooled: Array, few: int) -> Array:
    """(n,) the largest squared difference of a ratio, in its variance, between n groups of `few` patients with such
    sums and all the others."""
    drawn, drawn_variance = _ratios(sums, few)
    rest, rest_variance = _ratios(pooled.sum(0) - sums, len(pooled) - few)
    apart: Array = ((drawn - rest) ** 2 / (drawn_variance + rest_variance + TINY)).max(1)
    return apart


def _ratios(sums: Array, patients: int) -> tuple[Array, Array]:
    """(n, k - 1) each column per unit of the one before, and its variance over patients; infinite per nothing."""
    k = (sums.shape[1] + 1) // 3
    total, squares, products = sums[:, :k], sums[:, k : 2 * k], sums[:, 2 * k :]
    per = np.where(total[:, :-1] > TINY, total[:, :-1], np.nan)
    ratio = total[:, 1:] / per
    spread = squares[:, 1:] - 2 * ratio * products + ratio**2 * squares[:, :-1]
    variance = np.maximum(spread, 0) / per**2 * patients / max(patients - 1, 1)
    return np.nan_to_num(ratio), np.nan_to_num(variance, nan=np.inf)
