"""The ledger keeps every label with its origin; folds keep patients apart."""

import pickle
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from harvester.labels import ledger as ledgers
from harvester.labels.folds import Folds, patient_folds
from harvester.records import IGNORE, LEDGER, MARKS, REVIEWED, SIDES, Mark, Role, rows_where
from tests.builders import marks, selected, tubelet

FOUND = selected(*(tubelet(name, (1.5, 1.5, 2.5, 2.5), z=(3, 4), score=0.7) for name in "ab"))


def test_marks_become_rows_of_one_slice_without_a_model() -> None:
    ledger = ledgers.from_marks(
        marks(Mark("a", "m1", 3, 1.0, 2.0, 3.0, 4.0, clinical=True), Mark("b", "m2", 5, 1, 2, 3, 4, clinical=False))
    )
    assert ledger.schema == LEDGER
    first, second = ledger.to_pylist()
    assert (first["source"], second["source"]) == ("clinical", "annotated")
    assert first["z"] == [3]
    assert [first[side] for side in SIDES] == [[1.0], [2.0], [3.0], [4.0]]
    for row in (first, second):
        assert (row["role"], row["round"]) == ("lesion", -1)
        assert row["score"] is row["model_hash"] is row["run_id"] is None


def test_a_harvested_row_has_its_origin() -> None:
    row = ledgers.from_tubelets(FOUND, "lesion", "harvested", 2, "cafe", "run9").to_pylist()[0]
    assert (row["volume_id"], row["label_id"]) == ("a", "harvested-2-0")
    assert (row["source"], row["round"], row["score"]) == ("harvested", 2, 0.7)
    assert (row["model_hash"], row["run_id"], row["z"]) == ("cafe", "run9", [3, 4])
    assert row["probability"] is None, "nobody knows"
    sure = ledgers.from_tubelets(FOUND, "lesion", "harvested", 2, "cafe", "run9", np.full(len(FOUND), 0.875))
    assert sure["probability"].to_pylist() == [0.875] * 2


def test_empty_tables_have_the_schema() -> None:
    assert ledgers.from_marks(MARKS.empty_table()).schema == LEDGER
    nothing = ledgers.from_tubelets(FOUND.slice(0, 0), "lesion", "harvested", 0, "", "")
    assert nothing.schema == LEDGER
    assert len(ledgers.extend(LEDGER.empty_table(), nothing)) == 0
    assert len(rows_where(LEDGER.empty_table(), "role", "lesion")) == 0
    assert ledgers.by_volume(LEDGER.empty_table()) == {}


def test_the_same_labels_make_the_same_table_in_any_order() -> None:
    base = ledgers.from_marks(marks(Mark("b", "m2", 5, 1, 2, 3, 4, clinical=True)))
    lesions = ledgers.from_tubelets(FOUND, "lesion", "harvested", 0, "h", "r")
    negatives = ledgers.from_tubelets(FOUND, "hard_negative", "hard_negative_vm", 0, "h", "r")
    one = ledgers.extend(base, lesions, negatives)
    other = ledgers.extend(negatives, base, lesions.take([1, 0]))
    assert one.equals(other)
    assert len(one) == 5
    assert [chunk.num_chunks for chunk in one.columns] == [1] * len(LEDGER)
    assert rows_where(one, "role", "hard_negative")["source"].to_pylist() == ["hard_negative_vm"] * 2


def test_rows_by_volume() -> None:
    groups = ledgers.by_volume(selected(*(tubelet(name, (1, 1, 2, 2)) for name in "aba")))
    ids = {name: [row["tubelet_id"] for row in rows] for name, rows in groups.items()}
    assert ids == {"a": [0, 2], "b": [1]}


def patient_rows(patients: dict[str, int]) -> list[dict[str, Any]]:
    """Patients p0 .. of each split with two volumes each; one patient in two splits."""
    rows = [
        {"patient_id": f"{split}-{i // 2}", "split": split}
        for split, count in patients.items()
        for i in range(2 * count)
    ]
    return [*rows, {"patient_id": "vm-0", "split": "vh"}]


def test_folds_split_each_set_evenly_and_by_patient() -> None:
    rows = patient_rows({"vm": 7, "vh": 10, "vh_test": 5})
    folds = patient_folds(rows, 3, seed=5)
    assert set(folds) == {row["patient_id"] for row in rows}
    assert set(folds.values()) == {0, 1, 2}
    for split, count in (("vm", 7), ("vh", 10), ("vh_test", 5)):
        sizes = [sum(f == k for p, f in folds.items() if p.startswith(f"{split}-")) for k in range(3)]
        assert sum(sizes) == count
        assert max(sizes) - min(sizes) <= 1
    assert folds == patient_folds(rows[::-1], 3, seed=5)
    assert folds != patient_folds(rows, 3, seed=6)
    assert patient_folds([], 2, 0) == {}


def test_folds_answer_as_a_dict_does_and_travel_well() -> None:
    dealt = {f"p{number}": number % 3 for number in (5, 30, 7, 1)} | {"": 1, "ü": 2}
    folds = pickle.loads(pickle.dumps(Folds.from_dict(dealt)))  # noqa: S301  our own
    assert folds == dealt and {**folds} == dealt and len(folds) == 6
    assert list(folds) == sorted(dealt)
    assert all(type(fold) is int for fold in folds.values())
    assert "p2" not in folds and folds.get("p2") is None
    with pytest.raises(KeyError, match="p2"):
        folds["p2"]


def test_regions_left_out_become_one_box_per_slice() -> None:
    regions = pa.Table.from_pylist(
        [{"volume_id": "a", "z1": 3, "z2": 5, "x1": 1.0, "y1": 2.0, "x2": 9.0, "y2": 8.0}], IGNORE
    )
    (row,) = ledgers.from_ignored(regions).to_pylist()
    assert (row["role"], row["z"], row["x2"]) == ("ignored", [3, 4, 5], [9.0] * 3)
    assert len(rows_where(ledgers.from_ignored(regions), "role", "lesion")) == 0
    assert ledgers.from_ignored(IGNORE.empty_table()).equals(LEDGER.empty_table())


def test_a_store_reviewed_before_the_roles_name_changed_is_read() -> None:
    box = {"z": [3], **{side: [1.0] for side in SIDES}}
    rows = [
        {"volume_id": "a", "label_id": role, "role": role, "source": "reviewed", "round": 2, **box}
        for role in ("rehearsed", "calibration", "lesion")
    ]
    known = ledgers.from_reviewed(pa.Table.from_pylist(rows, REVIEWED))
    assert known.schema == LEDGER
    assert known["role"].to_pylist() == [Role.CALIBRATION, Role.CALIBRATION, Role.LESION]
    # It says what not to count: it lasts, and nothing is kept away from it.
    assert len(ledgers.persistent(known)) == 3
    assert ledgers.exclusion_labels(known)["role"].to_pylist() == ["lesion"]


def test_rows_that_hold_one_of_several_values() -> None:
    ledger = ledgers.from_marks(marks(Mark("a", "m", 3, 1, 2, 3, 4, clinical=True)))
    ledger = ledgers.extend(ledger, ledgers.from_tubelets(FOUND, Role.LESION, "harvested", 0, "", ""))
    assert len(rows_where(ledger, "source", "harvested", "clinical")) == 3
    assert len(rows_where(ledger, "source", "clinical")) == 1
    assert len(rows_where(ledger, "source")) == 0
    assert rows_where(ledger, "source").schema == LEDGER
