"""harvester mines unmarked lesions from partly marked CT archives at a precision it can prove."""

__version__ = "0.1.0"
