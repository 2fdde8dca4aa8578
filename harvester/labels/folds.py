"""Folds by patient: no model scores a patient that it saw."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


def patient_folds(manifest_rows: Iterable[Mapping[str, Any]], folds: int, seed: int) -> dict[str, int]:
    """patient_id -> fold. Patients of each split are dealt out in turn, after a seeded shuffle."""
    splits: dict[str, set[str]] = {}
    for row in manifest_rows:
        splits.setdefault(row["split"], set()).add(row["patient_id"])
    rng = np.random.default_rng(seed)
    dealt: dict[str, int] = {}
    for split in sorted(splits):
        patients = sorted(splits[split] - dealt.keys())
        order = rng.permutation(len(patients))
        dealt |= {patients[int(i)]: place % folds for place, i in enumerate(order)}
    return dealt
