"""DeepLesion's names of sub-volumes: PATIENT_STUDY_SERIES_START-END, in all the forms that files give them.

    000001_01_01_103-115          as the pickles of clinical marks have it, and as it is kept here
    000001_01_01_103-115.annot    the fully annotated pickles
    000001_01_01-103-115          a dash before the range
    000001_01_01_103-115.nii.gz   the published converter to NIfTI

PATIENT, STUDY and SERIES are numbers that the publishers drew: pseudonyms already. START and END are the first and
last slice; slice NNN is slice NNN - START of the sub-volume.
"""

import re
from dataclasses import dataclass
from typing import Final

# Bounded, ASCII digits only: an id becomes the name of a file.
FORM: Final = re.compile(
    r"([0-9]{1,9})_([0-9]{1,4})_([0-9]{1,4})[_-]([0-9]{1,6})-([0-9]{1,6})(?:\.annot|\.nii|\.nii\.gz)?", re.IGNORECASE
)


@dataclass(frozen=True)
class SubVolume:
    """A sub-volume's name in parts. `folder` is where its slices lie; slices `start` to `end`, both included."""

    folder: str
    start: int
    end: int


def plain_id(volume_id: str) -> str:
    """The one form of a volume's id that is kept: the first of those above; other archives' ids stay as they are.

    `.annot` is taken from any id. Digits are left alone, leading zeros too.
    """
    found = FORM.fullmatch(volume_id)
    return found.expand(r"\1_\2_\3_\4-\5") if found else volume_id.removesuffix(".annot")


def split_id(volume_id: str) -> SubVolume | None:
    """The parts of a DeepLesion id in any of its forms; None for any other text (a path, for one)."""
    found = FORM.fullmatch(volume_id)
    if not found:
        return None
    patient, study, series, start, end = found.groups()
    return SubVolume(f"{patient}_{study}_{series}", int(start), int(end))
