"""Every command, and what they share."""

import ctypes
import os
from contextlib import suppress
from typing import Final

MMAP_THRESHOLD: Final = -3
"""Its number in glibc's mallopt(3)."""
LARGE: Final = 1 << 20

# Before pyarrow is imported: its own allocator keeps much of what it has freed. A table of 12 MiB, read from Parquet,
# takes a process 16 MiB with the C library's, and 30 with pyarrow's.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

# Columns of a large archive then go back to the system when they are freed. By itself glibc comes to keep blocks of up
# to 32 MiB, with small ones between them. Other C libraries have no such call.
with suppress(AttributeError):
    ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, LARGE)
