"""How a job ends: one line and an exit code for our own errors, a traceback for our own mistakes."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harvester.cli.console import ExitCode, command_parser
from harvester.errors import LabelError, SettingsError, StepError
from harvester.run.log import read_log
from harvester.storage.location import Location
from tests.commands import exit_code_of

ROOT = Path(__file__).parents[3]


def fails_with(error: BaseException) -> int:
    def work() -> None:
        raise error

    return exit_code_of(work)


def test_done_is_zero() -> None:
    did = []
    assert exit_code_of(lambda: did.append(1)) == 0
    assert did == [1]


def test_our_own_errors_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert fails_with(SettingsError("setting seed = 'x': want a number")) == 2
    assert capsys.readouterr().err == "setting seed = 'x': want a number\n"
    assert fails_with(LabelError("marks.csv: no column z")) == 1
    assert capsys.readouterr().err == "marks.csv: no column z\n"


def test_what_is_quoted_on_several_lines_is_told_on_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert fails_with(StepError("2 trials failed: Traceback:\n  File x\n    y = z\nValueError: no")) == 1
    assert capsys.readouterr().err == ("2 trials failed: Traceback: File x y = z ValueError: no\n")


def test_other_errors_are_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        fails_with(ZeroDivisionError("ours"))


def test_ctrl_c_is_one_line_and_the_exit_code_of_a_stopped_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert fails_with(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == ("stopped by Ctrl-C; what is finished is kept, start the same command again\n")


PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from harvester.cli.console import ExitCode
from harvester.run.log import logged_to
from harvester.storage.location import Location

with ExitCode() as code, logged_to(Location.of(sys.argv[1])):
    print("begun", flush=True)
    time.sleep(600)
raise SystemExit(code.value)
"""


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGHUP")]
)
def test_a_signal_is_one_line_a_line_of_the_log_and_its_exit_code(
    number: signal.Signals, name: str, tmp_path: Path
) -> None:
    given = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None and program.stdout.readline() == "begun\n"
        program.send_signal(number)
        _, told = program.communicate(timeout=60)
    assert (program.returncode, told) == (
        128 + number, f"stopped by {name}; what is finished is kept, start the same command again\n"
    )  # fmt: skip
    assert [line["message"] for line in read_log(Location.of(tmp_path))] == [f"stopped by {name}"]


def test_a_signal_that_is_ignored_stays_so_and_others_are_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ExitCode():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EIO])
def test_what_the_operating_system_refuses_is_one_line(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert fails_with(OSError(number, os.strerror(number), "/data/store.salt")) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert os.strerror(number) in line and "/data/store.salt" in line


def test_a_reader_that_goes_away_is_no_error() -> None:
    program = "from tests.commands import exit_code_of; raise SystemExit(exit_code_of(lambda: print('x' * 99999)))"
    given = [sys.executable, "-c", program]
    with subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as writer:
        assert writer.stdout is not None and writer.stderr is not None
        writer.stdout.close()
        assert writer.stderr.read() == b""
    assert writer.returncode == 128 + signal.SIGPIPE


def test_options_are_not_abbreviated() -> None:
    parser = command_parser("harvest", "what it does")
    parser.add_argument("--config")
    with pytest.raises(SystemExit):
        parser.parse_args(["--conf", "x"])
