"""study.json: a study in numbers. How they come about: harvester/study."""

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harvester.errors import StoreError
from harvester.run.retraining import DetectorFigures, Figure
from harvester.storage.location import Location

FILE: Final = "study.json"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class StudyRow(_Frozen):
    """What an arm came to on an archive with a seed, scored on V_H^test."""

    archive: str
    seed: int
    arm: str
    key: str = Field(description="names all that the row follows from")
    certified: bool | None = Field(description="whether its list is proven; null of arms that prove nothing")
    harvested: int
    right: int
    precision: float | None
    recall: float = Field(description="share of the lesions without a mark that are harvested")
    recall_at_90: float = Field(description="the same at a precision of 0.90, in hindsight")
    lesions: tuple[int, ...] = Field(description="without a mark, of each patient")
    reviewed: int = Field(0, description="finds that a reader who knows the truth looked at")
    is_harvest: bool | None = Field(
        None, description="whether its list is the archive's harvest (its `proof`); null: as the full loop's is"
    )
    seconds: float

    def said(self) -> str:
        """In a line."""
        precision = "-" if self.precision is None else f"{self.precision:.3f}"
        found = f"{self.harvested} harvested, precision {precision}, recall {self.recall:.3f}"
        return f"{found}; at 0.90 {self.recall_at_90:.3f}"


class ArmFigures(_Frozen):
    """An arm on an archive, means over its seeds. gain: of the arm over the full loop in recall_at_90, paired."""

    archive: str
    arm: str
    about: str
    rival: bool
    seeds: int
    certified: int | None = Field(description="in how many seeds its list was proven")
    harvested: float
    precision: float | None = Field(description="of all its lists together")
    recall: float
    recall_at_90: float
    gain: Figure | None = Field(description="in recall at a precision of 0.90; null of the full loop")
    reviewed: float


class StudyDetectors(_Frozen):
    """Detectors trained on the full loop's harvests of an archive, all seeds together."""

    archive: str
    seeds: int = Field(description="with a harvest")
    patients: int
    lesions: int
    detectors: tuple[DetectorFigures, ...]


class Headline(_Frozen):
    """Over all archives and seeds."""

    certified_share: float | None = Field(
        description="of lists that a certificate backs, those whose precision is the target or more"
    )
    certified_pairs: int = Field(
        description="lists that a certificate backs: archive and seed, the full loop's or its audit's (`proof`)"
    )
    certified_interval: tuple[float, float] | None = Field(description="95 %, Wilson's")
    recall_unmarked: float = Field(description="on the archives on which the generator was tried alone, too")
    recall_unmarked_lpg_alone: float | None
    precision: float | None
    ap_gain_harvest: float | None = Field(description="of the harvest over clinical marks, mean over detectors")
    gap_closed: float | None


class StudyResult(_Frozen):
    """A whole study."""

    format: int = 1
    harvester: str
    command: str
    settings: dict[str, Any]
    settings_hash: str
    seconds: float = Field(
        description="it took: arms that were not made before, and all fits of detectors as if one after the other"
    )
    headline: Headline
    arms: tuple[ArmFigures, ...]
    detectors: tuple[StudyDetectors, ...]
    rows: tuple[StudyRow, ...]

    @classmethod
    def read(cls, folder: Location) -> "StudyResult | None":
        """That of a folder; None where there is none. Raises StoreError where it is not as written."""
        file = folder / FILE
        if not file.is_file():
            return None
        try:
            return cls.model_validate_json(file.read_bytes())
        except ValidationError as error:
            why = error.errors()[0]["msg"]
            raise StoreError(f"{file}: not as harvester writes it ({why}); delete it, then write it anew") from error

    def write(self, folder: Location) -> None:
        """As folder/study.json."""
        (folder / FILE).write_text(self.model_dump_json(indent=1) + "\n")
