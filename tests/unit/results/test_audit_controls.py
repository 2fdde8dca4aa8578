"""What is planted is spread over patients, the best-scored of each first."""

import numpy as np
import pyarrow as pa
import pytest

from harvester.records import SelectedTable
from harvester.results.audit import spread


def finds(*patients: str) -> SelectedTable:
    return SelectedTable(
        pa.table({"patient_id": pa.array(patients, pa.string()), "number": list(range(len(patients)))})
    )


@pytest.mark.parametrize(
    ("count", "expected"), [(0, []), (2, [0, 3]), (3, [0, 3, 5]), (5, [0, 3, 5, 1, 4]), (9, [0, 3, 5, 1, 4, 2])]
)
def test_the_second_of_a_patient_comes_after_all_first_ones(count: int, expected: list[int]) -> None:
    # One patient's structure, found in three of its scans, scores above all others.
    table, worth = finds("a", "a", "a", "b", "b", "c"), np.array([9.0, 8, 7, 6, 5, 4])
    assert spread(table, worth, count)["number"].to_pylist() == expected
    turned = SelectedTable(table.take(pa.array([5, 4, 3, 2, 1, 0])))
    assert spread(turned, worth[::-1], count)["number"].to_pylist() == expected


def test_nothing_is_spread_over_nobody() -> None:
    assert len(spread(finds(), np.zeros(0), 5)) == 0
