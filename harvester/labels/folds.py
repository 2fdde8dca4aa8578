"""Folds by patient: no model scores a patient that it saw."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from harvester.records import Split

NOWHERE: Final[Mapping[str, int]] = MappingProxyType({})


def patient_folds(
    manifest_rows: Iterable[Mapping[str, Any]], folds: int, seed: int, given: Mapping[str, int] = NOWHERE
) -> dict[str, int]:
    """patient_id -> fold. Patients of each split are dealt out in turn, after a seeded shuffle; some may be `given`.

    One of V_M and another split is dealt with V_M, whose patients are then in as many folds as they can be.
    """
    splits: dict[str, set[str]] = {}
    for row in manifest_rows:
        splits.setdefault(row["split"], set()).add(row["patient_id"])
    rng = np.random.default_rng(seed)
    dealt = {**given}
    mining = splits.get(Split.VM, set())
    for split in sorted(splits):
        patients = sorted(splits[split] - dealt.keys() - (mining if split != Split.VM else set()))
        order = rng.permutation(len(patients))
        dealt |= {patients[int(i)]: place % folds for place, i in enumerate(order)}
    return dealt
