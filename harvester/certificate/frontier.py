"""What each precision target would harvest: the recall-precision frontier."""

from dataclasses import dataclass

from harvester.certificate.selection import Trial


@dataclass(frozen=True)
class FrontierRow:
    """One target and one way to meet it ("certified" or "point estimate").

    threshold is None where nothing is harvested; *_vm are counted on the calibration set; harvested counts V_H;
    precision and recall_unmarked are measured on V_H^test, None where no truth is known.
    """

    target: float
    way: str
    threshold: float | None
    bound: float
    accepted_vm: int
    precision_vm: float
    recall_vm: float
    harvested: int
    precision: float | None
    recall_unmarked: float | None
    reason: str


@dataclass(frozen=True)
class Frontier:
    """What was tried, what was chosen, and what each target gives."""

    round: int
    trials: list[Trial]
    rows: list[FrontierRow]
