"""retrain.json: what label sets are worth to detectors, in numbers. How they come about: results/retraining.py."""

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harvester.errors import StoreError
from harvester.storage.location import Location

FILE: Final = "retrain.json"
FOLDER: Final = "retrain"
"""In a run's folder."""
SETS: Final = {
    "clinical": "clinical marks",
    "complete_vm": "+ V_M's other lesions",
    "placebo": "placebo: random for the harvest",
    "harvest": "+ harvest",
    "hard_negatives": "+ hard negatives",
    "full_truth": "full truth",
}
"""The label sets (results/label_sets.py) in words, as they stand in tables and pictures; graded ones are in none."""
Interval = tuple[float, float] | None


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Figure(_Frozen):
    """A value and its 95 % interval; null without resamples."""

    value: float
    interval: Interval = None


class SetFigures(_Frozen):
    """A detector on a label set. by_seed: its AP with each seed."""

    labels: str
    ap: Figure
    sensitivity: Figure = Field(description="at 4 false positives per volume")
    by_seed: tuple[float, ...]


class ExchangeRate(_Frozen):
    """What a harvest's precision and recall are worth: AP by a plane through the harvests made of the truth."""

    ap_per_point_of_recall: Figure
    ap_per_point_of_precision: Figure
    recall_per_point_of_precision: float | None = Field(
        description="points of recall worth as much as a point of precision; null where recall is worth nothing"
    )


class DetectorFigures(_Frozen):
    """One detector."""

    detector: str
    sets: tuple[SetFigures, ...]
    gains: dict[str, Figure] = Field(description="differences in AP")
    gap_closed: Figure | None = Field(
        description="share of what the full truth gains over complete V_M that the harvest gains; null without truth"
    )
    exchange_rate: ExchangeRate | None


class Retraining(_Frozen):
    """retrain.json."""

    format: int = 1
    command: str
    run_id: str
    data_hash: str
    settings: dict[str, Any]
    seeds: int
    labels: dict[str, int] = Field(description="lesions of each label set")
    volumes: int
    patients: int = Field(description="of V_D^test")
    lesions: int = Field(description="of V_D^test")
    seconds: float = Field(description="of all fits, as if one after the other")
    detectors: tuple[DetectorFigures, ...]

    def write(self, folder: Location) -> None:
        """As folder/retrain.json."""
        (folder / FILE).write_text(self.model_dump_json(indent=1) + "\n")


def read_retraining(run: Location) -> Retraining | None:
    """What detectors gained from a run's harvest; None where nobody asked. Raises StoreError for a broken file."""
    file = run / FOLDER / FILE
    if not file.is_file():
        return None
    try:
        return Retraining.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise StoreError(f"{file}: not as harvester writes it ({error.errors()[0]['msg']}); retrain again") from error
