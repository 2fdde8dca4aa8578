"""What holds of any labels: rows have one order, marks reach as far as their size, patients stay together."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from harvester.labels.folds import patient_folds
from harvester.labels.ledger import UNSURE, extend, extrude_marks
from harvester.records import LEDGER, SIDES, SPLITS, LedgerTable, empty, rows_where
from tests.builders import label, labels, manifest

NAMES = ("a", "b")
DEPTH = 9


@st.composite
def label_rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Labels of two volumes, each of its own id; on one slice or on several."""
    rows = []
    for number in range(draw(st.integers(0, 6))):
        x, y, width, height = (draw(st.integers(0, 40)) for _ in range(4))
        first, count = draw(st.integers(0, DEPTH - 1)), draw(st.integers(1, 3))
        box, z = ((float(x), float(y), float(x + width), float(y + height)), range(first, min(first + count, DEPTH)))
        role = draw(st.sampled_from(["lesion", "hard_negative", "ignored"]))
        rows.append(label(draw(st.sampled_from(NAMES)), box, role, z=list(z), label_id=f"l{number}"))
    return rows


@given(label_rows(), label_rows(), st.integers(0, 99))
def test_a_ledger_is_the_same_whatever_comes_first_and_keeps_every_row(
    one: list[dict[str, Any]], other: list[dict[str, Any]], seed: int
) -> None:
    other = [row | {"label_id": f"other-{row['label_id']}"} for row in other]
    whole = extend(labels(*one), labels(*other))
    both = [*one, *other]
    shuffled = [both[place] for place in np.random.default_rng(seed).permutation(len(both))]
    assert extend(empty(LedgerTable), *(labels(row) for row in shuffled)).equals(whole)
    assert whole.schema.equals(LEDGER)
    assert sum(len(rows_where(whole, "role", role)) for role in ("lesion", "hard_negative", "ignored")) == len(
        one
    ) + len(other)


@given(label_rows(), st.sampled_from([0.5, 2.0, 5.0]))
def test_a_mark_reaches_evenly_by_its_short_side_and_no_further_than_its_volume(
    rows: list[dict[str, Any]], slice_mm: float
) -> None:
    volumes = manifest(dict.fromkeys(NAMES, "vm"), (DEPTH, 96, 96), (slice_mm, 1.0, 2.0))
    for row, wide in zip(labels(*rows).to_pylist(), extrude_marks(labels(*rows), volumes).to_pylist(), strict=True):
        if len(row["z"]) > 1:
            assert wide == row
            continue
        key = row["z"][0]
        width_mm, height_mm = 2 * (row["x2"][0] - row["x1"][0] + 1), row["y2"][0] - row["y1"][0] + 1
        near = [z for z in range(DEPTH) if abs(z - key) * slice_mm <= UNSURE * min(width_mm, height_mm)]
        assert set(near) <= set(wide["z"])
        assert len(wide["z"]) <= len(near) + 2
        assert wide["z"] == list(range(wide["z"][0], wide["z"][-1] + 1))
        assert wide["z"][0] >= 0 and wide["z"][-1] < DEPTH
        for side in SIDES:
            assert set(wide[side]) == set(row[side])
        assert wide | {name: row[name] for name in ("z", *SIDES)} == row


@given(
    st.lists(st.tuples(st.sampled_from(SPLITS), st.integers(0, 30)), max_size=40), st.integers(2, 5), st.integers(0, 9)
)
def test_folds_keep_patients_together_and_sets_even(volumes: list[tuple[str, int]], folds: int, seed: int) -> None:
    rows = [{"split": split, "patient_id": f"{split}-{number}"} for split, number in volumes]
    dealt = patient_folds(rows, folds, seed)
    assert set(dealt) == {row["patient_id"] for row in rows}
    assert set(dealt.values()) <= set(range(folds))
    for split in SPLITS:
        mine = [fold for patient, fold in dealt.items() if patient.startswith(f"{split}-")]
        sizes = [mine.count(fold) for fold in range(folds)]
        assert max(sizes) - min(sizes) <= 1
    assert patient_folds(rows[::-1], folds, seed) == dealt
