"""What a person sees of long work: on a terminal, in a file, as JSON lines, and what libraries say, which is apart."""

import io
import json
import logging
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harvester.cli.console import ExitCode
from harvester.cli.terminal import Terminal
from harvester.run import progress
from harvester.run.progress import ProgressLines, StepSaid, step_words

ROOT = Path(__file__).parents[3]


@pytest.fixture
def screen() -> Iterator[io.StringIO]:
    """What the terminal shows, plain: no terminal is behind it."""
    stream, logger = io.StringIO(), logging.getLogger("harvester")
    terminal, level = Terminal(stream), logger.level
    logger.addHandler(terminal)
    logger.setLevel(logging.INFO)
    yield stream
    logger.removeHandler(terminal)
    logger.setLevel(level)
    terminal.close()
    assert logging.getLogger(progress.__name__).level == logging.NOTSET


def say(step: str, seconds: float | None = None) -> None:
    said = StepSaid(0, step, seconds)
    logging.getLogger("harvester.run.folder").info("round 0 %s", step, extra={"step": said})


def test_steps_that_took_time_are_a_line_and_the_others_none(screen: io.StringIO) -> None:
    for step, seconds in (("labels", 0.02), ("generator", 33.4), ("candidates", 0.0)):
        say(step)
        say(step, seconds)
    logging.getLogger("harvester.x").info("precision [float32]")  # no markup of ours
    logging.getLogger("harvester.x").debug("nobody asked")
    logging.getLogger("harvester.x").warning("two volumes were refused")
    assert screen.getvalue().splitlines() == [
        f"✓ {'round 0  training the generator':42} 33.4 s",
        "precision [float32]",
        "two volumes were refused",
    ]


def test_work_outside_a_step_has_a_line_when_all_of_it_is_done(screen: io.StringIO) -> None:
    lines = ProgressLines("prepare", 1234)
    for done in (0, 600, 1234):
        lines.reached(done)
    (line,) = screen.getvalue().splitlines()
    assert line.startswith(f"✓ {'prepare':42} 1,234 volumes, ")


def test_progress_of_a_step_is_a_bar_and_no_line(screen: io.StringIO) -> None:
    say("tubelets")
    ProgressLines("proposing lesions", 2).reached(2)
    assert screen.getvalue() == ""
    say("tubelets", 5.0)
    assert screen.getvalue().splitlines() == [f"✓ {'round 0  proposing lesions':42} 5.0 s"]


def test_every_step_that_takes_time_has_words() -> None:
    assert step_words("scored") == "classifying proposals"
    assert step_words("a step of another release") == "a step of another release"


WORK = """
import argparse, logging, os, sys
from harvester.cli.console import LOGS, command, command_parser, tell
from harvester.run.progress import ProgressLines

def work(options):
    logging.getLogger("harvester").info("it begins")
    os.write(2, b"a library says this\\n")
    print("and this", file=sys.stderr)
    lines = ProgressLines("prepare", 3)
    for done in range(4):
        lines.reached(done)
    logging.getLogger("harvester").warning("one was refused")
    tell("the table", options)
    if os.environ.get("FAILS"):
        raise OSError(5, "it broke")

raise SystemExit(command(command_parser("prepare", "what it does", *LOGS), work)(sys.argv[1:]))
"""


def ran(*options: str, fails: bool = False) -> subprocess.CompletedProcess[str]:
    env = os.environ | ({"FAILS": "1"} if fails else {})
    given = [sys.executable, "-c", WORK, *options]
    return subprocess.run(given, capture_output=True, text=True, cwd=ROOT, env=env, timeout=60, check=False)


def test_in_a_file_there_are_plain_lines_and_libraries_are_silent() -> None:
    done = ran()
    assert [line.split(" ", 1)[-1] for line in done.stdout.splitlines()] == [
        "it begins", "prepare: 3 of 3 volumes, " + done.stdout.split("volumes, ")[1].split("\n")[0], "one was refused",
        "table",
    ]  # fmt: skip
    assert done.stderr == ""


def test_quiet_tells_warnings_and_the_result() -> None:
    assert [line.split(" ", 1)[-1] for line in ran("--quiet").stdout.splitlines()] == ["one was refused", "table"]


def test_json_logs_are_an_object_a_line_the_result_too() -> None:
    lines = [json.loads(line) for line in ran("--json-logs").stdout.splitlines()]
    assert [line["level"] for line in lines] == ["INFO", "INFO", "WARNING", "RESULT"]
    assert lines[0]["message"] == "it begins"
    assert lines[-1]["message"] == "the table"
    assert all(line["time"] > 1e9 for line in lines)


def test_verbose_tells_what_libraries_say() -> None:
    assert ran("--verbose").stderr == "a library says this\nand this\n"


def test_what_libraries_said_is_kept_where_the_work_fails() -> None:
    failed = ran(fails=True)
    assert failed.returncode == 1
    error, where = failed.stderr.splitlines()
    assert error == "OSError: [Errno 5] it broke"
    kept = Path(where.removeprefix("what Ray and other libraries said: "))
    assert kept.read_text() == "a library says this\nand this\n"
    kept.unlink()


def test_on_a_terminal_there_is_a_bar_that_goes_away() -> None:
    ours, theirs = pty.openpty()
    env = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    given = [sys.executable, "-c", WORK]
    with subprocess.Popen(given, stdout=theirs, stderr=subprocess.PIPE, cwd=ROOT, env=env) as program:
        os.close(theirs)
        shown = b""
        while part := _read(ours):
            shown += part
        assert program.stderr is not None and program.stderr.read() == b""
    os.close(ours)
    assert program.returncode == 0
    text = shown.decode()
    assert "\x1b[?25l" in text and text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor came back
    assert "✓" in text and "3 volumes" in text and "the table" in text
    assert "library" not in text


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # the other end is closed
        return b""


def test_an_error_stream_that_is_not_the_process_s_stays_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with ExitCode(apart=True):
        sys.stderr.write("seen\n")
    assert capsys.readouterr().err == "seen\n"
