"""V_H beside V_M without labels: the test's level and power by simulation, and what a round tells."""

from collections.abc import Mapping
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from harvester.certificate.exchangeability import compare, said
from harvester.certificate.permutation import permuted
from harvester.config.settings import Settings
from harvester.geometry import Array
from harvester.mining.fusion import ScoreFusion
from harvester.mining.round_view import RoundView, StoreTables
from harvester.records import MANIFEST, ManifestTable, ReviewedTable, empty
from harvester.run.summary import Comparison
from tests.builders import manifest, marks, scored, tubelet

PLAIN = ScoreFusion(0.0)
BOX = (10.0, 10.0, 19.0, 19.0)


def drawn(rng: np.random.Generator, patients: int, most: int = 6, look_alikes: float = 0.0) -> tuple[Array, Array]:
    """Patients of one to `most` volumes, whose accepted repeat in each: sums and weights, accepted and their widths."""
    volumes = rng.geometric(0.4, patients).clip(max=most)
    accepted = rng.poisson(rng.gamma(1.0, 1.0, patients) * volumes) + volumes * rng.poisson(look_alikes, patients)
    width = accepted * rng.normal(12, 4, patients)
    return np.stack([accepted, width], 1), np.stack([volumes, accepted], 1)


def share_below(archives: int, patients_vm: int = 25, patients_vh: int = 60, **of_vm: Any) -> float:
    """How often V_H is told from V_M at 5 %."""
    rng, in_vm, found = np.random.default_rng(7), np.arange(patients_vm + patients_vh) < patients_vm, 0
    for seed in range(archives):
        both = zip(drawn(rng, patients_vm, **of_vm), drawn(rng, patients_vh), strict=True)
        found += permuted(*(np.concatenate(pair) for pair in both), in_vm, seed, 199)[0] < 0.05
    return found / archives


def test_alike_sides_are_called_unlike_in_five_of_a_hundred_archives() -> None:
    assert 0.025 <= share_below(300) <= 0.08
    assert 0.02 <= share_below(300, patients_vm=8, patients_vh=40) <= 0.08


def test_it_nearly_holds_where_v_m_has_one_volume_of_each_patient() -> None:
    assert 0.02 <= share_below(200, most=1) <= 0.09


def test_a_shifted_side_is_found() -> None:
    assert share_below(60, look_alikes=1.5) > 0.8


def test_p_is_the_share_of_all_ways_to_name_the_patients() -> None:
    sums, in_vm = np.array([[9.0], [8.0], [3.0], [1.0], [2.0], [5.0], [4.0]]), np.arange(7) < 2

    def welch(vm: tuple[int, ...]) -> float:
        one, other = sums[list(vm)], sums[[each for each in range(7) if each not in vm]]
        return float((other.mean() - one.mean()) / np.sqrt(one.var(ddof=1) / len(one) + other.var(ddof=1) / len(other)))

    every = np.array([welch(vm) for vm in combinations(range(7), 2)])
    tails = np.minimum(*((sign * every[:, None] >= sign * every - 1e-9).sum(axis=1) for sign in (1, -1)))
    share = np.mean(tails <= tails[0])
    assert permuted(sums, np.ones((7, 1)), in_vm, 0)[0] == pytest.approx(share, abs=0.03)
    # What is the same everywhere tells nothing, nor does what one side has none of.
    assert permuted(np.ones((7, 1)), np.ones((7, 1)), in_vm, 0) == (1.0, [1.0])
    p, (own, constant) = permuted(np.hstack([sums, 0 * sums]), np.hstack([np.ones((7, 1)), 0 * sums]), in_vm, 0)
    assert (p, constant) == (own, 1.0)


def test_ten_thousand_patients_and_one_seed_give_one_answer() -> None:
    rng = np.random.default_rng(1)
    sums, weights = drawn(rng, 10_000)
    in_vm = np.arange(10_000) < 743
    assert permuted(sums, weights, in_vm, 3) == permuted(sums, weights, in_vm, 3) != permuted(sums, weights, in_vm, 4)


def view(accepted: Mapping[str, int], volumes: ManifestTable, **columns: Any) -> RoundView:
    """Each volume with as many tubelets above 0.5 as it is given, and five below."""
    rows = [
        tubelet(name, BOX, z=(5,) if i < 5 else (4, 5), lpc_score=0.1 if i < 5 else 0.9, **columns)
        for name, count in accepted.items()
        for i in range(5 + count)
    ]
    tables = StoreTables(volumes, marks(), empty(ReviewedTable))
    return RoundView((scored(*rows),), tables, Settings())


def compared(
    accepted: Mapping[str, int], volumes: ManifestTable | None = None, left_out: tuple[str, ...] = ()
) -> Comparison:
    """V_M is m..., V_H is h...; the rule accepts from 0.5 on."""
    volumes = volumes or manifest({name: "vm" if name.startswith("m") else "vh" for name in accepted})
    selected: Any = SimpleNamespace(choice=PLAIN, point=SimpleNamespace(threshold=0.5))
    return compare(view(accepted, volumes), selected, left_out, seed=0)


def by_count(vm: list[int], vh: list[int]) -> dict[str, int]:
    return {f"m{i:02d}": count for i, count in enumerate(vm)} | {f"h{i:02d}": count for i, count in enumerate(vh)}


def test_a_harder_side_is_told_in_one_sentence() -> None:
    told = compared(by_count([1, 2] * 6, [4, 6] * 8))
    assert told.p is not None and told.p < 0.01
    assert (told.patients_vm, told.patients_vh) == (12, 16)
    assert (told.most_of_a_patient_vm, told.most_of_a_patient_vh) == (2, 6)
    figures = {row.aspect: (row.vm, row.vh) for row in told.aspects}
    assert figures["accepted per patient"] == (1.5, 5.0)
    assert figures["accepted: length in slices"] == (2.0, 2.0)
    assert figures["volumes: slices"] == (12.0, 12.0)
    assert said(told).startswith("V_H looks harder than V_M: p = 0.001 (accepted per volume: 5, in V_M 1.5); ")
    assert "audit it" in said(told)


def test_a_side_with_less_is_unlike_and_one_that_is_alike_is_said_to_be() -> None:
    assert said(compared(by_count([4, 6] * 8, [1, 2] * 6))).startswith("V_H looks unlike V_M: p = ")
    alike = compared(by_count([1, 2, 3] * 5, [3, 1, 2] * 5))
    assert alike.p is not None and alike.p > 0.5
    assert said(alike) == f"nothing tells V_H from V_M: p = {alike.p:.2g} (15 patients of V_M, 15 of V_H)"


@pytest.mark.parametrize(("vm", "vh"), [(4, 20), (20, 4), (0, 9), (9, 0), (0, 0)])
def test_too_few_patients_tell_nothing(vm: int, vh: int) -> None:
    told = compared(by_count([1] * vm, [9] * vh), manifest({}) if not vm + vh else None)
    assert told.p is None and all(row.p is None for row in told.aspects)
    asked = f"({vm} patients of V_M, {vh} of V_H; at least 5 of each are asked)"
    assert said(told) == f"too few patients to tell whether V_H is like V_M {asked}"


def test_patients_are_compared_not_volumes_nor_what_was_left_out() -> None:
    counts = by_count([2] * 6, [2] * 8)
    rows = manifest({name: "vm" if name.startswith("m") else "vh_test" for name in counts}).to_pylist()
    # Two volumes of one patient, one of a patient of V_M, one that could not be scored and has nothing therefore.
    rows[7]["patient_id"], rows[8]["patient_id"] = "p-h00", "p-m00"
    told = compared(counts, ManifestTable(pa.Table.from_pylist(rows, MANIFEST)), left_out=("h07",))
    assert (told.patients_vm, told.patients_vh) == (6, 5)
    assert told.most_of_a_patient_vh == 4
    assert {row.aspect: row.vh for row in told.aspects}["accepted per volume"] == 2.0


def test_what_v_h_shows_and_v_m_never_did_is_counted() -> None:
    volumes = manifest({"m": "vm", "h": "vh", "n": "vm"})
    rows = volumes.to_pylist()
    rows[1]["spacing_z_mm"] = 7.5
    volumes = ManifestTable(pa.Table.from_pylist(rows, MANIFEST))
    table = scored(
        tubelet("m", BOX, lpc_score=0.6, width_mm=10.0),
        tubelet("n", BOX, lpc_score=0.9, width_mm=20.0),
        tubelet("h", BOX, lpc_score=0.7, width_mm=20.0),
        tubelet("h", BOX, lpc_score=0.7, width_mm=21.0),
        tubelet("h", BOX, lpc_score=0.95, width_mm=9.0, z=(4,)),
    )
    tables = StoreTables(volumes, marks(), empty(ReviewedTable))
    one = RoundView((table,), tables, Settings())
    selected: Any = SimpleNamespace(choice=PLAIN, point=SimpleNamespace(threshold=0.5))
    beyond = {"width in mm": 2, "length in slices": 1, "score": 1}
    beyond |= {"slice distance in mm": 3, "pixel in mm": 0, "slices": 0}
    assert compare(one, selected, (), 0).beyond_vm == beyond
    # Nothing accepted in V_M: V_H's are all unseen.
    selected.point.threshold = 0.92
    assert compare(one, selected, (), 0).beyond_vm["width in mm"] == 1
