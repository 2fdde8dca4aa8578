"""The permutation test: its level, what it sees, and what says nothing."""

import numpy as np
import pytest

from harvester.certificate import likeness
from harvester.certificate.likeness import Array, marking, permutation_p

FEWER = 1999
"""Permutations where hundreds of pairs of groups are compared: enough for a p below 0.001."""


def clinic(rng: np.random.Generator, patients: int, flagged: str = "largest") -> Array:
    """Patients with 1 + Poisson(1.7) lesions in one volume, of which a clinic marked one."""
    lesions = 1 + rng.poisson(1.7, patients)
    patient = np.repeat(np.arange(patients), lesions)
    size_mm = np.exp(3 + 0.5 * rng.normal(size=len(patient)))
    order = {"largest": -size_mm, "smallest": size_mm, "any": rng.random(len(patient))}.get(flagged, -size_mm)
    ranked = np.lexsort((order, patient))
    first = ranked[np.r_[True, np.diff(patient[ranked]) > 0]]
    marked = {"none": first[:0], "half": first[rng.random(len(first)) < 0.5]}.get(flagged, first)
    return marking(np.ones(patients), size_mm[marked], patient[marked])


@pytest.mark.parametrize("flagged", ["none", "half", "smallest", "any"])
def test_a_mining_set_marked_otherwise_is_told_from_chance(flagged: str) -> None:
    rng = np.random.default_rng(0)
    assert permutation_p(clinic(rng, 150, flagged), clinic(rng, 300)) < 0.001


def test_of_alike_groups_no_more_are_told_apart_than_the_level_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likeness, "PERMUTATIONS", FEWER)
    rng = np.random.default_rng(1)
    found = np.array([permutation_p(clinic(rng, 20), clinic(rng, 60)) for _ in range(150)])
    assert 0 < (found < 0.05).mean() < 0.1
    assert (found < 0.001).sum() <= 1


def test_it_holds_nearly_where_one_group_has_fewer_volumes_of_a_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likeness, "PERMUTATIONS", FEWER)
    rng = np.random.default_rng(2)

    def group(patients: int, more: float) -> Array:
        volumes = 1 + rng.poisson(more, patients)
        marks = rng.poisson(volumes * np.exp(rng.normal(0, 0.5, patients)))
        return marking(volumes, np.exp(rng.normal(3, 0.5, marks.sum())), np.repeat(np.arange(patients), marks))

    found = np.array([permutation_p(group(30, 0.0), group(120, 2.0)) for _ in range(100)])
    assert (found < 0.05).mean() < 0.12 and (found < 0.001).sum() <= 1


def test_a_few_patients_are_never_far_apart() -> None:
    rng = np.random.default_rng(3)
    assert permutation_p(clinic(rng, 3, "none"), clinic(rng, 4)) > 0.02


@pytest.mark.parametrize(("one", "other"), [(0, 5), (5, 0), (0, 0)])
def test_an_empty_group_is_like_any(one: int, other: int) -> None:
    rng = np.random.default_rng(4)
    assert permutation_p(clinic(rng, 8)[:one], clinic(rng, 8)[:other]) == 1.0


def test_equal_groups_without_any_spread_are_alike_and_other_ones_are_not() -> None:
    same, double = np.tile([1.0, 1.0, 3.0], (40, 1)), np.tile([1.0, 2.0, 6.0], (40, 1))
    assert permutation_p(same, same) == 1.0
    assert permutation_p(same, double) < 0.001
    # Three against three: 2 of the 20 ways to part them.
    sizes = np.tile([1.0, 1.0, np.log(6)], (3, 1)), np.tile([1.0, 1.0, np.log(7)], (3, 1))
    assert 0.05 < permutation_p(*sizes) < 0.2
