"""What harvester status tells of a run that is under way, has failed, or is finished; and the log that it reads."""

import json
import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from harvester.cli.status import main
from harvester.errors import SettingsError, StepError, Stopped
from harvester.run.journal import RunRecord, write_run
from harvester.run.log import logged_to, read_log, seconds_of_starts
from harvester.run.partials import Partials, plan_parts
from harvester.run.status import Status, format_status, read_status
from harvester.storage import owner
from harvester.storage.location import Location
from harvester.text import clock
from tests.summaries import summary_tree

ROWS = [{"volume_id": f"v{i}", "patient_id": f"p{i}"} for i in range(8)]
TABLE = pa.table({"volume_id": ["v"]})


def step(folder: Path, k: int, name: str, **counts: float) -> None:
    (folder / f"round-{k}").mkdir(parents=True, exist_ok=True)
    note = {"round": k, "step": name, "seconds": 12.5, "counts": counts}
    (folder / f"round-{k}" / f"{name}-abc.step.json").write_text(json.dumps(note))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "settings.yaml").write_text("seed: 0\n")
    step(tmp_path, 0, "generator", memory_mib=512)
    return tmp_path


def half_done(run: Path) -> None:
    """Five of eight volumes, the fifth left out."""
    partials = Partials(Location.of(run / "round-0" / "tubelets-def.partials"))
    plan = plan_parts(pa.Table.from_pylist(ROWS))
    partials.plan(plan)
    for part in plan[:5]:
        (row,) = part.rows
        errors = {"v4": "OSError: no such slice"} if row["volume_id"] == "v4" else {}
        partials.publish(part.name, TABLE, {"volumes": [row["volume_id"]], "errors": errors})


def test_a_run_under_way_tells_step_rate_and_what_was_left_out(run: Path) -> None:
    half_done(run)
    status = read_status(run)
    assert status.under_way is not None
    assert (status.under_way.step, status.under_way.volumes, status.under_way.done) == ("round 0 tubelets", 8, 5)
    assert status.under_way.errors == {"v4": "OSError: no such slice"}
    assert status.under_way.rate is not None
    assert status.under_way.seconds_left == pytest.approx(3 / status.under_way.rate)
    shown = "\n".join(format_status(status))
    assert "generator" in shown and "12.5" in shown and "memory_mib 512" in shown
    assert "under way: round 0 tubelets, 5 of 8 volumes" in shown
    assert "left out: volume v4: OSError: no such slice" in shown


def test_a_step_that_has_its_table_is_not_under_way(run: Path) -> None:
    half_done(run)
    step(run, 0, "tubelets")
    (run / "round-0" / "tubelets-abc.step.json").rename(run / "round-0" / "tubelets-def.step.json")
    assert read_status(run).under_way is None


def test_the_log_keeps_every_start_and_the_error_that_ended_one(run: Path) -> None:
    def work(error: Exception | None = None) -> None:
        with logged_to(Location.of(run)):
            logging.getLogger("harvester.test").warning("round %d %s", 0, "generator")
            if error:
                raise error

    with pytest.raises(StepError):
        work(StepError("no room\nleft"))
    work()
    logging.getLogger("harvester.test").warning("not in the file")
    with pytest.raises(KeyError):
        work(KeyError("Doe^Jane"))
    with (run / "log.jsonl").open("a") as file:
        file.write('{"time": 1, "lev')  # a driver killed while it wrote
    status = read_status(run)
    assert [(line["level"], line["message"]) for line in status.log] == [
        ("WARNING", "round 0 generator"),
        ("ERROR", "StepError: no room left"),
        ("WARNING", "round 0 generator"),
        ("WARNING", "round 0 generator"),
        ("ERROR", "KeyError, told where the job was started"),
    ]
    shown = "\n".join(format_status(status, now=status.log[-1]["time"] + 3600))
    assert "last line, 1 h 0 min ago; is it still running?: KeyError" in shown
    assert "last error: KeyError" in shown


@pytest.mark.parametrize(
    ("error", "name"), [(KeyboardInterrupt(), "Ctrl-C"), (Stopped(signal.SIGTERM), "SIGTERM")], ids=["int", "term"]
)
def test_a_run_that_a_signal_ended_says_so(run: Path, error: KeyboardInterrupt, name: str) -> None:
    with pytest.raises(KeyboardInterrupt), logged_to(Location.of(run)):
        raise error
    status = read_status(run)
    assert [(line["level"], line["message"]) for line in status.log] == [("ERROR", f"stopped by {name}")]
    said = f"stopped by a signal at {clock(status.log[-1]['time'])} ({name}); start the same command again"
    assert list(format_status(status))[-1] == said


def finish(run: Path) -> None:
    """What a start leaves that ends well."""
    with logged_to(Location.of(run)):
        write_run(Location.of(run), RunRecord())
        logging.getLogger("harvester.test").warning("round 0 scored")
        (run / "summary.json").write_text(json.dumps(summary_tree() | {"stopped_because": "nothing more was found"}))
        write_run(Location.of(run), RunRecord(status="FINISHED", ended=time.time()))


def last_lines(run: Path) -> list[str]:
    """Below the table of steps."""
    return list(format_status(read_status(run)))[2:]


def test_the_last_start_is_told_whatever_an_earlier_one_made(run: Path) -> None:
    finish(run)
    outcome = f"nothing more was found; {summary_tree()['final']['harvested']} lesions harvested"
    finished, of_an_earlier = f"finished: {outcome}", f"the results are an earlier start's: {outcome}"
    assert last_lines(run) == [finished]
    refusal = "setting compute.replicas = 9: room for 2"
    with pytest.raises(SettingsError), logged_to(Location.of(run)):  # before run.json is opened
        raise SettingsError(refusal)
    failed, error, earlier = last_lines(run)
    assert failed.startswith("last line, ") and failed.endswith(f"ago: SettingsError: {refusal}")
    assert (error, earlier) == (f"last error: SettingsError: {refusal}", of_an_earlier)
    assert read_status(run).summary is not None
    with logged_to(Location.of(run)):
        write_run(Location.of(run), RunRecord())
        logging.getLogger("harvester.test").warning("round 0 generator")
        under_way, earlier = last_lines(run)
    assert under_way.endswith("ago: round 0 generator") and earlier == of_an_earlier
    finish(run)
    assert last_lines(run) == [finished]


def test_a_driver_that_was_killed_is_told(run: Path) -> None:
    with logged_to(Location.of(run)):
        logging.getLogger("harvester.test").warning("round 0 generator")
    writer = {"host": "here", "machine": owner._machine(), "pid": 12, "began": "no process has this", "since": 1.0}
    (run / "writer-0.json").write_text(json.dumps(writer))
    said = "its driver, process 12 on here, is gone: start the same command again: round 0 generator"
    assert last_lines(run)[-1].endswith(said)


def test_a_runs_time_is_the_sum_over_its_starts() -> None:
    lines = [(10.0, 10.0), (10.0, 60.0), (10.0, 722.5), (2000.0, 2001.0), (2000.0, 2005.5), (3000.0, 3000.0)]
    log: list[dict[str, float]] = [{"start": start, "time": at} for start, at in lines]
    assert seconds_of_starts(log) == 712.5 + 5.5
    assert seconds_of_starts([]) == seconds_of_starts([{"time": 3.0}]) == 0.0


def test_without_a_run_all_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARVESTER_HOME", str(tmp_path / "home"))
    assert main([]) == 0
    assert capsys.readouterr().out == "no runs; name one with --run\n"
    for folder in (tmp_path / "runs" / "one", tmp_path / "home" / "runs" / "two", tmp_path / "home" / "three"):
        folder.mkdir(parents=True)
        (folder / "settings.yaml").write_text("seed: 0\n")
        finish(folder)
    (tmp_path / "runs" / "one" / "summary.json").write_text("{}")
    assert main([]) == 0
    one, three, two = capsys.readouterr().out.splitlines()
    assert one.startswith(f"{tmp_path}/runs/one  ") and "no summary of this version" in one
    assert three.startswith(f"{tmp_path}/home/three  finished: ")
    assert two.startswith(f"{tmp_path}/home/runs/two  finished: ")


def test_a_torn_line_takes_no_other_along_and_odd_ones_are_left_out(run: Path) -> None:
    log = run / "log.jsonl"
    log.write_bytes(b'null\n5\n{"a": 1}\n\xff\xfe\n{"time": 1, "start": 0.5, "lev')
    for _ in range(2):
        with pytest.raises(StepError), logged_to(Location.of(run)):
            raise StepError("odd")
    assert [line["message"] for line in read_log(Location.of(run))] == ["StepError: odd"] * 2
    assert len(log.read_bytes().splitlines()) == 7


def test_one_odd_folder_hides_no_other_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARVESTER_HOME", str(tmp_path / "none"))
    for name in ("one", "two"):
        step(tmp_path / "runs" / name, 0, "generator")
        (tmp_path / "runs" / name / "settings.yaml").write_text("")
    monkeypatch.setattr("harvester.cli.status.read_status", odd_for("one"))
    assert main([]) == 0
    one, two = capsys.readouterr().out.splitlines()
    assert one.endswith("cannot be read (ValueError: odd)") and "two" in two


def odd_for(name: str) -> Callable[[Location], Status]:
    def read(folder: Location) -> Status:
        if folder.name == name:
            raise ValueError("odd")
        return read_status(folder)

    return read


def test_a_summary_that_cannot_be_read_is_an_error(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "summary.json").write_text("{}")
    assert main(["--run", str(run)]) == 1
    assert "no summary of this version" in capsys.readouterr().err


def test_a_finished_run_says_why_it_stopped(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = summary_tree() | {"stopped_because": "nothing more was found"}
    summary["final"]["harvested"] = 7
    (run / "summary.json").write_text(json.dumps(summary))
    assert main(["--run", str(run)]) == 0
    assert "finished: nothing more was found; 7 lesions harvested" in capsys.readouterr().out
    assert main(["--run", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["summary"] == summary


def test_a_first_start_that_was_refused_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SettingsError), logged_to(Location.of(tmp_path)):
        raise SettingsError("compute.replicas = 9: room for 2")
    assert main(["--run", str(tmp_path)]) == 0
    assert "last error: SettingsError: compute.replicas = 9: room for 2" in capsys.readouterr().out


def test_another_folder_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--run", str(tmp_path)]) == 1
    assert "no settings.yaml" in capsys.readouterr().err
