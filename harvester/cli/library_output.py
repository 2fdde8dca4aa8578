"""What Ray, C++ and other libraries write to the error stream: apart from what a command tells, kept where it fails."""

import os
import sys
import tempfile
from pathlib import Path
from typing import Final

STDERR: Final = 2


class LibraryOutput:
    """The process's error stream goes to a file: what is written there is not ours. terminal: where it went before."""

    def __init__(self) -> None:
        sys.stderr.flush()
        descriptor, name = tempfile.mkstemp(prefix="harvester-libraries-", suffix=".log")
        self.file, self.before = Path(name), os.dup(STDERR)
        os.dup2(descriptor, STDERR)
        os.close(descriptor)
        self.terminal = os.fdopen(os.dup(self.before), "w", buffering=1)

    def join(self, keep: bool) -> None:
        """As it was; the file stays where it may say why something failed."""
        sys.stderr.flush()
        os.dup2(self.before, STDERR)
        os.close(self.before)
        if keep and self.file.stat().st_size:
            self.terminal.write(f"what Ray and other libraries said: {self.file}\n")
        else:
            self.file.unlink()
        self.terminal.close()


def writes_to_stderr() -> bool:
    """Whether Python's error stream is the process's: not where a test or a notebook put another in its place."""
    try:
        return sys.stderr.fileno() == STDERR
    except (OSError, ValueError, AttributeError):  # it has no file, is closed, or there is none
        return False
