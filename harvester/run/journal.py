"""What a run folder says of its run: run.json from its start on, round-<k>/round.json when a round has ended.

MLflow is sent what stands here (tracking.py). A run folder may be somebody else's: what is not of this form is refused.
"""

import json
import re
import time
from collections.abc import Iterator
from typing import Any, Final, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harvester import __version__
from harvester.errors import StoreError
from harvester.storage.location import Location

FORMAT: Final = 1
"""Of a run folder. Raised by one where a release lays it out so that an older one would read it wrongly."""
RUN: Final = "run.json"
ROUND: Final = "round.json"
Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


class RunRecord(BaseModel):
    """run.json.

    format     FORMAT of the release that wrote it, harvester its version
    id         names the run to a tracking server, whatever came of earlier tries to tell it
    began      its first start, ended: the end of its last one, None while it runs; seconds since 1970
    status     RUNNING also where the driver was killed
    store      the URI of the store that is harvested, without secrets
    """

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    harvester: str = __version__
    id: str = Field(default_factory=lambda: uuid4().hex, pattern="^[0-9a-f]{32}$")
    began: float = Field(default_factory=time.time)
    status: Status = "RUNNING"
    ended: float | None = None
    store: str = ""


class RoundRecord(BaseModel):
    """round.json: what a round chose and how it came out. ended: when, in seconds since 1970."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    round: int
    ended: float
    params: dict[str, Any]
    metrics: dict[str, float]


def read_run(folder: Location) -> RunRecord | None:
    """run.json; None in a new folder and in one made before there were formats, which is read as it is.

    Raises StoreError for the folder of a newer release, and for what is no run.json.
    """
    file = folder / RUN
    if not file.is_file():
        return None
    try:
        data = file.read_bytes()
        found = json.loads(data)["format"]
        if isinstance(found, int) and found > FORMAT:
            raise StoreError(
                f"{folder}: a run folder of format {found}, and harvester {__version__} reads formats up to {FORMAT}; "
                f"use the release that {RUN} names, or give another --run"
            )
        return RunRecord.model_validate_json(data)
    except (ValidationError, ValueError, TypeError, KeyError, RecursionError):
        raise StoreError(f"{file}: not as harvester writes it; give another --run") from None


def write_run(folder: Location, record: RunRecord) -> None:
    """Put run.json into the folder, in place of what was there."""
    (folder / RUN).write_text(record.model_dump_json(indent=1) + "\n")


def rounds(folder: Location) -> list[int]:
    """The numbers of the rounds that the folder holds anything of, ascending."""
    return sorted(
        int(found[1]) for name in folder.folders() if (found := re.fullmatch(r"round-(0|[1-9]\d{0,8})", name))
    )


def round_folder(folder: Location, round_index: int) -> Location:
    """Where what a round makes lies."""
    return folder / f"round-{round_index}"


def read_rounds(folder: Location) -> Iterator[tuple[int, RoundRecord | None]]:
    """Each round that has ended, and its record; None for one that is not as harvester writes it."""
    for k in rounds(folder):
        file = round_folder(folder, k) / ROUND
        if file.is_file():
            yield k, _parsed(file.read_bytes(), k)


def write_round(folder: Location, record: RoundRecord) -> None:
    """Put down a round that has ended.

    One that came out the same before keeps its time: nothing of it is new. One that did not takes the records of
    later rounds with it, which followed from the other.
    """
    file = round_folder(folder, record.round) / ROUND
    before = _parsed(file.read_bytes(), record.round) if file.is_file() else None
    if before and before.model_dump_json(exclude={"ended"}) == record.model_dump_json(exclude={"ended"}):
        return
    for later in (k for k in rounds(folder) if k > record.round):
        (round_folder(folder, later) / ROUND).delete()
    file.write_text(record.model_dump_json(indent=1) + "\n")


def _parsed(data: bytes, round_index: int) -> RoundRecord | None:
    try:
        record = RoundRecord.model_validate_json(data)
    except ValidationError:
        return None
    return record if record.round == round_index else None
