"""The volumes that miss the most annotations."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from harvester.records import MISSING
from harvester.results.completeness import probabilities, rank_volumes
from tests.builders import manifest, mark, marks

UNKNOWN = ("expected_more", "expected_missing", "best_left")

BOX = (0.0, 0.0, 1.0, 1.0)


def table(**columns: Any) -> pa.Table:
    return pa.table(columns)


def test_probabilities_are_monotone_and_calibrated() -> None:
    rng = np.random.default_rng(0)
    score = rng.random(4000)
    calibration = table(score=score, correct=rng.random(4000) < score**2)
    found = probabilities(calibration, table(score=np.linspace(0, 1, 101)))
    assert np.all(np.diff(found) >= 0)
    np.testing.assert_allclose(found[10:95], np.linspace(0, 1, 101)[10:95] ** 2, atol=0.12)
    # On the scores it was learned from, the sum of the probabilities is the number of lesions.
    assert probabilities(calibration, calibration).sum() == pytest.approx(calibration["correct"].to_numpy(False).sum())


def test_probabilities_of_ties_and_of_nothing() -> None:
    calibration = table(score=[0.5, 0.5, 0.5, 0.5], correct=[True, False, False, False])
    assert probabilities(calibration, table(score=[0.4, 0.5, 0.9])).tolist() == [0.0, 0.25, 0.25]
    nothing = calibration.slice(0, 0)
    assert probabilities(nothing, table(score=[0.4, 0.9])).tolist() == [0.0, 0.0]


def test_volumes_are_ranked_by_what_is_harvested_and_expected() -> None:
    calibration = table(score=[0.2, 0.2, 0.8, 0.8], correct=[False, False, True, False])
    left = table(volume_id=["a", "a", "c", "m"], score=[0.8, 0.9, 0.2, 0.9])
    volumes = manifest({"a": "vh", "b": "vh_test", "c": "vh", "m": "vm"})
    known = marks(*(mark(name, BOX) for name in ("a", "b", "b")), mark("c", BOX, clinical=False))
    ranked = rank_volumes(volumes, known, table(volume_id=["b", "b"]), left, calibration)
    assert ranked.schema == MISSING
    assert ranked["volume_id"].to_pylist() == ["b", "a", "c"]
    assert ranked["expected_missing"].to_pylist() == [2.0, 1.0, 0.0]
    assert ranked["expected_more"].to_pylist() == [0.0, 1.0, 0.0]
    assert ranked["harvested"].to_pylist() == [2, 0, 0]
    assert ranked["marked"].to_pylist() == [2, 1, 0]
    assert ranked["best_left"].to_pylist() == [None, 0.5, 0.0]


def test_a_volume_that_was_left_out_is_unknown_not_complete() -> None:
    calibration = table(score=[0.4, 0.6], correct=[False, True])
    volumes, left = manifest({"seen": "vh", "gone": "vh", "empty": "vh"}), table(volume_id=["seen"], score=[0.7])
    why = {"gone": "StoreError: cannot be read"}
    ranked = rank_volumes(volumes, marks(), table(volume_id=["gone", "gone"]), left, calibration, why)
    assert ranked["volume_id"].to_pylist() == ["seen", "empty", "gone"]
    assert ranked["expected_missing"].to_pylist() == [1.0, 0.0, None]
    assert ranked["harvested"].to_pylist() == [0, 0, 2]
    assert ranked["left_out"].to_pylist() == [None, None, "StoreError: cannot be read"]
    assert all(ranked[name][2].as_py() is None for name in UNKNOWN)


@pytest.mark.parametrize("right", [[], [False, False]])
def test_where_v_m_teaches_nothing_what_is_missing_is_unknown(right: list[bool]) -> None:
    calibration = table(score=pa.array([0.4, 0.6][: len(right)], pa.float64()), correct=pa.array(right, pa.bool_()))
    volumes, left = manifest({"a": "vh", "b": "vh_test"}), table(volume_id=["a"], score=[0.7])
    ranked = rank_volumes(volumes, marks(), table(volume_id=pa.array([], pa.string())), left, calibration)
    assert all(ranked[name].to_pylist() == [None, None] for name in UNKNOWN)
