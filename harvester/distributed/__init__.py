"""The steps on Ray, and all that knows Ray.

One thing is done on import, because Ray reads it when it is imported: unless the job belongs to a cluster
(RAY_ADDRESS), the Ray that it starts is made to listen on loopback alone. By itself Ray listens on all interfaces of a
Linux machine, and turns a node's address of 127.0.0.1 into one that others reach; this is its switch against that.
"""

import os

if not os.environ.get("RAY_ADDRESS"):
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
