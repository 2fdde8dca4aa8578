"""What a study compares: archives of known truth, seeds, arms and detectors (configs/study.yaml)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from harvester.config import shipped
from harvester.config.data import Section
from harvester.config.loading import resolve
from harvester.config.settings import Settings
from harvester.config.strict_yaml import parse
from harvester.errors import SettingsError

FULL: Final = "full_loop"
"""The arm that all others are compared with: the loop as its config says."""
Override = Annotated[str, Field(pattern=r"^[A-Za-z_.]+=.+$")]
Rule = Literal["loop", "union", "self_training", "teacher_student", "missing_ranking", "audit", "both"]


class StudyArchive(Section):
    """An archive of known truth: a config of harvester harvest, and what is otherwise in it."""

    config: str = Field(min_length=1)
    set: tuple[Override, ...] = ()
    proof: Literal["calibration", "audit"] = Field(
        "calibration", description="whose list detectors are trained on: V_M's, or that of a reader who knows the truth"
    )
    rotate: tuple[tuple[Override, ...], ...] = Field(
        (),
        description="roles of its patients: of these lists that of seed % their number; none: the same for all seeds",
    )


class StudyArm(Section):
    """One way to harvest.

    rule    how its list comes about, see study/arms.py
    set     what differs from the archive's settings
    rival   whether it stands for what others do
    about   for people
    """

    rule: Rule = "loop"
    set: tuple[Override, ...] = ()
    rival: bool = False
    about: str = ""
    archives: tuple[str, ...] = Field((), description="where it is run; none: everywhere")


class StudySettings(Section):
    """A whole study."""

    name: str = Field("study", pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")
    archives: dict[str, StudyArchive] = Field(min_length=1)
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field((1, 2, 3), min_length=1)
    arms: dict[str, StudyArm] = Field({}, description="besides the full loop, which is always run")
    retrain: tuple[str, ...] = Field((), description="archives whose harvests detectors are trained on")
    retrain_set: tuple[Override, ...] = ("retrain.seeds=1",)
    resamples: int = Field(2000, ge=0)

    @model_validator(mode="after")
    def _names_are_known(self) -> "StudySettings":
        if FULL in self.arms:
            raise ValueError(f"{FULL} is the archive's own config and no arm to be set")
        named = {*self.retrain, *(name for arm in self.arms.values() for name in arm.archives)}
        if strange := sorted(named - self.archives.keys()):
            raise ValueError(f"{', '.join(strange)}: no archive of the study; there are {', '.join(self.archives)}")
        return self

    def settings(self, archive: str, seed: int, overrides: Sequence[str] = ()) -> Settings:
        """Of an arm of an archive with a seed. Raises SettingsError."""
        own = self.archives[archive]
        roles = own.rotate[seed % len(own.rotate)] if own.rotate else ()
        return resolve(own.config, [*own.set, *roles, f"seed={seed}", *overrides])

    def arms_of(self, archive: str) -> dict[str, StudyArm]:
        """The full loop first."""
        own = {name: arm for name, arm in self.arms.items() if not arm.archives or archive in arm.archives}
        return {FULL: StudyArm(about="the loop as it ships")} | own

    def harvest_of(self, archive: str) -> str:
        """The arm whose list is an archive's harvest: the full loop's, or that of its audit where it has one."""
        audits = [name for name, arm in self.arms_of(archive).items() if arm.rule == "audit"]
        return audits[0] if audits and self.archives[archive].proof == "audit" else FULL


def read_study(file: Path) -> StudySettings:
    """A study's YAML file, or one that ships by its name. Raises SettingsError, one line."""
    found = shipped.named(file)
    try:
        tree: Any = parse(found.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"--config {file}: cannot be read ({error.strerror}); give a YAML file, or: study"
        ) from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"--config {file}: cannot be read as YAML ({str(error).splitlines()[0]})") from None
    try:
        return StudySettings.model_validate({"name": found.stem, **(tree or {})})
    except (ValidationError, TypeError) as error:
        raise SettingsError(f"--config {file}: {_first(error)}") from None


def _first(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return "want a tree of settings"
    fault = error.errors()[0]
    return f"{'.'.join(map(str, fault['loc']))}: {fault['msg'].removeprefix('Value error, ')}"
