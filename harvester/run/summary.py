"""summary.json: a finished run in numbers. docs/summary.schema.json is its schema (make pages)."""

import json
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harvester.errors import StoreError
from harvester.storage.location import Location

SUMMARY: Final = "summary.json"
FORMAT: Final = 1
"""Of summary.json. Those of versions before 0.2 say none and are read as this one."""


BOUND: Final = (
    "lower confidence bound at this threshold, not corrected for the search that ended there; what is certified is "
    "operating_point.target_precision"
)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True)


class _Numbered(_Frozen):
    round: int


class _Cut(_Frozen):
    threshold: float | None = Field(description="lowest score that is accepted; null where nothing is")
    harvested: int


class ComparedAspect(_Frozen):
    """A mean over V_M and over V_H; null where a side has nothing to take it of."""

    aspect: str
    vm: float | None
    vh: float | None
    p: float | None = Field(description="that both are alike, corrected for the number of aspects")


class Comparison(_Frozen):
    """V_H beside V_M, without labels, before it was harvested: see certificate/exchangeability.py."""

    patients_vm: int
    patients_vh: int
    p: float | None = Field(description="that V_H is like V_M in all aspects; null where too few patients tell")
    aspects: tuple[ComparedAspect, ...]
    most_of_a_patient_vm: int = Field(description="accepted tubelets of the patient with the most")
    most_of_a_patient_vh: int
    beyond_vm: dict[str, int] = Field(description="accepted in V_H outside of what V_M shows, by what")


class TruthScores(_Frozen):
    """Harvested lesions against the hidden truth of V_H^test; null where there is none, or nothing to measure."""

    test_harvested: int
    test_correct: int | None
    precision: float | None
    recall_unmarked: float | None


class PointEstimate(TruthScores, _Cut):
    """What the plain precision on V_M, which proves nothing, would have harvested."""

    precision_vm: float | None


class AblationResult(TruthScores, _Cut):
    """A harvest with less: see results/ablations.py."""

    precision_bound: float | None = Field(description=BOUND)
    reason: str = Field(description="why nothing is certified; empty when certified")


class _Row(TruthScores, _Cut, _Numbered):
    precision_bound: float | None = Field(description=BOUND)
    hard_negatives: int
    lpg_sensitivity: dict[str, float] | None = Field(
        description="share of V_H^test's unmarked lesions that are proposed, by false positives per volume"
    )


class LeftForReview(_Frozen):
    """What of V_H reaches the threshold and is not harvested: V_M has shown no like of it (mining/limits.py)."""

    tubelets: int = 0
    patients: int = 0
    most_per_patient: int = Field(
        0, description="tubelets that V_M's fullest patient gave: no more is harvested of one"
    )
    untried_folds: tuple[int, ...] = Field(
        (), description="folds in which V_M accepted nothing: none is harvested there"
    )


class RoundResult(_Row):
    """One round: its own list, which takes the place of the one before."""

    gain: float | None = Field(
        None,
        description="share of V_H's best candidates that were not among those before; null where nothing was scored",
    )

    lpg_ap: float | None
    lpc_ap: float | None
    left_for_review: LeftForReview = LeftForReview()
    refused: str = Field(description="why nothing is certified; empty when certified")
    accepted_vm: int
    recall_vm: float | None = Field(description="null where V_M has no lesion without a clinical mark")
    choice: dict[str, int | float] = Field(description="how the scores are fused: see mining/fusion.py")
    possible_negatives_on_lesions: float | None
    point_estimate: PointEstimate
    left_out: dict[str, int] = Field({}, description="volumes of each split that could not be proposed on or scored")
    comparison: Comparison | None = Field(None, description="null where nothing was scored")
    controls: dict[str, AblationResult]


class FinalResult(_Row):
    """The harvest: the list of the last round that was scored."""

    volumes: int
    certified_precision: float | None = Field(
        None, description="what is promised, at least so much: the target; null where nothing was harvested"
    )


class AuditResult(_Frozen):
    """What people who looked at a random part of a frozen list proved of it: certificate/audit.py."""

    attempt: int
    list_hash: str
    size: int = Field(description="finds of the certified rung, the rejected ones among them")
    reviewed: int = Field(description="finds that were read, in the order of the draw, without those planted")
    right: int
    proven_at: int = Field(description="after how many reviews the target was proven")
    target: float
    level: float = Field(description="chance that the promise is broken, this attempt's share")
    bound: float = Field(description="the share that is right at least")
    planted: int = Field(description="finds known to be none that were shown among the others")
    planted_accepted: int
    false_accepts: float = Field(
        description="upper bound of the chance that what is none is accepted; 0: taken on trust"
    )
    readers: int
    curve: tuple[float, ...] = Field(description="the bound after each review")


class Truth(_Frozen):
    """What V_H^test hides."""

    unmarked_lesions: int
    volumes: int


class StepResult(_Frozen):
    """One step: how long it took, what it went through and what was measured."""

    round: int
    step: str
    seconds: float
    counts: dict[str, int | float]
    key: str = Field("", description="names its files in round-<round>: <step>-<key>")


class Summary(_Frozen):
    """A finished run in numbers."""

    format: Literal[1] = FORMAT
    config: str
    config_hash: str
    data_hash: str
    run_id: str
    seconds: float
    rounds: tuple[RoundResult, ...]
    final: FinalResult
    controls: dict[str, AblationResult]
    earlier_looks: int | None = Field(
        None, description="other runs that proved something on this V_M before; null where that is not known"
    )
    stopped_because: str
    audit: AuditResult | None = Field(
        None, description="what the harvest's promise rests on where it does not rest on V_M"
    )
    truth: Truth
    steps: tuple[StepResult, ...]

    def write(self, folder: Location) -> None:
        """As folder/summary.json."""
        (folder / SUMMARY).write_text(self.model_dump_json(indent=1) + "\n")


def read_summary(run: Location) -> Summary:
    """The summary of a finished run. Raises StoreError for a run without one and for one that cannot be read."""
    file = Location.of(run) / SUMMARY
    if not file.is_file():
        raise StoreError(f"{run}: no summary.json; give the folder of a finished run")
    try:
        tree = json.loads(file.read_bytes())
        found = tree.get("format", FORMAT)
        if isinstance(found, int) and found > FORMAT:
            raise StoreError(f"{file}: of format {found}, newer than {FORMAT}; read it with a newer harvester")
        return Summary.model_validate(tree)
    except (ValueError, AttributeError) as error:
        raise StoreError(
            f"{file}: no summary of this version ({_first(error)}); harvest the run again, its finished steps are kept"
        ) from error


def schema() -> str:
    """The JSON schema of summary.json."""
    return json.dumps(Summary.model_json_schema(), indent=1) + "\n"


def _first(error: Exception) -> Any:
    if not isinstance(error, ValidationError):
        return type(error).__name__
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
