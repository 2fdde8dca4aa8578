"""Every command, and what they share."""

import os

# Before pyarrow is imported. Its own allocator keeps nearly as much again as a driver's tables take: after 100,000
# volumes a driver has grown by 300 MiB with the C library's, by 390 with pyarrow's (benchmarks/scale.py).
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
