"""How a worker goes through parts: which volumes may be read ahead of each other, and which one at a time."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, TypeVar

from harvester.errors import HarvesterError, NoRoomError
from harvester.run.partials import Part, Row
from harvester.run.quarantine import Quarantine, is_crash

T = TypeVar("T")
Tasks = Callable[[Iterable[Row]], Iterator[Callable[[], T]]]
"""For each volume's row in turn a call that gives its result or raises its error; the next ones may run ahead."""

REFUSABLE: Final = (HarvesterError, OSError, ValueError)
"""What leaves a volume out with its reason. Anything else is a mistake of ours and ends the step."""


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What became of a volume: its result, or the error that leaves it out."""

    row: Row
    result: T | None = None
    error: Exception | None = None


@dataclass(frozen=True)
class WorkList:
    """The parts that a worker is given.

    done         published before
    clean        without a suspect: their volumes are read ahead of each other
    quarantined  with a suspect: volume by volume, when all others are through
    """

    done: Sequence[Part]
    clean: Sequence[Part]
    quarantined: Sequence[Part]

    @classmethod
    def split(cls, parts: Sequence[Part], done: Collection[str], suspects: Collection[str]) -> "WorkList":
        """done: names of published parts; suspects: volume ids."""
        to_do = [part for part in parts if part.name not in done]
        held = [part for part in to_do if any(row["volume_id"] in suspects for row in part.rows)]
        return cls([part for part in parts if part.name in done], [part for part in to_do if part not in held], held)

    def outcomes(
        self, tasks: Tasks[T], quarantine: Quarantine, refusable: tuple[type[Exception], ...] = REFUSABLE
    ) -> Iterator[tuple[Part, Iterator[Outcome[T]]]]:
        """Each part that is to do, with an outcome per volume. The outcomes of one are taken before the next part.

        Raises NoRoomError, which is no fault of a volume's, and what is not `refusable`.
        """
        ahead = tasks(_begun(quarantine, self.clean))
        for part in self.clean:
            yield part, _outcomes(part.rows, ahead, quarantine, refusable)
        next(ahead, None)  # its end lets go of what the last volumes hold: nothing is beside a suspect
        for part in self.quarantined:
            alone = (partial(_alone, part, place, tasks, quarantine) for place in range(len(part.rows)))
            yield part, _outcomes(part.rows, alone, quarantine, refusable)
            quarantine.release(part.name)


def _begun(quarantine: Quarantine, parts: Iterable[Part]) -> Iterator[Row]:
    for part in parts:
        quarantine.begin(part.name, [row["volume_id"] for row in part.rows])
        yield from part.rows


def _alone(part: Part, place: int, tasks: Tasks[T], quarantine: Quarantine) -> T:
    row = part.rows[place]
    quarantine.begin_alone(row["volume_id"], part.name, len(part.rows) - place)
    return next(tasks([row]))()


def _outcomes(
    rows: Iterable[Row],
    tasks: Iterator[Callable[[], T]],
    quarantine: Quarantine,
    refusable: tuple[type[Exception], ...],
) -> Iterator[Outcome[T]]:
    for row in rows:
        try:
            outcome = Outcome(row, next(tasks)())
        except NoRoomError:
            raise
        except refusable as error:
            outcome = Outcome[T](row, error=error)
        yield outcome
        if not is_crash(outcome.error):
            quarantine.end(row["volume_id"])
        del outcome  # not held while the next volume is worked on
