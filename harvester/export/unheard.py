"""Keeping DICOM libraries quiet: their warnings and log lines quote names, UIDs and values of the files."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

LOUD: Final = ("highdicom", "pydicom")


@contextmanager
def unheard() -> Iterator[None]:
    """Neither warnings nor log lines of pydicom and highdicom while it lasts."""
    loggers = [logging.getLogger(name) for name in LOUD]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
