"""What is refused before anything is trained, and what is said."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from harvester.certificate.preconditions import Archive, obstacles, require_harvestable
from harvester.config.loading import resolve
from harvester.config.settings import Settings
from harvester.errors import SettingsError
from harvester.labels.folds import patient_folds
from harvester.records import Mark, Split
from tests.builders import made_store, manifest, mark, marks, starting_weights_in

SETTINGS = resolve(None, ["folds=3"])
SMALL, LARGE = (5, 5, 15, 15), (5, 5, 35, 35)


def splits(vm: int = 6, vh: int = 6) -> dict[str, str]:
    return {f"m{at}": "vm" for at in range(vm)} | {f"h{at}": "vh" for at in range(vh)}


def lesions(names: dict[str, str]) -> Iterator[Mark]:
    """A large clinical one in every volume; in V_M a small one beside it."""
    for name, split in names.items():
        yield mark(name, LARGE)
        if split == "vm":
            yield mark(name, SMALL, clinical=False)


def told(
    names: dict[str, str], known: list[Mark] | None = None, settings: Settings = SETTINGS, drawn: int = 0
) -> list[str]:
    known = [*lesions(names)] if known is None else known
    found = obstacles(Archive.of(manifest(names), marks(*known), drawn), settings)
    return [each.text for each in found if each.refuses]


def test_a_fair_archive_has_no_obstacle() -> None:
    assert told(splits()) == []


@pytest.mark.parametrize(("vm", "vh", "said"), [(0, 6, "V_M is empty"), (6, 0, "V_H is empty")])
def test_both_sets_are_needed(vm: int, vh: int, said: str) -> None:
    (text,) = told(splits(vm, vh))
    assert text.startswith(said)


def test_one_patient_everywhere_is_told_as_such() -> None:
    table = manifest(splits())
    at = table.column_names.index("patient_id")
    table = table.set_column(at, "patient_id", [["ANON"] * len(table)])
    texts = [each.text for each in obstacles(Archive.of(table, marks(*lesions(splits()))), SETTINGS)]
    assert texts[0].startswith("all 12 volumes are of one patient") and "volumes.csv (column patient)" in texts[0]
    # It is one split then: what else is missing follows from that.
    alone = Archive.of(table.slice(6), None)
    assert len(obstacles(alone, SETTINGS)) == 1


def test_every_fold_and_min_patients_need_their_patients_of_the_mining_set() -> None:
    assert told(splits(vm=3)) == []
    (text,) = told(splits(vm=2), settings=resolve(None, ["folds=3", "operating_point.min_patients=2"]))
    assert text.startswith("folds = 3 but V_M has 2 patients") and "set folds = 2" in text
    (text,) = told(splits(vm=3), settings=resolve(None, ["folds=3", "operating_point.min_patients=4"]))
    assert text.startswith("V_M has 3 patients, operating_point.min_patients = 4")


def test_patients_that_the_starting_weights_have_seen_do_not_count(tmp_path: Path) -> None:
    seen = starting_weights_in(tmp_path / "weights", 3, patients={"p-m0": 0, "p-m1": 1})
    asked = ["folds=2", "operating_point.min_patients=3", f"starting_weights={seen}"]
    (text,) = told(splits(vm=4), settings=resolve(None, asked))
    assert (
        text.startswith("V_M has 4 patients, of whom the starting weights were made from 2") and "set starting_" in text
    )
    assert told(splits(vm=5), settings=resolve(None, asked)) == []
    # Weights in as many folds have for each patient some that have not seen it.
    assert told(splits(vm=4), settings=resolve(None, [*asked, "folds=3"])) == []


def test_the_mining_set_needs_clinical_marks_and_lesions_beside_them() -> None:
    names = splits()
    (text,) = told(names, [mark(name, LARGE) for name in names])
    assert text.startswith("all 6 marks of V_M are clinical") and "clinical_marks = largest" in text
    (text,) = told(names, [mark(name, LARGE, clinical=split == "vh") for name, split in names.items()])
    assert text.startswith("none of V_M's 6 marks is clinical")
    # A clinic that marked nothing anywhere left V_M as it left V_H.
    assert told(names, [mark(name, LARGE, clinical=False) for name in names if names[name] == "vm"]) == []
    texts = told(names, [])
    assert texts == ["no lesion is marked in any volume: there is nothing to learn from; see harvester prepare --help"]


def test_a_fold_needs_lesions_of_other_folds() -> None:
    names = splits()
    texts = told(names, [mark("m0", LARGE), mark("m0", SMALL, clinical=False)])
    assert any(text.startswith("all lesions are of patients of one fold") for text in texts)


@pytest.mark.parametrize("fault", ["other lesions", "too few", "too many"])
def test_a_mining_set_that_was_marked_otherwise_is_refused_unless_that_is_accepted(fault: str) -> None:
    names = splits(40, 80)
    known = [one for one in lesions(names) if one.volume_id.startswith("h")]
    for at, name in enumerate(name for name, split in names.items() if split == "vm"):
        flags = {"other lesions": (False, True), "too few": (at % 3 == 0, False), "too many": (True, at % 2 == 0)}
        large, small = flags[fault]
        known += [
            mark(name, LARGE, clinical=large),
            mark(name, SMALL, clinical=small),
            mark(name, (40, 40, 50, 50), False),
        ]
    (text,) = told(names, known)
    assert "permutation test over patients: p < 0.001" in text and "data.unlike_marks = accept" in text
    assert told(names, known, resolve(None, ["folds=3", "data.unlike_marks=accept"])) == []
    # What was drawn is not anybody's slip: it is told.
    found = obstacles(Archive.of(manifest(names), marks(*known), drawn=40), SETTINGS)
    assert [each.refuses for each in found] == [False]


def test_a_start_says_all_that_is_wrong_in_one_line(tmp_path: Path) -> None:
    names = splits(2, 3)
    store = made_store(tmp_path / "store", names, [mark(name, LARGE) for name in names])
    with pytest.raises(SettingsError) as caught:
        require_harvestable(store, SETTINGS)
    text = str(caught.value)
    assert (
        "cannot be harvested with these settings: folds = 3" in text and "Also: all 2 marks of V_M are clinical" in text
    )
    assert "\n" not in text


def test_a_patient_of_both_sets_is_dealt_with_the_mining_set() -> None:
    rows = [{"split": Split.VM, "patient_id": f"p{at}"} for at in range(3)]
    rows += [{"split": Split.VH, "patient_id": f"p{at}"} for at in range(40)]
    for seed in range(20):
        folds = patient_folds(rows, 3, seed)
        assert {folds[f"p{at}"] for at in range(3)} == {0, 1, 2}


def test_v_h_without_clinical_marks_beside_a_v_m_that_has_some_is_refused() -> None:
    names = splits()
    (text,) = told(names, [each for each in lesions(names) if each.volume_id.startswith("m")])
    assert text.startswith("6 of V_M's marks are clinical and none of V_H's")
    assert told(names, [mark(f"m{at}", SMALL, clinical=False) for at in range(6)]) == []


def test_one_drawn_volume_excuses_no_other() -> None:
    names = splits(40, 80)
    known = [mark(name, SMALL if name.startswith("m") else LARGE) for name in names]
    known += [mark(f"m{at}", LARGE, clinical=False) for at in range(40)]
    assert [len(told(names, known, drawn=drawn)) for drawn in (0, 1, 40)] == [1, 1, 0]


def test_the_advice_goes_in_no_circle() -> None:
    names = splits()
    (text,) = told(names, [mark(name, LARGE) for name in names], drawn=6)
    assert text.endswith("the clinic marks as many per volume in V_H; mark scans completely that have more lesions")
