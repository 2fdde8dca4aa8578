"""Work as a command does it."""

from collections.abc import Callable

from harvester.cli.console import ExitCode


def exit_code_of(work: Callable[[], object]) -> int:
    """What a command that does this work ends with."""
    with ExitCode() as code:
        work()
    return code.value
