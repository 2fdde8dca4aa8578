"""An actor of the pool that takes no network: what tests of the pool start from."""

from collections.abc import Iterable, Iterator

from harvester.distributed.volume_pool import Actor, Task
from harvester.records import TubeletTable
from harvester.run.partials import Row


class Idle(Actor[TubeletTable]):
    """Finds nothing."""

    kind, doing = TubeletTable, "proposing lesions"

    def tasks(self, rows: Iterable[Row]) -> Iterator[Task]:
        """A volume's rows: none."""
        return (list for _ in rows)

    def memory_mib(self) -> float:
        """Nothing on a device."""
        return 0.0
