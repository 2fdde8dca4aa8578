"""Every command, and what they share."""

import os

# Before pyarrow is imported: its own allocator keeps much of what it has freed. A table of 12 MiB, read from Parquet,
# takes a process 16 MiB with the C library's, and 30 with pyarrow's.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
