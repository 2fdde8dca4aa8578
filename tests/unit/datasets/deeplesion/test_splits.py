"""Which volume of DeepLesion goes where: files before the official split, patients apart."""

import pytest

from harvester.datasets.deeplesion.splits import LEFT_OUT, assign
from harvester.errors import LabelError

OFFICIAL = {"a1": "train", "a2": "train", "b1": "train", "b2": "train", "c1": "val", "d1": "test", "d2": "test"}
PATIENTS = {volume: volume[0] for volume in OFFICIAL}


def test_without_annotations_the_training_split_is_harvested_and_the_rest_left_out() -> None:
    assigned = assign(OFFICIAL, PATIENTS, {})
    assert assigned.splits == dict.fromkeys(("a1", "a2", "b1", "b2"), "vh")
    assert assigned.left_out == {"c1": "official_val", "d1": "official_test", "d2": "official_test"}
    assert set(assigned.left_out.values()) <= LEFT_OUT.keys()
    assert assign({}, {}, {}).splits == {}


def test_the_files_say_what_is_what_and_vm_and_vh_may_share_a_patient() -> None:
    assigned = assign(OFFICIAL, PATIENTS, {"vm": ["a1", "not there"], "vh_test": ["b1"], "vd_test": ["d1"]})
    assert assigned.splits == {"a1": "vm", "a2": "vh", "b1": "vh_test", "b2": "vh", "d1": "vd_test"}
    assert assigned.left_out == {"c1": "official_val", "d2": "official_test"}
    assert assigned.demoted == ()


def test_a_measured_patient_certifies_nothing() -> None:
    assigned = assign(OFFICIAL, PATIENTS, {"vm": ["a1", "b2"], "vh_test": ["b1"]})
    assert (assigned.splits["b2"], assigned.demoted) == ("vh", ("b2",))


def test_nothing_is_learnt_from_a_patient_of_the_test() -> None:
    assigned = assign(OFFICIAL, PATIENTS, {"vm": ["a1"], "vh_test": ["b1"], "vd_test": ["a2", "b2"]})
    assert assigned.splits == {"a2": "vd_test", "b2": "vd_test"}
    assert {each for each, why in assigned.left_out.items() if why == "test_patient"} == {"a1", "b1"}
    assert assigned.demoted == ()


def test_every_volume_has_one_place_and_patients_stay_apart() -> None:
    assigned = assign(OFFICIAL, PATIENTS, {"vm": ["a1", "c1", "b2"], "vh_test": ["b1", "a2"], "vd_test": ["d1"]})
    assert assigned.splits.keys() | assigned.left_out.keys() == OFFICIAL.keys()
    assert not assigned.splits.keys() & assigned.left_out.keys()
    of = {split: {PATIENTS[v] for v, s in assigned.splits.items() if s == split} for split in ("vm", "vh_test")}
    assert not of["vm"] & of["vh_test"]
    assert assigned.splits["c1"] == "vm"


def test_a_volume_in_two_files_is_an_error() -> None:
    with pytest.raises(LabelError, match="volume a1 is annotated for vm and for vh_test"):
        assign(OFFICIAL, PATIENTS, {"vm": ["a1"], "vh_test": ["a1"]})
