"""Which volume of DeepLesion goes to which split, and why some go to none.

The files of full annotation say what V_D^test, V_H^test and V_M are; every other volume of the official training
split is V_H. What is left goes to no split. Two rules keep patients apart:

1. No volume of a patient of V_D^test is used in any other split: nothing of that patient may be learnt from.
2. A volume of V_M whose patient has volumes in V_H^test is taken as V_H: the certificate must not rest on a patient
   on whom the harvest is measured. The published files have one such volume; V_H^test stays as published.

V_H may share patients with V_M and V_H^test, as it does in DeepLesion: models never score a patient they saw.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from harvester.errors import LabelError

LEFT_OUT: Final = {
    "official_val": "of the official validation split, and in no file of full annotation; name it in one to use it",
    "official_test": "of the official test split, and in no file of full annotation; name it in one to use it",
    "test_patient": "of a patient of V_D^test, whom nothing else may be learnt from; nothing to do",
}
"""Why a volume goes to no split."""


@dataclass(frozen=True)
class Assigned:
    """Every known volume is in one of both: its split, or its key of LEFT_OUT. `demoted`: moved from V_M to V_H."""

    splits: dict[str, str]
    left_out: dict[str, str]
    demoted: tuple[str, ...]


def assign(
    official: Mapping[str, str], patients: Mapping[str, str], annotated: Mapping[str, Iterable[str]]
) -> Assigned:
    """The split of each volume of `official` (volume -> train, val or test); nothing for no volumes.

    `patients` has the patient of each volume; `annotated` the volumes of vm, vh_test and vd_test. Volumes that
    `official` does not know are not looked at. Raises LabelError where a volume is annotated for two splits.
    """
    named = _named(annotated)
    of_test = {patients[each] for each, split in named.items() if split == "vd_test" and each in patients}
    measured = {patients[each] for each, split in named.items() if split == "vh_test" and each in patients}
    splits = {volume: named.get(volume, "vh" if part == "train" else "") for volume, part in official.items()}
    demoted = [volume for volume, split in splits.items() if split == "vm" and patients[volume] in measured - of_test]
    splits |= dict.fromkeys(demoted, "vh")
    left_out = {
        volume: "test_patient" if split else f"official_{official[volume]}"
        for volume, split in splits.items()
        if not split or (patients[volume] in of_test and split != "vd_test")
    }
    kept = {volume: split for volume, split in splits.items() if volume not in left_out}
    return Assigned(kept, left_out, tuple(demoted))


def _named(annotated: Mapping[str, Iterable[str]]) -> dict[str, str]:
    named: dict[str, str] = {}
    for split, volumes in annotated.items():
        for volume in volumes:
            if named.setdefault(volume, split) != split:
                raise LabelError(
                    f"volume {volume} is annotated for {named[volume]} and for {split}; want one file for each volume"
                )
    return named
