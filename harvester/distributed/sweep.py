"""Work on V_H part by part as Ray tasks: wherever there is room, and the driver gets what is left of each."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import pyarrow as pa
import ray

Names = Sequence[str]
OverNames = Callable[[Names], pa.Table]

FEW: Final = 8
"""Groups that are done here: workers take as long to start."""
AHEAD: Final = 2
"""Tasks for each CPU that are handed out before the first has answered."""


def in_tasks(work: OverNames, groups: Sequence[Names]) -> Iterator[pa.Table]:
    """What some work makes of each group of names, in their order. A task whose worker dies is done again, one group
    needs none."""
    if len(groups) <= FEW:
        yield from map(work, groups)
        return
    task, given = ray.remote(num_cpus=1)(_call), ray.put(work)
    most = AHEAD * max(1, int(cluster_cpus()))
    waiting: deque[Any] = deque()
    for names in groups:
        waiting.append(task.remote(given, names))
        if len(waiting) >= most:
            yield ray.get(waiting.popleft())
    while waiting:
        yield ray.get(waiting.popleft())


def cluster_cpus() -> float:
    """Of all nodes."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray gives no types for it
    return resources.get("CPU", 1.0)


def _call(work: OverNames, names: Names) -> pa.Table:
    return work(names)
