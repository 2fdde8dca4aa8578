"""How a job ends: one line and an exit code for our own errors, a traceback for our own mistakes."""

import pytest

from harvester.cli.console import command_parser
from harvester.errors import LabelError, SettingsError, StepError
from tests.commands import exit_code_of


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
    assert capsys.readouterr().err == "LabelError: marks.csv: no column z\n"


def test_what_is_quoted_on_several_lines_is_told_on_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert fails_with(StepError("2 trials failed: Traceback:\n  File x\n    y = z\nValueError: no")) == 1
    assert capsys.readouterr().err == ("StepError: 2 trials failed: Traceback: File x y = z ValueError: no\n")


def test_other_errors_are_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        fails_with(ZeroDivisionError("ours"))


def test_ctrl_c_is_one_line_and_the_exit_code_of_a_stopped_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert fails_with(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == ("stopped by Ctrl-C; what is finished is kept, start the same command again\n")


def test_options_are_not_abbreviated() -> None:
    parser = command_parser("harvest", "what it does")
    parser.add_argument("--config")
    with pytest.raises(SystemExit):
        parser.parse_args(["--conf", "x"])
