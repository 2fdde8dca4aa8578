"""Clinical marks drawn as the archive's clinic marks."""

from collections import Counter
from typing import Any

from harvester.labels.clinical import draw_clinical


def volume(name: str, split: str, spacing_mm: float = 1.0) -> dict[str, Any]:
    return {"volume_id": name, "split": split, "spacing_x_mm": spacing_mm, "spacing_y_mm": spacing_mm}


def lesion(name: str, side: int, clinical: bool = True) -> dict[str, Any]:
    return {"volume_id": name, "x1": 10.0, "x2": 9.0 + side, "y1": 10.0, "y2": 12.0, "clinical": clinical}


def clinical_of(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["clinical"]:
            found.setdefault(row["volume_id"], []).append(row["x2"] - 9)
    return found


def test_the_largest_lesions_are_taken_as_many_as_the_other_set_has() -> None:
    volumes = [volume(f"m{at}", "vm") for at in range(30)] + [volume(f"h{at}", "vh") for at in range(10)]
    marks = [lesion(f"m{at}", side) for at in range(30) for side in (5, 20, 9)]
    marks += [lesion(f"h{at}", 7) for at in range(10) for _ in range(1 + at % 2)]
    drawn = clinical_of(draw_clinical(marks, volumes, {f"m{at}" for at in range(30)}, 0))
    counts = Counter(len(drawn[f"m{at}"]) for at in range(30))
    assert set(counts) == {1, 2} and min(counts.values()) >= 8
    assert all(sorted(drawn[f"m{at}"], reverse=True) == [20, 9][: len(drawn[f"m{at}"])] for at in range(30))
    assert len(drawn["h1"]) == 2
    again = draw_clinical(marks, volumes, {f"m{at}" for at in range(30)}, 0)
    assert clinical_of(again) == drawn != clinical_of(draw_clinical(marks, volumes, {f"m{at}" for at in range(30)}, 1))


def test_volumes_that_are_not_named_stay_as_they_are_and_keep_their_order() -> None:
    volumes = [volume("m0", "vm"), volume("m1", "vm"), volume("h", "vh")]
    marks = [lesion("m0", 9, False), lesion("h", 4), lesion("m1", 3), lesion("m1", 8)]
    drawn = draw_clinical(marks, volumes, {"m1", "refused"}, 0)
    assert [row["clinical"] for row in drawn] == [False, True, False, True]
    assert [row | {"clinical": 0} for row in drawn] == [row | {"clinical": 0} for row in marks]
    assert draw_clinical([], volumes, {"m0"}, 0) == []


def test_sizes_are_compared_in_mm_and_counts_go_where_the_lesions_are() -> None:
    volumes = [volume("m0", "vm"), volume("m1", "vm", 0.5), volume("h", "vh")]
    marks = [lesion("m0", 9), *(lesion("m1", side) for side in (4, 6, 8)), *(lesion("h", 5) for _ in range(2))]
    drawn = clinical_of(draw_clinical(marks, volumes, {"m0", "m1"}, 0))
    assert drawn == {"m0": [9], "m1": [6, 8], "h": [5, 5]}


def test_without_another_set_one_lesion_of_each_volume_and_of_a_silent_clinic_none() -> None:
    vm = [volume("m0", "vm"), volume("t", "vh_test")]
    marks = [lesion("m0", 9), lesion("m0", 5), lesion("t", 6), lesion("t", 8)]
    assert clinical_of(draw_clinical(marks, vm, {"m0", "t"}, 0)) == {"m0": [9], "t": [8]}
    assert clinical_of(draw_clinical(marks, [*vm, volume("h", "vh")], {"m0", "t"}, 0)) == {}
