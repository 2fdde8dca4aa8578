"""The error tree. Each message says which volume or setting, what came, what was wanted, what to do.

HarvesterError
|- SettingsError    a setting is unknown or has a value that is not allowed (a job exits with code 2)
|- VolumeError      one scan cannot be used; its job goes on and writes a reject row
|- LabelError       marks or tubelets are malformed or do not belong to the volumes
|- StoreError       a store or a run folder is missing, broken or of another version
|  `- NoRoomError      its disk is full; an OSError too
|- TrackingError    a tracking server is away or broken; a harvest goes on without it
`- StepError        a step of the loop cannot produce its table
   |- StepMissingError  it is not made, in a run that only looks (run/folder.py)
   `- NoExamplesError  a fold of a model has no example; the loop ends with a round that harvests nothing
"""

from collections.abc import Iterator
from contextlib import contextmanager


class HarvesterError(Exception):
    """Base of every error that harvester raises on purpose."""


class SettingsError(HarvesterError):
    """A setting is unknown or its value is not allowed."""


class VolumeError(HarvesterError):
    """A scan cannot be used. `reason` is a short code for rejects.parquet; the message is for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type["VolumeError"], tuple[str, str]]:
        return type(self), (self.reason, str(self))


@contextmanager
def about_volume(volume_id: str) -> Iterator[None]:
    """Within it the messages of VolumeErrors begin with the volume's name."""
    try:
        yield
    except VolumeError as error:
        raise VolumeError(error.reason, f"volume {volume_id}: {error}") from None


class LabelError(HarvesterError):
    """Marks or tubelets are malformed or name volumes that do not exist."""


class StoreError(HarvesterError):
    """A store or run folder is missing, broken or written by another version."""


class NoRoomError(StoreError, OSError):
    """A disk is full. Nothing of the file that was being written is left."""


class TrackingError(HarvesterError):
    """A tracking server is away, hangs or is broken. What it was not told stands in the run's folder."""


class StepError(HarvesterError):
    """A step of the loop cannot produce its table."""


class NoExamplesError(StepError):
    """A fold of a model has no example to learn from."""


def root_cause(error: BaseException | None) -> HarvesterError | None:
    """The error of ours that came, or that what came wraps.

    Ray wraps what its workers raise in an error of the same class and its own, whose text is a traceback.
    """
    while error is not None:
        wrapped = getattr(error, "cause", None)
        if not isinstance(wrapped, BaseException) and isinstance(error, HarvesterError):
            return error
        error = wrapped if isinstance(wrapped, BaseException) else error.__cause__
    return None
