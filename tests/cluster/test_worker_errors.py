"""Errors of ours that are raised on a worker of Ray Data end a job as one line. Ray Train's: test_harvest.py."""

import errno
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from harvester.certificate.selection import Calibration, CalibrationFiles
from harvester.config.settings import Settings
from harvester.distributed.preparation import Maker
from harvester.distributed.tuning import sweep
from harvester.distributed.volume_pool import InferenceJob, run_over_volumes
from harvester.errors import LabelError, StepError, StoreError
from harvester.run.partials import Part, Partials
from harvester.run.work_list import Outcome
from harvester.storage.location import Location
from tests.commands import exit_code_of
from tests.idle_actor import Idle

ROWS = [{"volume_id": f"v{i}", "patient_id": f"p{i}", "depth": 8} for i in range(2)]


def test_an_error_in_an_actor_of_ray_data_is_one_line(
    local_ray: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # Local, so that it travels to the worker by value.
    class Broken(Idle):
        def tasks(self, rows: list[dict[str, Any]]) -> Iterator[Callable[[], list[dict[str, Any]]]]:
            def work(row: dict[str, Any]) -> list[dict[str, Any]]:
                raise StepError(f"{row['patient_id']} is broken\non purpose")

            return (partial(work, row) for row in rows)

    settings = Settings.model_validate({"compute": {"replicas": 1}})
    job = InferenceJob(settings, tmp_path, tmp_path, {}, Partials(Location.of(tmp_path / "partials")))
    caught: list[StepError] = []

    def work() -> None:
        try:
            run_over_volumes(Broken, job, pa.Table.from_pylist(ROWS))
        except StepError as error:
            caught.append(error)
            raise

    assert exit_code_of(work) == 1
    assert type(caught[0]) is StepError
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "broken" in line]
    assert line.startswith("2 of 2 volumes failed, more than data.max_reject_share = 0.1 allows")
    assert line.endswith("is broken on purpose")


def test_an_error_in_a_trial_is_one_line_and_not_tried_again(local_ray: None, tmp_path: Path) -> None:
    table, tries = Location.of(tmp_path) / "table.parquet", tmp_path / "tries"

    class Broken(CalibrationFiles):
        def read(self) -> Calibration:
            with tries.open("a") as file:
                file.write("x")
            return super().read()

    table.write_table(pa.table({"volume_id": ["v"]}))
    settings = Settings.model_validate({"operating_point": {"min_slices": [1, 2]}})
    with pytest.raises(StepError, match=r"^2 of 2 operating-point trials failed: StoreError: .* is no PooledTable: "):
        sweep(Broken((table,) * 4), settings, Location.of(tmp_path / "tune"))
    assert tries.read_text() == "xx"


def test_an_error_while_a_volume_is_made_is_a_refused_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Maker, case: dict[str, Any]) -> Any:
        raise LabelError(f"{case['volume_id']}: box outside the image")

    monkeypatch.setattr(Maker, "load", broken)
    rows = [{"volume_id": "v", "source_hash": "h", "case": {"volume_id": "v", "split": "vh"}}]
    made = Maker(Settings.model_validate({"data": {"kind": "phantom"}}), None, tmp_path, tmp_path / "begun")(
        {"name": "s", "rows": json.dumps(rows)}
    )
    (row,) = json.loads(made["rejects"])
    assert row == {"source_hash": "h", "reason": "LabelError", "message": "v: box outside the image"}
    assert (json.loads(made["note"])["manifest"], made["error"]) == ([], "")


def test_a_disk_that_fills_under_an_actor_is_one_line_and_no_fault_of_the_volumes(
    local_ray: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class Full(Idle):
        def tasks(self, rows: list[dict[str, Any]]) -> Iterator[Callable[[], list[dict[str, Any]]]]:
            for row in rows:
                if row["volume_id"] == "v1":  # as begin() finds it
                    with Location.of(tmp_path / "x").publish():
                        raise OSError(errno.ENOSPC, "No space left on device")
                yield list

    settings = Settings.model_validate({"compute": {"replicas": 1}})
    partials = Partials(Location.of(tmp_path / "partials"))
    job = InferenceJob(settings, tmp_path, Location.of(tmp_path), {}, partials)
    assert exit_code_of(lambda: run_over_volumes(Full, job, pa.Table.from_pylist(ROWS))) == 1
    assert (
        capfd.readouterr()
        .err.splitlines()[-1]
        .startswith(  # Ray adds a word on its tries
            f"{tmp_path}: cannot be written (No space left on device); make room there, then start again "
            "with the same command: what is finished is kept"
        )
    )
    assert len(partials.done()) == 1
    assert run_over_volumes(Idle, job, pa.Table.from_pylist(ROWS))["rows"] == 0
    assert len(partials.done()) == 2


def test_want_of_memory_is_no_fault_of_a_volume(tmp_path: Path) -> None:
    """Not even where reading the store tells it; a store that cannot be read for another reason is one."""
    partials = Partials(Location.of(tmp_path / "partials"))
    actor = Idle(InferenceJob(Settings(), tmp_path, Location.of(tmp_path), {}, partials))
    part = Part("one", [ROWS[0]])
    for code in (errno.ENOMEM, errno.EIO):
        error = StoreError("volume v0: cannot be read from the store")
        error.__cause__ = OSError(code, "x")
        if code == errno.EIO:
            actor.publish(part, [Outcome(ROWS[0], error=error)], 0.0)
            continue
        for each in (error, error.__cause__):
            with pytest.raises(StepError, match=r"^volume v0: no memory was left"):
                actor.publish(part, [Outcome(ROWS[0], error=each)], 0.0)
        assert partials.done() == set()
    (record,) = partials.records(["one"])
    assert record["errors"] == {"v0": "StoreError: volume v0: cannot be read from the store"}
