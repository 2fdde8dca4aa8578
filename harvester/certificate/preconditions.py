"""What an archive must have before anything is trained: the certificate's conditions that its tables show."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from harvester.certificate.likeness import Array, marking, permutation_p
from harvester.certificate.precision_bound import fewest_patients
from harvester.config.settings import OperatingPointSettings, Settings
from harvester.errors import SettingsError
from harvester.labels.clinical import longer_side_mm
from harvester.records import PARTLY_MARKED, ManifestTable, MarkTable, Split
from harvester.store.commit import volumes_with_drawn_marks
from harvester.store.store import Store
from harvester.weights.starting import folds_by_patient, in_sample

logger = logging.getLogger(__name__)

Rows = Sequence[Mapping[str, Any]]

AUDIT: Final = "let people prove it by looking (--set operating_point.certificate=audit)"
RARELY: Final = 3
"""Times the patients that can prove anything at all: so many proved one of three archives (docs/study.md)."""
REFUSED: Final = 0.001
DOUBTED: Final = 0.05
SLIGHT: Final = 1.1
"""Marks that differ by less than this factor are told, whatever p: 90 % of the flags cost a certificate nothing."""


@dataclass(frozen=True)
class Obstacle:
    """What stands against a harvest, in one line with what to do; one that does not refuse is a doubt.

    audited    whether people's proof is a way round it, as the text says (AUDIT)
    """

    text: str
    refuses: bool = True
    audited: bool = False


@dataclass(frozen=True, eq=False)
class Archive:
    """What is looked at. marks: None where they are not read yet; drawn: volumes whose clinical marks were drawn."""

    volumes: Rows
    marks: Rows | None
    drawn: int = 0

    @classmethod
    def of(cls, manifest: ManifestTable, marks: MarkTable | None, drawn: int = 0) -> "Archive":
        """The tables as rows."""
        return cls(manifest.to_pylist(), None if marks is None else marks.to_pylist(), drawn)

    @cached_property
    def by_id(self) -> dict[str, Mapping[str, Any]]:
        """The volumes by their id."""
        return {row["volume_id"]: row for row in self.volumes}

    def of_splits(self, *splits: Split) -> Rows:
        """The volumes of these splits."""
        return [row for row in self.volumes if row["split"] in splits]

    def marks_of(self, *splits: Split) -> Rows:
        """The marks of their volumes."""
        return [mark for mark in self.marks or () if self.by_id[mark["volume_id"]]["split"] in splits]


def of_patients(archive: Archive, settings: Settings) -> Iterator[Obstacle]:
    """Both sets are there, and V_M has patients for every fold."""
    mining, partly = archive.of_splits(Split.VM), archive.of_splits(*PARTLY_MARKED)
    if len(_patients(archive.volumes)) == 1 and len(archive.volumes) > 1:
        yield Obstacle(
            f"all {len(archive.volumes)} volumes are of one patient, so none can be kept apart: a PatientID that was "
            "taken out? Name the patients in volumes.csv (column patient)"
        )
        return
    if not mining and _by_vm(settings):
        yield Obstacle(
            "V_M is empty, nothing can be learnt or proven: say in volumes.csv whose lesions are all marked "
            f"(complete = 1), of DeepLesion by --mining-marks; or {AUDIT}",
            audited=True,
        )
    if not partly:
        yield Obstacle(
            "V_H is empty (no volume of vh or vh_test), there is nothing to harvest: add scans that are not "
            "completely marked"
        )
    if mining and _by_vm(settings):
        yield from _too_few(len(_patients(mining)), len(in_sample(mining, settings)), settings)


def _by_vm(settings: Settings) -> bool:
    """Whether V_M is to prove the precision; an audit needs none."""
    return settings.operating_point.certificate != "audit"


def _too_few(patients: int, seen: int, settings: Settings) -> Iterator[Obstacle]:
    if patients < settings.folds:
        smaller = f"set folds = {patients}, or mark" if patients >= 2 else "mark"
        yield Obstacle(
            f"folds = {settings.folds} but V_M has {patients} patient{'s' * (patients > 1)}: the models of a fold "
            f"without one would harvest unproven; {smaller} more patients completely"
        )
    least = settings.operating_point.min_patients
    if patients >= least > patients - seen:
        yield Obstacle(
            f"V_M has {patients} patients, of whom the starting weights were made from {seen} (known by their voxels), "
            f"which prove nothing; operating_point.min_patients = {least} are asked: {AUDIT}, or set "
            "starting_weights = '', or mark more patients completely",
            audited=True,
        )
    if patients < least:
        yield Obstacle(
            f"V_M has {patients} patient{'s' * (patients > 1)}, operating_point.min_patients = {least} are asked: "
            f"{AUDIT}, or mark more patients completely",
            audited=True,
        )
    besides = f" besides {seen} that the starting weights were made from" if seen else ""
    yield from _too_few_to_prove(patients - seen, besides, settings.operating_point)


def _too_few_to_prove(patients: int, besides: str, point: OperatingPointSettings) -> Iterator[Obstacle]:
    enough, aim = (
        fewest_patients(point.target_precision, point.confidence),
        f"a precision of {point.target_precision:g}",
    )
    if point.min_patients <= patients < enough:
        yield Obstacle(
            f"V_M has {patients} patients{besides}, and fewer than {enough} prove nothing at {aim}: nothing would be "
            f"harvested; {AUDIT}, or mark more patients completely",
            refuses=False,
            audited=True,
        )
    if enough <= patients < RARELY * enough:
        yield Obstacle(
            f"V_M has {patients} patients{besides}: fewer than some {RARELY * enough} rarely prove a harvest at {aim}; "
            f"else {AUDIT}",
            refuses=False,
            audited=True,
        )


def of_lesions(archive: Archive, settings: Settings) -> Iterator[Obstacle]:
    """V_M has clinical marks and lesions beside them, and every fold has lesions of others to learn from."""
    if archive.marks is None or not archive.of_splits(Split.VM) or not _by_vm(settings):
        return
    mining = Counter(bool(mark["clinical"]) for mark in archive.marks_of(Split.VM))
    if not archive.marks:
        yield Obstacle(
            "no lesion is marked in any volume: there is nothing to learn from; see harvester prepare --help"
        )
        return
    if not mining[False]:
        found = f"all {mining[True]} marks of V_M are clinical" if mining else "V_M has no marks"
        advice = (
            "the clinic marks as many per volume in V_H; mark scans completely that have more lesions"
            if archive.drawn
            else "give clinical = 0 to the lesions that the clinic had not marked, or let them be drawn "
            "(data.archive.clinical_marks = largest)"
        )
        yield Obstacle(f"{found}, so no lesion is left to prove a precision on: {advice}")
    elif not mining[True] and any(mark["clinical"] for mark in archive.marks_of(*PARTLY_MARKED)):
        yield Obstacle(
            f"none of V_M's {mining[False]} marks is clinical, as V_H's are: V_M would be proven on the large lesions "
            "that V_H's clinic has marked already; give those clinical = 1, or let them be drawn "
            "(data.archive.clinical_marks = largest)"
        )
    elif mining[True] and not any(mark["clinical"] for mark in archive.marks_of(*PARTLY_MARKED)):
        yield Obstacle(
            f"{mining[True]} of V_M's marks are clinical and none of V_H's: V_M would be proven without the lesions "
            "that are harvested in V_H; give clinical = 0 to V_M's marks, or were V_H's marks lost? "
            "data.unlike_marks = accept harvests all the same",
            refuses=settings.data.unlike_marks != "accept" and bool(archive.of_splits(*PARTLY_MARKED)),
        )
    folds = folds_by_patient(archive.volumes, settings)
    if len({folds[archive.by_id[mark["volume_id"]]["patient_id"]] for mark in archive.marks}) < 2:
        yield Obstacle(
            "all lesions are of patients of one fold, which then has none to learn from: mark lesions of more "
            "patients, or take another seed"
        )


def of_marking(archive: Archive, settings: Settings) -> Iterator[Obstacle]:
    """V_M's clinical marks are as V_H's: as many per volume, as large (permutation test over patients)."""
    if not _by_vm(settings):
        return
    mining, partly = (_Marking.of(archive, *splits) for splits in ((Split.VM,), PARTLY_MARKED))
    if not partly.marks or not 0 < mining.marks < len(archive.marks_of(Split.VM)):
        return  # of_lesions says it
    p = permutation_p(mining.rows, partly.rows, settings.seed)
    if p >= DOUBTED:
        return
    seen = (
        f"V_M's clinical marks are {mining.text}, V_H's {partly.text} "
        f"(permutation test over patients: p {'<' if p < REFUSED else '='} {max(p, REFUSED):.2g})"
    )
    drawn = archive.drawn >= len({mark["volume_id"] for mark in archive.marks_of(Split.VM)})
    if p >= REFUSED or drawn or mining.factor_to(partly) < SLIGHT or settings.data.unlike_marks == "accept":
        yield Obstacle(f"{seen}: if V_M was not marked as V_H was, what is certified does not hold", refuses=False)
        return
    yield Obstacle(
        f"{seen}, so a precision proven on V_M is not V_H's: give clinical = 1 to those lesions of V_M that the clinic "
        "had marked, and to no others, or let them be drawn (data.archive.clinical_marks = largest); data.unlike_marks "
        "= accept harvests all the same, and more of the harvest may be wrong than the certificate says"
    )


CONDITIONS: Final[tuple[Callable[[Archive, Settings], Iterator[Obstacle]], ...]] = (of_patients, of_lesions, of_marking)
"""What a certified harvest asks for."""


def obstacles(archive: Archive, settings: Settings) -> list[Obstacle]:
    """What stands against a harvest of an archive with these settings; none where it may begin."""
    return [each for condition in CONDITIONS for each in condition(archive, settings)]


def obstacles_of(store: Store, settings: Settings) -> list[Obstacle]:
    """The same of a store."""
    return obstacles(Archive.of(store.manifest, store.marks(), volumes_with_drawn_marks(store.path)), settings)


def told(found: Sequence[Obstacle]) -> list[str]:
    """As lines for people."""
    return [f"{'cannot be harvested with these settings' if each.refuses else 'note'}: {each.text}" for each in found]


def require_harvestable(store: Store, settings: Settings) -> None:
    """Raises SettingsError that names all that refuses; doubts are logged."""
    found = obstacles_of(store, settings)
    for doubt in (each for each in found if not each.refuses):
        logger.warning("%s", doubt.text)
    if refusals := [each.text for each in found if each.refuses]:
        raise SettingsError(f"{store.path}: cannot be harvested with these settings: {'. Also: '.join(refusals)}")


@dataclass(frozen=True, eq=False)
class _Marking:
    """Clinical marks of some splits: their number, `likeness.marking` per patient, in words."""

    marks: int
    volumes: int
    rows: Array

    @classmethod
    def of(cls, archive: Archive, *splits: Split) -> "_Marking":
        volumes = archive.of_splits(*splits)
        marks = [mark for mark in archive.marks_of(*splits) if mark["clinical"]]
        counts = Counter(row["patient_id"] for row in volumes)
        row = {patient: at for at, patient in enumerate(counts)}
        patient = [row[archive.by_id[mark["volume_id"]]["patient_id"]] for mark in marks]
        sizes = [longer_side_mm(mark, archive.by_id[mark["volume_id"]]) for mark in marks]
        own = marking(np.array([*counts.values()]), np.array(sizes, float), np.array(patient, np.int64))
        return cls(len(marks), len(volumes), own)

    @property
    def figures(self) -> tuple[float, float]:
        """Marks per volume, and their geometric mean size in mm."""
        return self.marks / self.volumes, float(np.exp(self.rows[:, 2].sum() / self.marks))

    @property
    def text(self) -> str:
        return "{:.2f} per volume of {:.0f} mm".format(*self.figures)

    def factor_to(self, other: "_Marking") -> float:
        """By which the figures differ at most, 1 for none."""
        pairs = zip(self.figures, other.figures, strict=True)
        return max(max(one, another) / min(one, another) for one, another in pairs)


def _patients(volumes: Rows) -> set[str]:
    return {row["patient_id"] for row in volumes}
