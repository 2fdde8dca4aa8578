"""What is asked of an export, what contradicts itself, and what came of it."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from harvester.errors import SettingsError

WHOLE: Final = ("coco", "csv")
"""One file for all volumes."""
DICOM: Final = ("dicom-sr", "dicom-seg")
"""One file per volume, by highdicom, which is an extra."""
FORMATS: Final = (*WHOLE, "markups", "nifti", *DICOM)


@dataclass(frozen=True)
class Request:
    """What is asked for.

    to              one of FORMATS
    made            when, as text that the files show
    merge           lesions of every source, not the harvested ones alone
    hard_negatives  those too
    likely          finds that nothing proves, too
    most            labels per volume at most, the best scored; None for all
    skip_missing    leave out volumes whose scan is missing or has changed, instead of failing
    """

    to: str
    out: Path
    made: str
    merge: bool = False
    hard_negatives: bool = False
    likely: bool = False
    most: int | None = None
    skip_missing: bool = False
    force: bool = False


@dataclass
class ExportSummary:
    """What was exported, and what was left out (volume_id, reason, message)."""

    volumes: int = 0
    labels: int = 0
    capped: int = 0
    left_out: list[dict[str, Any]] = field(default_factory=list)


def check(request: Request, has_source: bool) -> None:
    """Raise SettingsError for requests that contradict themselves, before anything is read."""
    if request.to not in FORMATS:
        raise SettingsError(f"--to {request.to}: want one of {', '.join(FORMATS)}")
    if request.to in DICOM and not has_source:
        raise SettingsError(f"--to {request.to} refers to the original series: give --source, the folder of the scans")
    if request.to in DICOM and (request.merge or request.hard_negatives or request.likely):
        raise SettingsError(
            f"--to {request.to} takes none of --merge, --hard-negatives and --likely: whoever opens it takes every "
            "entry for a finding of this device"
        )
    if request.most is not None and request.most < 1:
        raise SettingsError(f"--max-per-report {request.most}: want at least 1")
    if request.out.is_file() or (request.out.is_dir() and any(request.out.iterdir()) and not request.force):
        raise SettingsError(f"--out {request.out}: is not an empty folder; give another, or --force to write into it")


def closing_table(request: Request, summary: ExportSummary) -> str:
    """What was exported, for the terminal."""
    lines = [f"{summary.labels} labels of {summary.volumes} volumes as {request.to}"]
    if summary.capped:
        lines.append(f"left out: {summary.capped} labels beyond --max-per-report {request.most}")
    reasons = Counter(row["reason"] for row in summary.left_out)
    lines += [f"left out: {count} volumes, {reason}" for reason, count in sorted(reasons.items())]
    if request.merge and summary.labels:
        lines.append(
            "the archive's marks are boxes on their key slices: other slices of those lesions are without a label"
        )
    return "\n".join([*lines, f"written to {request.out}"])
