"""Nothing is harvested of V_H that V_M has shown no like of.

Of one patient no more than V_M's fullest patient gave, and nothing from models that no accepted tubelet of V_M tried:
a rare patient with many errors, or a fold whose fit went wrong, is else certified unseen. What is cut off is left for
review. It gets no label that teaches: nothing learns that it is no lesion.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from harvester.records import SelectedTable, values


@dataclass(frozen=True)
class Limits:
    """What V_M has shown at a threshold.

    most   tubelets accepted of its fullest patient, right or wrong; 0 where none is
    folds  those in which it has accepted some
    """

    most: int
    folds: frozenset[int]


@dataclass(frozen=True, eq=False)
class Cut:
    """What reaches a threshold in V_H.

    lesions  harvested, best first
    left     left for review, best first
    limits   why
    untried  folds of what is left in which V_M accepted nothing
    """

    lesions: SelectedTable
    left: SelectedTable
    limits: Limits
    untried: tuple[int, ...]

    @property
    def patients_left(self) -> int:
        """Of how many patients something is left."""
        return len(set(values(self.left["patient_id"])))

    def told(self) -> str:
        """What is left and why, '' where nothing is."""
        if not len(self.left):
            return ""
        folds = f", and fold {', '.join(map(str, self.untried))}, where V_M accepted none" if self.untried else ""
        return (
            f"{len(self.left)} of the {len(self.left) + len(self.lesions)} tubelets that reach the threshold are left "
            f"for review (of {self.patients_left} patients): what exceeds {self.limits.most} of one patient, the most "
            f"that one of V_M gave{folds}"
        )


def cut(reaching: SelectedTable, limits: Limits, folds: Mapping[str, int]) -> Cut:
    """Harvest within the limits, best first.

    reaching  tubelets of V_H that reach the threshold, best first
    folds     every patient's
    """
    patients = values(reaching["patient_id"])
    own = {patient: folds[patient] for patient in set(patients)}
    fits = np.array(list(_fit(patients, limits, own)), bool)
    untried = set(own.values()) - limits.folds
    lesions = reaching if fits.all() else SelectedTable(reaching.filter(pa.array(fits)))
    left = SelectedTable(reaching.filter(pa.array(~fits)))
    return Cut(lesions, left, limits, tuple(sorted(untried)))


def _fit(patients: Iterable[str], limits: Limits, folds: Mapping[str, int]) -> Iterable[bool]:
    taken: Counter[str] = Counter()
    for patient in patients:
        fits = folds[patient] in limits.folds and taken[patient] < limits.most
        taken[patient] += fits
        yield fits
