"""Work on parts as Ray tasks: in their order, on other processes, what fails told as it was raised."""

import os
from collections.abc import Sequence

import pyarrow as pa
import pytest

from harvester.distributed import sweep
from harvester.distributed.sweep import in_tasks

GROUPS = [[f"{index:03d}", "x"] for index in range(20)]


def work(names: Sequence[str]) -> pa.Table:
    return pa.table({"name": [names[0]], "process": [os.getpid()]})


@pytest.mark.usefixtures("local_ray")
def test_answers_come_in_the_order_of_the_parts_and_from_other_processes() -> None:
    table = pa.concat_tables(in_tasks(work, GROUPS))
    assert table["name"].to_pylist() == [names[0] for names in GROUPS]
    assert os.getpid() not in table["process"].to_pylist()


def test_a_few_are_done_here() -> None:
    table = pa.concat_tables(in_tasks(work, GROUPS[: sweep.FEW]))
    assert set(table["process"].to_pylist()) == {os.getpid()}


@pytest.mark.usefixtures("local_ray")
def test_an_error_in_a_part_is_raised() -> None:
    def broken(names: Sequence[str]) -> pa.Table:
        raise ZeroDivisionError(names[0])

    with pytest.raises(ZeroDivisionError, match="000"):
        list(in_tasks(broken, GROUPS))
