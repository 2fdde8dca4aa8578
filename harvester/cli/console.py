"""What every job does alike: its help, its log lines, and how it ends when something is wrong."""

import argparse
import logging
import sys
from collections.abc import Callable

from harvester.errors import HarvesterError, SettingsError, behind


def job_parser(help_text: str | None) -> argparse.ArgumentParser:
    """A parser that prints the job's docstring as it stands and takes no abbreviated options."""
    return argparse.ArgumentParser(
        description=help_text, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )


def run_job(work: Callable[[], None]) -> int:
    """Do the work; its exit code: 0 done, 1 failed, 2 a setting is wrong. Our own errors are one line each."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stdout
    )
    try:
        work()
    except Exception as error:
        ours = behind(error)
        if ours is None:
            raise
        if isinstance(ours, SettingsError):
            sys.stderr.write(f"{_one_line(ours)}\n")
            return 2
        sys.stderr.write(f"{type(ours).__name__}: {_one_line(ours)}\n")
        return 1
    return 0


def _one_line(error: HarvesterError) -> str:
    """What a library said on several lines may be quoted in a message of ours."""
    return " ".join(str(error).split())
