"""Archives of known truth for certificate.py: what is drawn of each kind."""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from harvester.mining.fusion import known_recall

Array = NDArray[Any]
WIDE = 20_000
"""Volumes, or patients, of a V_H on which precision is next to free of chance."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """Candidates (n,): scores of one round or of two, whether right, patient; and how many lesions there are.

    marking  (patients, 3) volumes, clinical marks and the sum of their log sizes, where marks are drawn
    own_vh   the V_H that its precision is judged on, where a V_M has one of its own
    """

    scores: tuple[Array, ...]
    correct: Array
    patients: Array
    lesions: int
    marking: Array | None = None
    own_vh: "Drawn | None" = None

    def above(self, floor: float) -> "Drawn":
        """Without what never scores so high."""
        rows = np.max(self.scores, axis=0) >= floor
        scores = tuple(each[rows] for each in self.scores)
        return replace(self, scores=scores, correct=self.correct[rows], patients=self.patients[rows])

    def pooled(self) -> "Drawn":
        """By what all rounds say together, as mining/bank.py has it."""
        return replace(self, scores=(np.mean(self.scores, axis=0),))

    def first_round(self) -> "Drawn":
        """Without the second."""
        return replace(self, scores=self.scores[:1])


class Kind(Protocol):
    """A kind of archive."""

    def draw(self, rng: np.random.Generator, harvested: bool = False, times: int = 0) -> Drawn:
        """V_M, or V_H (harvested): `times` as many patients as V_M, 0 for WIDE."""
        ...


def each(counts: Array) -> Array:
    """Patient i counts[i] times."""
    return np.repeat(np.arange(len(counts)), counts)


@dataclass(frozen=True)
class Archive:
    """Patients differ in lesions and scores, and some carry look-alikes, which show in each of their volumes.

    volumes_per_patient  mean, at least one; odd_patients: share who carry look-alikes, three each on average
    look_alike           their mean score (lesions 1.8, other structures -2.1, both on the logit scale)
    patient_sd           how much patients differ in their scores
    dispersion           of lesions over patients: the smaller, the more of them are in few patients
    shift                V_H's false structures score this much higher than V_M's
    """

    volumes: int
    volumes_per_patient: float = 1.5
    odd_patients: float = 0.06
    look_alike: float = 0.5
    patient_sd: float = 0.5
    lesions_per_volume: float = 2.4
    lesion: float = 1.8
    dispersion: float = 1.2
    shift: float = 0.0

    def draw(self, rng: np.random.Generator, harvested: bool = False, times: int = 0) -> Drawn:
        """A second round sees the same things a little better: lesions rise, the noise of each look is new."""
        wanted = (times * self.volumes or WIDE) if harvested else self.volumes
        patients = max(round(wanted / self.volumes_per_patient), 2)
        volumes = 1 + rng.poisson(self.volumes_per_patient - 1, patients)
        lesions = rng.negative_binomial(
            self.dispersion * volumes, self.dispersion / (self.dispersion + self.lesions_per_volume)
        )
        of_lesion = each(lesions)
        proposed = of_lesion[rng.random(len(of_lesion)) < 0.87]
        right = rng.normal(self.lesion, 1.3, len(proposed)) + rng.normal(0, self.patient_sd, patients)[proposed]
        odd = rng.poisson(np.where(rng.random(patients) < self.odd_patients, 3.0, 0.0))
        usual = rng.poisson(30, patients)
        of_structure = np.concatenate([each(usual), each(odd)])
        level = np.concatenate([rng.normal(-2.1, 0.9, usual.sum()), rng.normal(self.look_alike, 0.8, odd.sum())])
        level = level + rng.normal(0, self.patient_sd, patients)[of_structure] + self.shift * harvested
        shows = volumes[of_structure]
        first = np.concatenate([right, np.repeat(level, shows) + rng.normal(0, 0.5, shows.sum())])
        correct = np.arange(len(first)) < len(right)
        second = first + np.where(correct, 0.5, -0.2) + rng.normal(0, 0.4, len(first))
        of = np.concatenate([proposed, np.repeat(of_structure, shows)])
        return Drawn((first, second), correct, of, len(of_lesion))


@dataclass(frozen=True)
class Rare:
    """A share of the patients carries many errors that score as lesions do (metal, stents); the others next to none.

    usual  errors per lesion in the other patients
    """

    patients: int
    lesions: float
    odd: float
    errors: float
    usual: float = 0.01

    def draw(self, rng: np.random.Generator, harvested: bool = False, times: int = 0) -> Drawn:
        """One round."""
        patients = (times * self.patients or WIDE) if harvested else self.patients
        right = each(1 + rng.poisson(self.lesions - 1, patients))
        few = rng.random(patients) < self.usual * self.lesions
        wrong = each(np.where(rng.random(patients) < self.odd, rng.poisson(self.errors, patients), few))
        low = each(rng.poisson(8, patients))
        first = np.concatenate([rng.normal(2, 1, len(right) + len(wrong)), rng.normal(-3, 0.7, len(low))])
        return Drawn((first,), np.arange(len(first)) < len(right), np.concatenate([right, wrong, low]), len(right))


@dataclass(frozen=True)
class Alike:
    """Precision is the same at every threshold; patients differ in it, with a correlation within each."""

    patients: int
    correlation: float
    precision: float = 0.88
    accepted: float = 20

    def draw(self, rng: np.random.Generator, harvested: bool = False, times: int = 0) -> Drawn:
        """One round."""
        patients = (times * self.patients or WIDE) if harvested else self.patients
        strength = (1 - self.correlation) / self.correlation
        share = rng.beta(self.precision * strength, (1 - self.precision) * strength, patients)
        of = each(1 + rng.poisson(self.accepted - 1, patients))
        correct = rng.random(len(of)) < share[of]
        return Drawn((rng.random(len(of)),), correct, of, int(correct.sum() * 1.2))


@dataclass(frozen=True)
class Marked:
    """The clinic marks the largest lesion of each patient; V_M tells which those are (flagged), or none."""

    patients: int
    flagged: bool

    def draw(self, rng: np.random.Generator, harvested: bool = False, times: int = 0) -> Drawn:
        """One round, and the marks."""
        patients = (times * self.patients or WIDE) if harvested else self.patients
        of = each(1 + rng.poisson(1.7, patients))
        size = rng.normal(0, 1, len(of))
        score = 1.6 + 0.7 * size + rng.normal(0, 1, len(of)) + rng.normal(0, 0.4, patients)[of]
        order = np.lexsort((-size, of))
        largest = np.zeros(len(of), bool)
        largest[order[np.diff(of[order], prepend=-1) > 0]] = harvested or self.flagged
        false = each(rng.poisson(12, patients))
        low = rng.normal(-1.6, 1.2, len(false)) + rng.normal(0, 0.4, patients)[false]
        counts, sizes = np.bincount(of[largest], minlength=patients), np.bincount(of[largest], size[largest], patients)
        left, first = of[~largest], np.concatenate([score[~largest], low])
        marking = np.column_stack([np.ones(patients), counts, sizes])
        correct = np.arange(len(first)) < len(left)
        return Drawn((first,), correct, np.concatenate([left, false]), len(left), marking)


@dataclass(frozen=True)
class Choice:
    """Settings that are equally good rank the false structures of a patient differently; one of them is chosen.

    by_vm  by V_M's candidates, else by those of a V_H of four times the patients
    """

    patients: int
    settings: int
    by_vm: bool

    def draw(self, rng: np.random.Generator, harvested: bool = False, times: int = 0) -> Drawn:
        """One round, by the setting chosen. In V_H any setting will do: in the population they are alike."""
        if harvested:
            return replace(self, settings=1, patients=times * self.patients or WIDE // 2, by_vm=True).draw(rng)
        scores, correct, of = self._scores(rng, self.patients)
        rivals, lesions = scores, int(correct.sum())
        if not self.by_vm:
            rivals, also, _ = self._scores(rng, 4 * self.patients)
            lesions = int(also.sum())
        # Clinical marks are many and every setting ranks them alike, but for their own noise.
        known = rng.normal(1.8, 1.44, (self.settings, 3000))
        best = np.argmax([known_recall(*both, lesions) for both in zip(rivals, known, strict=True)])
        return Drawn((scores[best],), correct, of, int(correct.sum()))

    def _scores(self, rng: np.random.Generator, patients: int) -> tuple[Array, Array, Array]:
        right, false = each(1 + rng.poisson(1.5, patients)), each(rng.poisson(12, patients))
        of = np.concatenate([right, false])
        correct = np.arange(len(of)) < len(right)
        level = np.where(correct, rng.normal(1.8, 1.2, len(of)), rng.normal(-1.5, 1.0, len(of)))
        level = level + rng.normal(0, 0.4, patients)[of]
        own = rng.normal(0, 0.8, (self.settings, len(of)))
        return level + own + rng.normal(0, 0.8, (self.settings, patients))[:, of] * ~correct, correct, of


KINDS: dict[str, Kind] = {
    "50 volumes": Archive(50),
    "200 volumes": Archive(200),
    "744 volumes": Archive(744),
    "200 volumes, 4 a patient": Archive(200, volumes_per_patient=4),
    "200 volumes, many look-alikes": Archive(200, odd_patients=0.15, look_alike=1.5),
    "200 volumes, lesions in few patients": Archive(200, dispersion=0.2),
    "150 volumes of 6 patients": Archive(150, volumes_per_patient=25),
    "100 volumes of 17 patients": Archive(100, volumes_per_patient=6),
    "15 patients, 3 % with 30 errors": Rare(15, 6, 0.03, 30),
    "20 patients, 3 % with 30 errors": Rare(20, 5, 0.03, 30),
    "20 patients, 5 % with 12 errors": Rare(20, 3, 0.05, 12, usual=0.04),
    "50 patients, 2 % with 25 errors": Rare(50, 3, 0.02, 25),
    "100 patients, 1 % with 40 errors": Rare(100, 2.5, 0.01, 40),
    "6 patients, errors alike (0.6)": Alike(6, 0.6),
    "10 patients, errors alike (0.6)": Alike(10, 0.6),
    "20 patients, errors alike (0.6)": Alike(20, 0.6),
    "20 patients, errors alike (0.3)": Alike(20, 0.3),
    "150 patients, clinical marks told": Marked(150, flagged=True),
    "100 patients, best of 24 settings": Choice(100, 24, by_vm=False),
    "200 volumes, V_H a little harder": Archive(200, shift=0.3),
    "744 volumes, V_H a little harder": Archive(744, shift=0.3),
    "60 patients, clinical marks not told": Marked(60, flagged=False),
    "150 patients, clinical marks not told": Marked(150, flagged=False),
    "400 patients, clinical marks not told": Marked(400, flagged=False),
    "100 patients, best of 24 on V_M (was)": Choice(100, 24, by_vm=True),
}
"""From "V_H a little harder" on the conditions do not hold: such archives must be told before they are harvested (the
last is a way to choose by V_M's own labels that the engine does not go)."""
