"""The same voxels under two names: one volume stays, or none where nobody can tell which marks are right."""

from typing import Any

from harvester.store.same_voxels import without_twins


def row(volume: str, patient: str = "p", split: str = "vh", voxels: str = "x") -> dict[str, Any]:
    return {
        "volume_id": volume, "patient_id": patient, "split": split, "voxel_hash": voxels, "source_hash": f"s-{volume}",
    }  # fmt: skip


def marked(volume: str, z: int = 3) -> dict[str, Any]:
    return {"volume_id": volume, "z": z, "x1": 1.0, "y1": 2.0, "x2": 3.0, "y2": 4.0}


def kept(rows: list[dict[str, Any]], *marks: dict[str, Any]) -> list[str]:
    stay, refused = without_twins(rows, marks)
    ids = [each["volume_id"] for each in stay]
    assert {each.source_hash for each in refused} == {each["source_hash"] for each in rows} - {
        f"s-{each}" for each in ids
    }
    assert all(each.reason == "same_voxels" for each in refused)
    return ids


def test_other_voxels_are_other_scans() -> None:
    rows = [row("a"), row("b", voxels="y")]
    assert kept(rows, marked("a")) == ["a", "b"]


def test_of_two_one_stays_and_the_row_names_the_pair() -> None:
    rows = [row("a", "p", "vh"), row("b", "q", "vm")]
    assert kept(rows) == ["b"]  # more is known of it
    (refused,) = without_twins(rows, [])[1]
    assert refused.message.startswith("volume a: holds the same voxels as b")


def test_the_patient_with_more_scans_is_the_patient() -> None:
    rows = [row("a", "p", "vh"), row("b", "q", "vm"), row("c", "p", "vh", "y")]
    assert kept(rows) == ["a", "c"]


def test_marks_of_the_kept_one_are_enough_others_are_not() -> None:
    rows = [row("a", "p", "vm"), row("b", "q", "vh")]
    assert kept(rows, marked("a")) == ["a"]
    assert kept(rows, marked("a"), marked("b")) == ["a"]
    assert kept(rows, marked("a"), marked("b", 5)) == []
    assert kept(rows, marked("b")) == []


def test_three_are_one_as_well() -> None:
    assert kept([row("a"), row("b"), row("c")]) == ["a"]
