"""A run's log as JSON lines in its folder, over all starts: written while it runs, read by harvester status.

On a disk the lines go to the end of log.jsonl. An object store appends to nothing: there each start has a
log-<time>.jsonl, uploaded whole now and then.
"""

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from harvester.errors import SettingsError, one_line, root_cause
from harvester.storage.location import Location

NAME: Final = "log"
SUFFIX: Final = ".jsonl"
SECONDS_BETWEEN_UPLOADS: Final = 20.0


@contextmanager
def logged_to(folder: Location) -> Iterator[None]:
    """What is logged in the block, and the error that ends it, as JSON lines in a run's folder."""
    handler = _handler(folder)
    handler.setFormatter(_AsJson())
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
    """The lines {"time", "level", "message"} of all starts, in order; none where nothing was logged."""
    names = [name for name in folder.files() if name.startswith(NAME) and name.endswith(SUFFIX)]
    return [line for name in names for line in _parsed((folder / name).read_text())]


class _AsJson(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {"time": record.created, "level": record.levelname, "message": record.getMessage()}
        return json.dumps(line)


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


def _handler(folder: Location) -> logging.Handler:
    if not folder.on_disk:
        return _Uploaded(folder / f"{NAME}-{time.time():.3f}{SUFFIX}")
    try:
        Path(folder.base).mkdir(parents=True, exist_ok=True)
        return _Appended(Path(folder.base) / f"{NAME}{SUFFIX}")
    except OSError as error:
        raise SettingsError(f"--run {folder}: cannot be written ({error.strerror}); give another folder") from None


def _last_words(error: BaseException) -> str:
    # Other people's errors may quote what they choked on: only their names are kept.
    if isinstance(error, KeyboardInterrupt):
        return "stopped by Ctrl-C"
    ours = root_cause(error)
    text = f": {one_line(ours)}" if ours else ", told where the job was started"
    return type(ours or error).__name__ + text


def _parsed(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        with suppress(ValueError):  # the line that a killed driver was writing
            yield json.loads(line)
