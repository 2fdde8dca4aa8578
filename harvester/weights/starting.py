"""Starting weights: a folder that `harvester pretrain` makes, or the one that ships.

weights/
  card.json                 what they are, what they were made from, whom they have seen (Card)
  generator.safetensors     fitted on all patients; classifier.safetensors likewise
  generator-<k>.safetensors fitted without the patients of fold k, which it may therefore be judged on; may be absent

A harvest finetunes them in round 0. No certificate may rest on a patient that they have seen: a fold starts from
weights that never saw the patients it is to score; where there are none, those patients take no part in calibration.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from harvester.config.data import Section
from harvester.config.fingerprint import settings_hash
from harvester.config.settings import Settings
from harvester.errors import SettingsError, StoreError, one_line
from harvester.labels.folds import Folds, patient_folds
from harvester.records import EachRow
from harvester.storage.location import Location, writing

logger = logging.getLogger(__name__)

SHIPPED: Final = "shipped"
OF_A_RELEASE: Final = re.compile(rf"{SHIPPED}(?::(\w+))?")
"""Those that ship, or those of a certain digest: a run keeps to the ones that it began with."""
SHIPPED_FOLDER: Final = Path(__file__).parent / "small"
CARD: Final = "card.json"
KNOWN_BY: Final = ("volume_id", "patient_id", "split", "voxel_hash")
"""Columns of a manifest that tell what starting weights have seen, and to which fold a patient belongs."""
STAGES: Final = ("generator", "classifier")


class Card(Section):
    """What starting weights are. `networks` as networks_of has it; figures are out of fold, on the patients named.

    patients   id of a patient seen: the fold whose weights have not seen it
    scans      voxel_hash of a scan seen (records.MANIFEST, or of a background): its patient's id
    files      sha256 of every file of weights
    start      digest of the weights that these were started from, whose patients and scans are among the seen; '' for
               none
    figures    name: value
    """

    harvester: str
    networks: dict[str, Any]
    folds: int
    patients: dict[str, int]
    scans: dict[str, str]
    files: dict[str, str]
    seed: int
    steps: dict[str, int]
    volumes: int
    seconds: float
    start: str = ""
    figures: dict[str, float]

    def write(self, folder: Location) -> None:
        """As folder/card.json."""
        (folder / CARD).write_text(json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True) + "\n")


def networks_of(settings: Settings) -> dict[str, Any]:
    """What weights must have in common with a run that starts from them: both networks, grid and windows."""
    generator, classifier = settings.generator, settings.classifier
    return {
        "generator": generator.model_dump(include={"backbone", "width", "channels", "head_channels", "stride"}),
        "classifier": classifier.model_dump(include={"backbone", "channels"}),
        "grid": settings.grid.model_dump(mode="json", include={"spacing_zyx_mm", "windows_hu"}),
    }


@dataclass(frozen=True)
class StartingWeights:
    """A folder of weights and its card. `open` reads one."""

    folder: Location
    card: Card

    @classmethod
    def open(cls, folder: Location) -> "StartingWeights":
        """Raises SettingsError for a folder without a card or with a broken one."""
        try:
            return cls(folder, Card.model_validate_json((folder / CARD).read_text()))
        except (OSError, StoreError, ValidationError, UnicodeDecodeError) as error:
            raise SettingsError(
                f"setting starting_weights: {folder}: no {CARD} that can be read ({one_line(error)[:160]}); want a "
                "folder that harvester pretrain made, shipped, or '' for none"
            ) from None

    @cached_property
    def digest(self) -> str:
        """Names the weights, wherever they lie."""
        return settings_hash(self.card.files)

    def fold_of(self, row: Mapping[str, Any]) -> int | None:
        """The fold of the patient of a manifest row that the weights have seen; None for one that they have not."""
        patient = self.card.scans.get(row["voxel_hash"], row["patient_id"])
        return self.card.patients.get(patient)

    def seen(self, rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
        """The patients of a store that the weights have seen: patient_id to the fold whose weights have not."""
        found = ((row["patient_id"], self.fold_of(row)) for row in rows)
        return {patient: fold for patient, fold in found if fold is not None}

    def in_folds(self, folds: int) -> bool:
        """Whether there are weights for each of so many folds, that have not seen its patients."""
        return folds == self.card.folds and all(f"{stage}-0.safetensors" in self.card.files for stage in STAGES)

    def publish(self, out: Location, settings: Settings) -> None:
        """Each model's weights as out/<stage>/fold-<k>.safetensors, where the fits of all nodes find them.

        Raises SettingsError for a file that is not the card's.
        """
        for stage in STAGES:
            for model, name in enumerate(self._names(stage, settings)):
                target = out / stage / f"fold-{model}.safetensors"
                if not target.is_file():
                    target.write_bytes(self._read(name))

    def write_whole(self, out: Location) -> None:
        """The models of all patients and their card, without those of the folds: what ships."""
        files = {f"{stage}.safetensors": self._read(stage) for stage in STAGES}
        with writing(out):
            for name, data in files.items():
                (out / name).write_bytes(data)
            self.card.model_copy(update={"files": {name: self.card.files[name] for name in files}}).write(out)

    def require_whole(self, settings: Settings) -> None:
        """Raises SettingsError for a file that a model of the settings starts from and that is not the card's."""
        for name in sorted({name for stage in STAGES for name in self._names(stage, settings)}):
            self._read(name)

    def _names(self, stage: str, settings: Settings) -> list[str]:
        """The file that each of settings.models starts from: the one of all patients too may see them all."""
        apart = [f"{stage}-{fold}" if self.in_folds(settings.folds) else stage for fold in range(settings.folds)]
        return [*apart, stage][: settings.models]

    def _read(self, name: str) -> bytes:
        file = self.folder / f"{name}.safetensors"
        data = file.read_bytes() if file.is_file() else b""
        if hashlib.sha256(data).hexdigest() != self.card.files.get(file.name):
            mend = "install harvester" if self.folder == Location.of(SHIPPED_FOLDER) else "make it"
            raise SettingsError(
                f"setting starting_weights: {file}: not the file that {CARD} names; {mend} again, or start from "
                "nothing with starting_weights=''"
            )
        return data


def starting_weights(settings: Settings) -> StartingWeights | None:
    """What the settings start from; None for nothing.

    The shipped ones are for the small networks on their grid: others, and stages with weights of their own, do without.
    Raises SettingsError for a named folder that is none, or whose networks are not those of the settings, and for
    shipped ones of another release.
    """
    named, own = settings.starting_weights, settings.generator.weights or settings.classifier.weights
    ships = OF_A_RELEASE.fullmatch(named)
    if not named or (ships and (own or not (SHIPPED_FOLDER / CARD).is_file())):
        return None
    found = StartingWeights.open(Location.of(SHIPPED_FOLDER if ships else named))
    if ships and ships[1] not in (None, found.digest):
        raise SettingsError(
            f"setting starting_weights: {named} came with another release of harvester (run.json of the run says "
            f"which), with this one {SHIPPED}:{found.digest}; install that release to go on, or start a new run"
        )
    wanted, has = networks_of(settings), found.card.networks
    if json.loads(json.dumps(wanted)) == has:
        return found
    if ships:
        return None
    unlike = ", ".join(
        f"{part}: {has.get(part)}, not {wanted[part]}" for part in wanted if wanted[part] != has.get(part)
    )
    raise SettingsError(f"setting starting_weights: made for other networks ({unlike})")


def named_by_digest(settings: Settings, before: str) -> Settings:
    """The settings with `shipped` as shipped:DIGEST: as `before`, where that is one, or as those that ship now."""
    if settings.starting_weights != SHIPPED:
        return settings
    if OF_A_RELEASE.fullmatch(before) and before != SHIPPED:
        return settings.model_copy(update={"starting_weights": before})
    found = starting_weights(settings)
    return settings.model_copy(update={"starting_weights": f"{SHIPPED}:{found.digest}"}) if found else settings


def require_in_folds(settings: Settings) -> None:
    """Raises SettingsError where the folds of a pretraining would start from weights that have seen their patients."""
    start = starting_weights(settings)
    if start and not start.in_folds(settings.folds):
        raise SettingsError(
            f"setting starting_weights: {settings.starting_weights} has no weights for each of {settings.folds} folds, "
            "so no figure of the new card would be of patients that were not seen; name a folder that harvester "
            "pretrain made with as many folds, or '' for none"
        )


def folds_by_patient(rows: Sequence[Mapping[str, Any]] | EachRow, settings: Settings) -> Folds:
    """patient_id -> fold of a run: labels.folds.patient_folds, but patients that the starting weights have seen are in
    the folds whose weights have not seen them. The rows are gone through twice."""
    start = starting_weights(settings)
    seen = start.seen(rows) if start and start.in_folds(settings.folds) else {}
    return patient_folds(rows, settings.folds, settings.seed, seen)


def in_sample(rows: Iterable[Mapping[str, Any]], settings: Settings) -> frozenset[str]:
    """The patients that every model of a run has seen through its starting weights."""
    start = starting_weights(settings)
    return frozenset(start.seen(rows)) if start and not start.in_folds(settings.folds) else frozenset()
