"""What the driver knows of parts at work, without Ray: volumes begun and ended, parts that are not where it looks."""

import errno
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from harvester.config.settings import Settings
from harvester.distributed.volume_pool import InferenceJob, PartProgress, Task, run_over_volumes
from harvester.errors import StepError, StoreError
from harvester.records import TUBELETS
from harvester.run import quarantine as quarantines
from harvester.run.partials import Part, Partials, Row, to_table
from harvester.run.quarantine import Quarantine, Worker
from harvester.storage.location import Location
from tests.idle_actor import Idle

ROWS: list[dict[str, Any]] = [{"volume_id": f"v{i:02d}", "patient_id": "p", "depth": 9} for i in range(16)]


def job_in(folder: Path) -> InferenceJob:
    where = Location.of(folder)
    return InferenceJob(Settings(), where, where, {}, Partials(where / "partials"))


def test_each_volume_that_ends_is_progress_though_its_part_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen slow ones in one part take longer than compute.no_progress_minutes and are not given up."""
    monkeypatch.setattr(quarantines, "SECONDS_BETWEEN_MARKS", 0.0)
    job = job_in(tmp_path)
    quarantine = Quarantine(job.partials.folder, Worker("d", "n"), lambda: ["n"])
    progress = PartProgress(job, [Part("one", ROWS)], "Proposer")
    seen = [progress.reached()]
    assert progress.reached() == seen[0]
    quarantine.begin("one", [row["volume_id"] for row in ROWS])
    for row in ROWS:
        seen.append(progress.reached())
        assert progress.reached() == seen[-1] != seen[-2]
        assert progress.lines.lines.done == int(row["volume_id"][1:])
        quarantine.end(row["volume_id"])
    assert (
        "no volume was begun or done for 60 minutes (compute.no_progress_minutes), 1 are waited" in progress.waiting()
    )
    job.partials.publish("one", pa.Table.from_pylist([], TUBELETS), {})
    assert progress.reached() != seen[-1]
    assert progress.lines.lines.done == 16


class Scripted(Idle):
    """Reads that fail as often as told, in this process; `read`: what was read."""

    def __init__(self, job: InferenceJob, fails: dict[str, list[Exception]], read: list[str]) -> None:
        self.job, self.fails, self.read = job, fails, read
        self.quarantine = Quarantine(job.partials.folder, Worker("d", "n"), lambda: ["n"])

    def tasks(self, rows: Iterable[Row]) -> Iterator[Task]:
        return (partial(self.row, row["volume_id"]) for row in rows)

    def row(self, volume_id: str) -> list[Row]:
        self.read.append(volume_id)
        if left := self.fails.get(volume_id):
            raise left.pop()
        return []


def test_a_volume_whose_reading_failed_in_passing_is_tried_once_more_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(left: int) -> list[Exception]:
        error = StoreError("volume cannot be read from the store")
        error.__cause__ = OSError(errno.EIO, "Input/output error")
        return [error] * left

    fails = {"v01": away(1), "v02": away(9), "v03": [OSError("no such slice")] * 9}
    read: list[str] = []
    job = job_in(tmp_path)
    job = replace(job, settings=Settings.model_validate({"data": {"max_reject_share": 0.2}}))

    def dataset(_: object, job: InferenceJob, parts: list[Part]) -> Any:
        return SimpleNamespace(materialize=lambda: list(Scripted(job, fails, read)(to_table(parts))))

    monkeypatch.setattr("harvester.distributed.volume_pool._dataset", dataset)
    run_over_volumes(Scripted, job, pa.Table.from_pylist(ROWS))
    assert sorted(read) == sorted([*(row["volume_id"] for row in ROWS), "v01", "v02"])
    records = job.partials.records(sorted(job.partials.done()))
    assert {name for record in records for name in record["errors"]} == {"v02", "v03"}


def test_parts_that_other_nodes_kept_for_themselves_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their workers said that they published them."""

    class Nowhere:
        def materialize(self) -> None: ...

    monkeypatch.setattr("harvester.distributed.volume_pool._dataset", lambda *_: Nowhere())
    with pytest.raises(
        StepError, match=r"16 of 16 parts were published .* is the run folder shared by all nodes"
    ) as caught:
        run_over_volumes(Scripted, job_in(tmp_path), pa.Table.from_pylist(ROWS))
    assert "\n" not in str(caught.value)
