"""What every command does alike: its parser, shared options, its log lines, and how it ends when something is wrong."""

import argparse
import logging
import os
import signal
import sys
import threading
import time
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

from harvester.cli.library_output import LibraryOutput, writes_to_stderr
from harvester.config import shipped
from harvester.errors import SettingsError, Stopped, one_line, root_cause, said_stopped, without_secrets

SIGNALLED: Final = 128
"""With a signal's number added, what a shell says of a program that the signal ended."""
SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)
"""Beside Ctrl-C: what ray job stop, kill and a terminal that goes away send."""
SHARED: Final[dict[str, dict[str, Any]]] = {
    "config": {
        "type": Path,
        "metavar": "FILE|NAME",
        "help": "YAML file of settings, or the name of one that ships with harvester: "
        f"{', '.join(shipped.names())}; without it, the defaults",
    },
    "set": {"action": "append", "default": [], "metavar": "a.b=c", "help": "override one setting; may be repeated"},
    "run": {"required": True, "metavar": "PATH|URI", "help": "the run's folder"},
    "store": {"metavar": "PATH|URI", "help": "the run's store (default: RUN/store, or as its settings say)"},
    "quiet": {"action": "store_true", "help": "tell warnings and the result alone"},
    "verbose": {"action": "store_true", "help": "tell what Ray, its workers and other libraries say, too"},
    "json-logs": {"action": "store_true", "help": "a JSON object per line: time, level, message"},
}
LOGS: Final = ("quiet", "verbose", "json-logs")
"""Of commands that take long."""


class Parser(ArgumentParser):
    """It repeats what was given without secrets."""

    def error(self, message: str) -> NoReturn:
        super().error(without_secrets(message))


def command_parser(command: str, help_text: str | None, *shared: str) -> ArgumentParser:
    """A parser that prints the docstring as it stands, takes the named options of SHARED and no abbreviated ones."""
    parser = Parser(
        prog=f"harvester {command}",
        description=help_text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for name in shared:
        parser.add_argument(f"--{name}", **SHARED[name])
    return parser


def command(parser: ArgumentParser, work: Callable[[Namespace], None]) -> Callable[..., int]:
    """A command's `main`: parses arguments (None: those of the process), works, gives an ExitCode's value."""

    def main(arguments: list[str] | None = None) -> int:
        options = parser.parse_args(arguments)
        with ExitCode.of(options) as code:
            work(options)
        return code.value

    return main


class _Discreet(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))


def _handler(quiet: bool, json_logs: bool) -> logging.Handler:
    """Who tells on stdout what is logged."""
    seen = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb" and not quiet and not json_logs
    if seen:
        # A third of a second that only those wait who look.
        from harvester.cli.terminal import Terminal

        return Terminal(sys.stdout)
    told = logging.StreamHandler(sys.stdout)
    told.setLevel(logging.WARNING if quiet else logging.INFO)
    told.setFormatter(_Discreet("%(asctime)s %(message)s", "%H:%M:%S"))
    if json_logs:
        from harvester.run.log import JsonLines

        told.setFormatter(JsonLines(time.time()))
    return told


def tell(text: str, options: Namespace) -> None:
    """What a command has to say at its end; among JSON lines, as one of them."""
    if options.json_logs:
        from harvester.run.log import json_line

        text = json_line(time.time(), "RESULT", text)
    print(text)


class ExitCode:
    """What the block's work ends with: 0 done, 1 failed, 2 a setting is wrong, 128 and a signal's number stopped by it.

    Our errors, and those of the operating system, are one line. Meanwhile what is logged goes to stdout.

    quiet       warnings alone
    json_logs   as JSON lines
    apart       what libraries write to the error stream goes to a file, which is kept where the work fails
    """

    value = 0

    def __init__(self, quiet: bool = False, json_logs: bool = False, apart: bool = False) -> None:
        self.quiet, self.json_logs, self.apart = quiet, json_logs, apart

    @classmethod
    def of(cls, options: Namespace) -> "ExitCode":
        """As the options of LOGS say, where a command has them."""
        if "verbose" not in options:
            return cls()
        if options.verbose:
            logging.getLogger("harvester").setLevel(logging.DEBUG)
        return cls(options.quiet, options.json_logs, not options.verbose)

    def __enter__(self) -> "ExitCode":
        self.handler = _handler(self.quiet, self.json_logs)
        logging.basicConfig(level=logging.INFO, handlers=[self.handler])
        if not sys.warnoptions:  # of libraries, to those who write programs with them
            warnings.simplefilter("ignore")
        self.libraries = LibraryOutput() if self.apart and writes_to_stderr() else None
        main = threading.current_thread() is threading.main_thread()
        # One that is ignored, as under nohup, stays so.
        self.caught = [each for each in SIGNALS if main and signal.getsignal(each) is signal.SIG_DFL]
        for each in self.caught:
            signal.signal(each, _stop)
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        for each in self.caught:
            signal.signal(each, signal.SIG_DFL)
        logging.getLogger().removeHandler(self.handler)
        self.handler.close()
        error = error or _flushed()
        known = self._known(error)
        if self.libraries:
            self.libraries.join(keep=error is not None and self.value in (0, 1))
        return known

    def _known(self, error: BaseException | None) -> bool:
        """Whether an error was told, and the exit code is its."""
        if isinstance(error, BrokenPipeError):  # as of harvester status | head: nobody reads on
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self.value = SIGNALLED + signal.SIGPIPE
            return True
        if isinstance(error, KeyboardInterrupt):
            self.value = SIGNALLED + (error.number if isinstance(error, Stopped) else signal.SIGINT)
            self._say(f"{said_stopped(error)}; what is finished is kept, start the same command again")
            return True
        ours = root_cause(error) if isinstance(error, Exception) else None
        told = ours or (error if isinstance(error, OSError) else None)
        if told is None:
            return False
        self.value = 2 if isinstance(told, SettingsError) else 1
        self._say(one_line(told) if ours else f"{type(told).__name__}: {one_line(told)}")
        return True

    def _say(self, line: str) -> None:
        stream = self.libraries.terminal if self.libraries else sys.stderr
        stream.write(f"{line}\n")


def _flushed() -> BrokenPipeError | None:
    try:
        sys.stdout.flush()
    except BrokenPipeError as error:
        return error
    return None


def _stop(number: int, frame: object) -> None:
    raise Stopped(number)


def data_root() -> Path | None:
    """The folder that $HARVESTER_DATA names, for data that is read from files; None where it names none."""
    root = os.environ.get("HARVESTER_DATA")
    return Path(root).absolute() if root else None
