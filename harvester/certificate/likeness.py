"""Whether two groups of patients were marked alike: clinical marks per volume, and how large they are.

V_M stands for V_H only if both were marked by the same clinic in the same way. Patients are exchangeable then, whatever
their volumes have in common.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from harvester.certificate.permutation import permuted

Array = NDArray[np.float64]

PERMUTATIONS: Final = 9999


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
    `marking`, clinical marks per volume, and the mean log size of a mark. Where a group has nothing of a column, ratios
    to it say nothing; with an empty group p is 1.
    """
    few, many = sorted((one, other), key=len)
    if not len(few):
        return 1.0
    rows = np.concatenate([few, many])
    return permuted(rows[:, 1:], rows[:, :-1], np.arange(len(rows)) < len(few), seed, PERMUTATIONS)[0]
