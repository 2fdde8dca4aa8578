"""An arm's answer as figures: recall at equal precision, precision and recall of its list, paired over patients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from harvester.evaluation.bootstrap import draw_patients, interval
from harvester.evaluation.matching import Floats, Integers
from harvester.records import SelectedTable, schema_of, values
from harvester.results.truth import TruthEvaluator

PRECISION: Final = 0.90
SCHEMA: Final = schema_of(
    ("patient", pa.int32()), ("score", pa.float64()), ("found", pa.int32()), ("taken", pa.bool_())
)


@dataclass(frozen=True, eq=False)
class Ranking:
    """What an arm says of V_H^test, best first.

    patient  (n,) number of each tubelet's patient
    found    (n,) of how many hidden lesions it is the first: one at most, but for boxes on two that touch
    taken    (n,) whether the arm harvests it
    lesions  (patients,) hidden lesions of each patient
    """

    patient: Integers
    score: Floats
    found: Integers
    taken: Integers
    lesions: Integers

    @classmethod
    def of(cls, candidates: SelectedTable, taken: SelectedTable, truth: TruthEvaluator) -> "Ranking":
        """From V_H's candidates with their scores, and those that are harvested; what is no V_H^test is left out."""
        number, lesions = lesions_by_patient(truth)
        ordered = candidates.take(np.argsort(-candidates["score"].to_numpy(), kind="stable"))
        finds = truth.finds(ordered)
        known = [found is not None for found in finds]
        ordered = ordered.filter(pa.array(known, pa.bool_()))
        chosen = {
            (row["volume_id"], row["tubelet_id"]) for row in taken.select(["volume_id", "tubelet_id"]).to_pylist()
        }
        keys = zip(values(ordered["volume_id"]), values(ordered["tubelet_id"]), strict=True)
        return cls(
            np.array([number[patient] for patient in values(ordered["patient_id"])], np.int64),
            ordered["score"].to_numpy(),
            np.array([found for found in finds if found is not None], np.int64),
            np.array([key in chosen for key in keys], np.int64),
            lesions,
        )

    def table(self) -> pa.Table:
        """As a table without any id."""
        columns: dict[str, Any] = {
            "patient": self.patient.astype(np.int32),
            "score": self.score,
            "found": self.found.astype(np.int32),
            "taken": self.taken.astype(bool),
        }
        return pa.table(columns, SCHEMA)

    @classmethod
    def from_table(cls, table: pa.Table, lesions: Sequence[int]) -> "Ranking":
        """The same again."""
        patient, score, found, taken = (table[name].to_numpy(zero_copy_only=False) for name in SCHEMA.names)
        return cls(patient.astype(np.int64), score, found.astype(np.int64), taken.astype(np.int64), np.array(lesions))

    def recall_at_precision(self, weights: Floats | None = None) -> Floats:
        """(b,) the highest recall with at least PRECISION, in hindsight; weights (b, patients): how often each is
        drawn."""
        weights = np.ones((1, len(self.lesions))) if weights is None else weights
        own = weights[:, self.patient]
        right, seen = np.cumsum(own * (self.found > 0), axis=1), np.cumsum(own, axis=1)
        found = np.cumsum(own * self.found, axis=1)
        reached = np.where(right >= PRECISION * seen, found, 0.0).max(axis=1, initial=0.0)
        return np.asarray(reached / np.maximum(weights @ self.lesions, 1))

    def recall(self, weights: Floats | None = None) -> Floats:
        """(b,) of the arm's own list."""
        weights = np.ones((1, len(self.lesions))) if weights is None else weights
        found = weights[:, self.patient] @ (self.found * self.taken)
        return np.asarray(found / np.maximum(weights @ self.lesions, 1))


def lesions_by_patient(truth: TruthEvaluator) -> tuple[Mapping[str, int], Integers]:
    """A number for each patient of V_H^test, and how many hidden lesions each has."""
    rows = [row for row in truth.manifest.to_pylist() if row["split"] == "vh_test"]
    number = {patient: at for at, patient in enumerate(sorted({row["patient_id"] for row in rows}))}
    of_volume = {row["volume_id"]: number[row["patient_id"]] for row in rows}
    places = [of_volume[volume] for volume in values(truth.lesions["volume_id"])]
    return number, np.bincount(np.array(places, np.int64), minlength=len(number))


def paired(
    ones: Sequence[Ranking], others: Sequence[Ranking], resamples: int
) -> tuple[float, tuple[float, float] | None]:
    """How much more recall at equal precision ones have than others, archive by archive and seed by seed, in the mean;
    and its 95 % interval: patients of each are drawn, the same for both, and pairs of seeds as a second level."""
    value = float(
        np.mean(
            [one.recall_at_precision() - other.recall_at_precision() for one, other in zip(ones, others, strict=True)]
        )
    )
    if not resamples:
        return value, None
    differences = []
    for at, (one, other) in enumerate(zip(ones, others, strict=True)):
        draws = draw_patients(len(one.lesions), resamples, at).astype(np.float64)
        differences.append(one.recall_at_precision(draws) - other.recall_at_precision(draws))
    drawn = np.random.default_rng(0).integers(len(ones), size=(resamples, len(ones)))
    low, high = interval(np.take_along_axis(np.stack(differences, axis=1), drawn, axis=1).mean(axis=1))
    return value, (float(low), float(high))
