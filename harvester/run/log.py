"""A run's log as JSON lines in its folder, over all starts: written while it runs, read by harvester status.

On a disk the lines go to the end of log.jsonl. An object store appends to nothing: there each start has a
log-<time>.jsonl, uploaded whole now and then.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from numbers import Real
from pathlib import Path
from typing import Any, Final

from harvester.errors import one_line, root_cause, said_stopped, without_secrets
from harvester.storage.location import Location, json_object

NAME: Final = "log"
SUFFIX: Final = ".jsonl"
SECONDS_BETWEEN_UPLOADS: Final = 20.0


@contextmanager
def logged_to(folder: Location) -> Iterator[None]:
    """What is logged in the block, and the error that ends it, as JSON lines in a run's folder."""
    start = time.time()
    handler = _handler(folder, start)
    handler.setLevel(logging.INFO)
    handler.setFormatter(JsonLines(start))
    logging.getLogger().addHandler(handler)
    try:
        yield
    except BaseException as error:
        handler.handle(logging.LogRecord(__name__, logging.ERROR, __file__, 0, _last_words(error), None, None))
        raise
    finally:
        logging.getLogger().removeHandler(handler)
        with suppress(OSError):  # on a full disk
            handler.close()


def read_log(folder: Location) -> list[dict[str, Any]]:
    """The lines {"time", "start", "level", "message"} of all starts, in order; none where nothing was logged.

    start  when the start began that logged it; lines of releases before 0.3 have none
    """
    names = [name for name in folder.files() if name.startswith(NAME) and name.endswith(SUFFIX)]
    return [line for name in names for line in _parsed((folder / name).read_bytes().decode(errors="replace"))]


def seconds_of_starts(log: Iterable[Mapping[str, Any]]) -> float:
    """How long the starts of a log took together, each until its last line."""
    last = {line["start"]: line["time"] for line in log if "start" in line}
    return float(sum(ended - start for start, ended in last.items()))


class JsonLines(logging.Formatter):
    """A record as a line {"time", "start", "level", "message"}. start: when this start began."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.start = start

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return json_line(record.created, record.levelname, record.getMessage(), start=self.start)


def json_line(when: float, level: str, message: str, **more: float) -> str:
    """One line of a log."""
    return json.dumps({"time": when, **more, "level": level, "message": without_secrets(message)})


class _Appended(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        """A full disk is reported by what cannot go on without it, once, and not by one traceback per line."""


class _Uploaded(logging.Handler):
    """Lines in memory, published whole by a thread, so that a slow store holds up nobody."""

    def __init__(self, file: Location) -> None:
        super().__init__()
        self.file: Location = file
        self.lines: list[str] = []
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self._upload, daemon=True)
        self.thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    def close(self) -> None:
        self.closing.set()
        self.thread.join()
        super().close()

    def _upload(self) -> None:
        kept, last = 0, False
        while not last:
            last = self.closing.wait(SECONDS_BETWEEN_UPLOADS)
            if len(self.lines) > kept:
                kept = len(self.lines)
                # A log that cannot be kept for a while is no reason to end the run: the next upload has it all.
                with suppress(OSError):
                    self.file.write_text("\n".join(self.lines[:kept]) + "\n")


def _handler(folder: Location, start: float) -> logging.Handler:
    if not folder.on_disk:
        return _Uploaded(folder / f"{NAME}-{start:.3f}{SUFFIX}")
    Path(folder.base).mkdir(parents=True, exist_ok=True)
    file = Path(folder.base) / f"{NAME}{SUFFIX}"
    _end_line(file)
    return _Appended(file)


def _end_line(file: Path) -> None:
    """What a killed driver was writing is not to take the next line along."""
    with suppress(OSError), file.open("ab+") as log:
        if log.tell():
            log.seek(-1, os.SEEK_END)
            log.write(b"" if log.read() == b"\n" else b"\n")


def _last_words(error: BaseException) -> str:
    # Other people's errors may quote what they choked on: only their names are kept.
    if isinstance(error, KeyboardInterrupt):
        return said_stopped(error)
    ours = root_cause(error)
    text = f": {one_line(ours)}" if ours else ", told where the job was started"
    return type(ours or error).__name__ + text


def _parsed(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        if parsed := json_object(line, time=Real, level=str, message=str):  # not what a killed driver was writing
            yield parsed
