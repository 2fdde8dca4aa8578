"""What a tracking server has not been told yet, in order; kept in the run's folder until it has.

<run folder>/mlflow_unsent.jsonl: one JSON object a line (Entry). A run folder may be somebody else's, so a line that is
no entry is left out, and an artifact is a file of the folder itself, whatever its name claims.
"""

import json
import logging
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from harvester.storage.location import Location

logger = logging.getLogger(__name__)

FILE: Final = "mlflow_unsent.jsonl"
SECONDS_BETWEEN_TRIES: Final = 60.0
"""A server that is away costs a harvest one try a minute at most."""
PATIENCE_S: Final = 60.0
PAUSE_S: Final = 5.0
"""A harvest that is done waits so long for a server that is away, and asks it so often."""
NAMES: Final = {
    "open": ".+",
    "round": r"round-\d+",
    "artifact": r"\w[^/\\]*",
    "finish": "FINISHED|FAILED|KILLED",
}


@dataclass(frozen=True)
class Entry:
    """One call of the harvest's.

    kind     "open", "round", "artifact" or "finish"
    name     the run's, round-<k>, a file's, or the status that the run ends with
    time_ms  when it was called, since 1970: what is sent twice is the same metric to the server
    opening    of "open": names the run before the server has given it an id
    """

    kind: str
    name: str
    time_ms: int
    step: int = 0
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    opening: str = ""

    @classmethod
    def of(cls, told: Any) -> "Entry":
        """The entry of a line. Raises TypeError or ValueError for what is none."""
        entry = cls(**told)
        fits = (
            re.fullmatch(NAMES.get(entry.kind, ""), entry.name)
            and re.fullmatch("[0-9a-f]*", entry.opening)
            and {type(entry.time_ms), type(entry.step)} == {int}
            and all(isinstance(text, str) for text in entry.params.values())
            and all(isinstance(value, int | float) for value in entry.metrics.values())
        )
        if not fits:
            raise ValueError(entry.kind)
        return entry


class Unsent:
    """What is to be sent, the oldest first, and when to try."""

    def __init__(self, folder: Location) -> None:
        self._file = folder / FILE
        self._saved = _lines(self._file)
        self._entries = [entry for line in self._saved if (entry := _entry(line))]
        self._away = False
        self._next_try = 0.0

    def add(self, entry: Entry) -> None:
        """Put one at the end."""
        self._entries.append(entry)

    def send(self, act: Callable[[Entry], None]) -> None:
        """Send what there is, in order, until `act` fails; then it is left alone for a while. Never raises."""
        # A server can fail in more ways than MLflow wraps (sockets, SQLAlchemy, a full disk): whatever it is,
        # hours of harvesting must not die of it.
        try:
            self._save()
            while self._entries and time.monotonic() >= self._next_try:
                act(self._entries[0])
                del self._entries[0]
                if self._away:
                    logger.info("MLflow answers again: what was kept is sent")
                self._away = False
            self._save()
        except Exception as error:  # noqa: BLE001
            self._next_try = time.monotonic() + SECONDS_BETWEEN_TRIES
            if not self._away:
                reason = " ".join(str(error).split())[:200]
                logger.warning("tracking failed (%s), the harvest goes on and tells it later", reason)
            self._away = True

    def send_last(self, act: Callable[[Entry], None], patient: bool) -> None:
        """Send what there is at the end of a harvest, trying for a while where it is `patient`."""
        until = time.monotonic() + (PATIENCE_S if patient else 0.0)
        while self._entries:
            self._next_try = 0.0
            self.send(act)
            if time.monotonic() >= until:
                break
            if self._entries:
                time.sleep(PAUSE_S)
        if self._entries:
            logger.warning(
                "MLflow was not told all: what is left is kept in %s; the same command sends it", self._file
            )

    def _save(self) -> None:
        """The file whole, for an object store cannot append; none where there is nothing to send."""
        lines = [json.dumps(asdict(entry)) for entry in self._entries]
        if lines == self._saved:
            return
        if lines:
            self._file.write_text("".join(f"{line}\n" for line in lines))
        else:
            self._file.delete()
        self._saved = lines


def _lines(file: Location) -> list[str]:
    try:
        return file.read_text().splitlines() if file.is_file() else []
    except UnicodeDecodeError:
        return [""]


def _entry(line: str) -> Entry | None:
    try:
        return Entry.of(json.loads(line))
    except (TypeError, ValueError, AttributeError, RecursionError):
        logger.warning("%s: a line that is not ours is left out", FILE)
        return None
