"""What goes wrong. Each message says which volume or setting, what came, what was wanted, what to do."""

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

USERINFO: Final = re.compile(r"(?:(?<=://)|(?<=\w\w:/)(?!/))(?:[^\s/:@]+:(?!\d+(?:[/\s]|$))\S*@|[^\s/]*@)")
"""What a URI says of its user, also where a password holds a slash, or where a path was made of it, which leaves one
slash of two; what follows the colon may be a port instead."""
SECRET: Final = re.compile(r"([?&;][^=&\s]*(?:key|secret|token|password|credential|signature)[^=&\s]*=)[^&\s]+", re.I)
"""A secret in a URI's query, behind its name."""

STOPPED: Final = "stopped by"
"""How the last line of a log begins of a program that a signal ended."""


class HarvesterError(Exception):
    """Base of every error that harvester raises on purpose."""


class SettingsError(HarvesterError):
    """A setting is unknown or its value is not allowed (a command exits with code 2)."""


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
    """A tracking server is away, hangs or is broken. What it does not have stands in the run's folder."""


class StepError(HarvesterError):
    """A step of the loop cannot produce its table."""


class NotFiniteError(StepError):
    """A loss, weight or score is NaN or infinite. It comes again with the same settings: nothing is made of it."""


class NoExamplesError(StepError):
    """A fold of a model has no example to learn from: the loop ends with a round that harvests nothing."""


class Stopped(KeyboardInterrupt):
    """A signal asks the program to end, as Ctrl-C does."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def said_stopped(error: KeyboardInterrupt) -> str:
    """For people and for the log."""
    return f"{STOPPED} {error if isinstance(error, Stopped) else 'Ctrl-C'}"


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


def passing_cause(error: BaseException | None) -> BaseException | None:
    """What an error comes from that may be over at the next try: disk, network, rights or want of memory; else None.

    The system's own OSErrors bear a number. Libraries raise others, without one, for what a file is.
    """
    while error is not None:
        if isinstance(error, MemoryError | TimeoutError | ConnectionError) or (
            isinstance(error, OSError) and error.errno
        ):
            return error
        error = error.__cause__ or error.__context__
    return None


def one_line(error: BaseException) -> str:
    """An error's text without secrets; a library may have said something of it on several lines."""
    return without_secrets(" ".join(str(error).split()))


def without_secrets(text: str) -> str:
    """A text that may be logged: users, passwords and keys of the URIs in it are left out."""
    return SECRET.sub(r"\1***", USERINFO.sub("", text))
