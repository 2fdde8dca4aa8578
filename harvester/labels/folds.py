"""Folds by patient: no model scores a patient that it saw."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harvester.columns import place_in
from harvester.records import Split

NOWHERE: Final[Mapping[str, int]] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class Folds(Mapping[str, int]):
    """Every patient's fold: a dict that takes little memory, for it travels to every worker.

    patients    sorted
    numbers     (patients,) int16
    """

    patients: "pa.Array[Any]"
    numbers: NDArray[np.int16]

    @classmethod
    def from_dict(cls, dealt: Mapping[str, int]) -> "Folds":
        """The same of a dict."""
        patients = sorted(dealt)
        numbers = np.fromiter(map(dealt.__getitem__, patients), np.int16, len(patients))
        return cls(pa.array(patients, pa.string()), numbers)

    def __getitem__(self, patient: str) -> int:
        place = place_in(self.patients, patient)
        if place is None:
            raise KeyError(patient)
        return int(self.numbers[place])

    def __iter__(self) -> Iterator[str]:
        return (patient.as_py() for patient in self.patients)

    def __len__(self) -> int:
        return len(self.patients)


def patient_folds(
    manifest_rows: Iterable[Mapping[str, Any]], folds: int, seed: int, given: Mapping[str, int] = NOWHERE
) -> Folds:
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
    return Folds.from_dict(dealt)
