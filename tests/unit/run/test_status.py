"""What harvester status tells of a run that is under way, has failed, or is finished; and the log that it reads."""

import json
import logging
from pathlib import Path

import pyarrow as pa
import pytest

from harvester.cli.status import main
from harvester.errors import StepError
from harvester.run.log import logged_to
from harvester.run.partials import Partials, plan_parts
from harvester.run.status import format_status, read_status
from harvester.storage.location import Location
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
    plan = plan_parts(ROWS)
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


def test_a_run_that_ctrl_c_ended_says_so(run: Path) -> None:
    with pytest.raises(KeyboardInterrupt), logged_to(Location.of(run)):
        raise KeyboardInterrupt
    status = read_status(run)
    assert [(line["level"], line["message"]) for line in status.log] == [("ERROR", "stopped by Ctrl-C")]
    assert list(format_status(status))[-1] == "last error: stopped by Ctrl-C"


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


def test_another_folder_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--run", str(tmp_path)]) == 1
    assert "no settings.yaml" in capsys.readouterr().err
