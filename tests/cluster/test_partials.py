"""Published parts outlive their workers: nothing is done twice, a volume that kills is found and left out."""

import json
import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from harvester.config.settings import Settings
from harvester.distributed import volume_pool
from harvester.distributed.volume_pool import InferenceJob, Task, run_over_volumes
from harvester.errors import StepError
from harvester.models.prefetch import prefetch
from harvester.records import TUBELETS, TubeletTable
from harvester.run.parted_table import PartedTable
from harvester.run.partials import MOST_VOLUMES, Partials, Row, from_table, plan_parts, to_table
from harvester.run.quarantine import CRASHES, Quarantine, Worker
from harvester.storage.location import Location
from tests.idle_actor import Idle

VOLUMES = 20


def rows(count: int = VOLUMES) -> list[Row]:
    return [{"volume_id": f"v{i:04d}", "patient_id": f"p{i}", "depth": 8} for i in range(count)]


def manifest(count: int = VOLUMES) -> pa.Table:
    return pa.Table.from_pylist(rows(count))


def table_of(kind: type[Idle], job: InferenceJob, volumes: pa.Table) -> pa.Table:
    run_over_volumes(kind, job, volumes)
    return PartedTable(job.partials, TubeletTable).whole()


def actor(log: Path, dies: str = "", survives: int = 1000, hangs: str = "", takes_s: float = 0.0) -> type[Idle]:
    """Works that write down what they do.

    dies        the volume that kills its process, up to `survives` deaths before
    hangs       the volume that takes until the log's folder goes
    """

    class Scripted(Idle):
        def tasks(self, rows: Iterable[Row]) -> Iterator[Task]:
            # Read ahead like the real one: neighbours of the killer are begun too.
            for row, future in prefetch(rows, lambda row: row["volume_id"]):
                yield partial(self.found, row, future.result())

        def found(self, row: Row, volume_id: str) -> list[Row]:
            log.mkdir(exist_ok=True)
            with (log / volume_id).open("a") as file:
                file.write("x")
            time.sleep(takes_s)
            if volume_id == dies and len((log / volume_id).read_text()) <= survives:
                os._exit(1)
            while volume_id == hangs and log.exists():
                time.sleep(0.1)
            if volume_id == "v0007":
                raise OSError("no such slice")
            boxes = {side: [float(len(volume_id))] for side in ("x1", "y1", "x2", "y2")}
            return [
                {"volume_id": volume_id, "tubelet_id": i, "lpg_score": 1 / (i + 1), "width_mm": 1.0, "z": [i],
                 "slice_score": [0.5], **boxes}
                for i in range(3)
            ]  # fmt: skip

    return Scripted


def job_in(folder: Path, **compute: Any) -> InferenceJob:
    settings = Settings.model_validate({"compute": {"replicas": 1, "cpus_per_replica": 0.5, **compute}})
    return InferenceJob(settings, folder, folder, {}, Partials(Location.of(folder / "partials")))


def times_done(log: Path) -> dict[str, int]:
    return {file.name: len(file.read_text()) for file in log.iterdir()}


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in (folder / "partials").glob("[0-9]*.json")]


def undisturbed(folder: Path) -> pa.Table:
    return table_of(actor(folder / "log"), job_in(folder), manifest())


@pytest.fixture(scope="module")
def finished(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    undisturbed(folder)
    return folder


@pytest.fixture(scope="module")
def expected(finished: Path) -> pa.Table:
    return undisturbed(finished)


def test_a_later_start_does_what_is_missing_and_nothing_else(expected: pa.Table, tmp_path: Path) -> None:
    half = manifest(VOLUMES // 2)
    run_over_volumes(actor(tmp_path / "log"), job_in(tmp_path), half)
    assert times_done(tmp_path / "log") == {row["volume_id"]: 1 for row in rows(VOLUMES // 2)}
    assert undisturbed(tmp_path).equals(expected)
    assert undisturbed(tmp_path).equals(expected)
    assert times_done(tmp_path / "log") == {row["volume_id"]: 1 for row in rows()}
    assert len(expected) == 3 * (VOLUMES - 1)
    assert {record["published"] for record in records(tmp_path)} == {1}
    assert not list((tmp_path / "partials").glob("begun-*"))
    (error,) = [error for record in records(tmp_path) for error in record["errors"].items()]
    assert error == ("v0007", "OSError: no such slice")


def test_a_worker_that_dies_takes_nothing_with_it(expected: pa.Table, tmp_path: Path) -> None:
    table = table_of(actor(tmp_path / "log", dies="v0013", survives=1), job_in(tmp_path, replicas=2), manifest())
    assert table.equals(expected)
    assert {record["published"] for record in records(tmp_path)} == {1}
    done = times_done(tmp_path / "log")
    assert done["v0013"] == 2
    # Parts of one volume: only those that were in the dead worker's hands were begun again.
    assert sum(done.values()) <= VOLUMES + 3


def test_a_volume_that_kills_is_left_out_and_the_rest_goes_on(
    expected: pa.Table, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = table_of(actor(tmp_path / "log", dies="v0013"), job_in(tmp_path), manifest())
    assert table.equals(expected.filter(pa.compute.not_equal(expected["volume_id"], "v0013")))
    assert (
        "volume v0013 refused: VolumeError: volume v0013: 2 workers that had it alone did not come back" in caplog.text
    )
    # Once among others, twice alone.
    assert times_done(tmp_path / "log")["v0013"] == 3


def test_a_damaged_part_alone_is_made_anew(finished: Path, expected: pa.Table, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    victim = sorted((tmp_path / "partials").glob("*.parquet"))[5]
    victim.write_bytes(victim.read_bytes()[:-9] + b"x" * 9)
    with pytest.raises(StepError, match=f"part {victim.stem} is damaged; start the harvest again"):
        undisturbed(tmp_path)
    assert undisturbed(tmp_path).equals(expected)
    done = times_done(tmp_path / "log")
    assert sorted(done.values()) == [1] * (VOLUMES - 1) + [2]


def test_too_many_failures_are_tried_again_at_the_next_start(local_ray: None, tmp_path: Path) -> None:
    few = manifest().slice(6, 3)
    for tries in (1, 2):
        with pytest.raises(StepError, match="1 of 3 volumes failed, more than"):
            run_over_volumes(actor(tmp_path / "log"), job_in(tmp_path), few)
        assert times_done(tmp_path / "log") == {"v0006": 1, "v0007": tries, "v0008": 1}


def test_no_progress_is_an_error_that_names_what_is_waited_for(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FromItsBegin(volume_pool.PartProgress):
        """However long the actors take to start."""

        def reached(self) -> Any:
            return super().reached() if (tmp_path / "log" / "v0001").exists() else time.monotonic()

    monkeypatch.setattr(volume_pool, "PartProgress", FromItsBegin)
    hanging = actor(tmp_path / "log", hangs="v0001")
    with pytest.raises(StepError, match=r"no volume was begun or done for 0.05 minutes .*volumes begun: .*v0001"):
        run_over_volumes(hanging, job_in(tmp_path, no_progress_minutes=0.05), manifest(2))
    shutil.rmtree(tmp_path / "log")  # lets go of the CPUs, which others wait for


@pytest.mark.parametrize(("count", "size"), [(1, 1), (63, 1), (130, 2), (1500, MOST_VOLUMES)])
def test_parts_hold_every_volume_once_and_do_not_depend_on_the_workers(count: int, size: int) -> None:
    parts = plan_parts(manifest(count))
    assert [row for part in parts for row in part.rows] == rows(count)
    assert {len(part.rows) for part in parts[:-1]} <= {size}
    assert len({part.name for part in parts}) == len(parts)
    other = plan_parts(pa.Table.from_pylist([{**row, "volume_id": "x" + row["volume_id"]} for row in rows(count)]))
    assert not {part.name for part in parts} & {part.name for part in other}
    assert plan_parts(manifest(1).slice(0, 0)) == []


@pytest.mark.parametrize("some", [slice(None), slice(1, None, 3)])
def test_parts_come_out_of_a_table_as_they_went_in(some: slice) -> None:
    rows = [{"volume_id": f"v{i:04d}", "patient_id": f"p{i}", "depth": i, "width": None} for i in range(150)]
    parts = plan_parts(pa.Table.from_pylist(rows[::-1]))[some]
    again = from_table(to_table(parts))
    assert [(part.name, [*part.rows]) for part in again] == [(part.name, [*part.rows]) for part in parts]


def test_a_million_volumes_are_planned_in_seconds() -> None:
    ids = pa.array([f"v{i:07d}" for i in range(1_000_000)])
    began = time.process_time()
    parts = plan_parts(pa.table({"volume_id": ids, "patient_id": ids}))
    assert len(parts) == 62_500
    assert time.process_time() - began < 60


def test_two_that_publish_the_same_part_leave_it_whole(tmp_path: Path) -> None:
    partials = Partials(Location.of(tmp_path))
    row = {"volume_id": "v", "tubelet_id": 0, "patient_id": "p"}
    table = pa.Table.from_pylist([row] * 5000, TUBELETS)
    failed: list[Exception] = []

    def publish() -> None:
        try:
            for _ in range(20):
                partials.publish("s", table, {"errors": {}, "memory_mib": 0.0})
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=publish) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert next(iter(partials.tables(["s"], TUBELETS))).num_rows == 5000
    assert sorted(file.name for file in tmp_path.iterdir()) == ["s.json", "s.parquet"]


def test_a_death_with_its_node_or_its_driver_counts_little(tmp_path: Path) -> None:
    folder = Location.of(tmp_path)

    def after(deaths: int, driver: str, nodes: list[str], alone: bool = True) -> float:
        first = Quarantine(folder, Worker("first", "here"), lambda: ["here"])
        finder = Quarantine(folder, Worker(driver, "elsewhere"), lambda: nodes)
        first.end("v")
        for _ in range(deaths):
            first._mark("v", {"alone": alone, "crashes": finder.crash_count("v")})
        return finder.crash_count("v")

    assert after(0, "first", ["here"]) == 0
    assert after(CRASHES, "first", ["here"]) == CRASHES
    assert after(3, "first", ["there"]) == after(3, "second", ["here"]) < CRASHES
    # A volume that takes its machine along is found as well, later.
    assert after(8, "second", ["there"]) == CRASHES
    assert after(5, "first", ["here"], alone=False) == 0
