"""Which parts of DICOM objects mark lesions, by code, type or name, and why others are passed over.

Objects hold organs, margins and devices besides lesions. What is surely none of these and no known lesion either is
doubtful: it may be a lesion that somebody marked, so a scan with such a part does not count as completely marked.
Names are compared with the patterns of data.archive.dicom and never kept.
"""

import re
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from harvester.config.data import DicomSettings


class Passed(StrEnum):
    """Why a part of an object gives no lesion, in words that a message counts."""

    ORGAN = "organs or other structures"
    ELSEWHERE = "on other series"
    SEGMENT = "held by a segmentation"
    FRAME = "in another frame of reference"
    CODE = "of a code that tells nothing"
    NAME = "of a name that tells nothing"
    TYPE = "of a type that its name denies"
    TARGET = "targets of radiation"
    NO_COORDINATES = "without a region"
    MACHINE = "made by a program"
    OBJECT = "of a kind of object that is not read"


SURE: Final = frozenset({Passed.ORGAN, Passed.ELSEWHERE})
"""No lesion of the scan."""
NOT_LETTERS: Final = re.compile(r"[\W\d_]+")
TAKEN_OFF: Final = re.compile(
    r"(?<=[A-Za-z)])(?<!\bnon)\s?-\s?(?=[a-z])|\b(?:minus|without|sub|less|no|non(?!\W?target)|ohne|sans|ex|excl)\b",
    re.I,
)
"""What makes "Lungs-GTV" and "liver without tumour" of a lesion's name; RECIST's non-target lesions are lesions."""
TARGETS: Final = re.compile(r"\b(?:ptv|ctv|planning|target vol|margin|ring|bed)", re.I)


@dataclass(frozen=True)
class MarkRules:
    """What counts as a lesion (settings data.archive.dicom)."""

    lesion_names: re.Pattern[str]
    other_names: re.Pattern[str]
    lesion_codes: frozenset[str]
    machine_marks: bool

    @classmethod
    def of(cls, settings: DicomSettings) -> "MarkRules":
        """From the settings."""
        names, others = (re.compile(rf"\b(?:{text})\b", re.I) for text in (settings.lesion_names, settings.other_names))
        return cls(names, others, frozenset(settings.lesion_codes), settings.machine_marks)

    def tell(self, name: str) -> bool | None:
        """Whether something of this name is a lesion; None where that cannot be told."""
        words = NOT_LETTERS.sub(" ", name)
        found = self.lesion_names.search(words)
        if found is None:
            return False if self.other_names.search(words) else None
        before = TAKEN_OFF.search(name)
        if (before and self.lesion_names.search(NOT_LETTERS.sub(" ", name[before.end() :]))) or TARGETS.search(words):
            return None
        return True


def doubtful(passed: Counter[Passed]) -> int:
    """How many of those passed over may be lesions."""
    return sum(count for why, count in passed.items() if why not in SURE)
