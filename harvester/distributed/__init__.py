"""The steps on Ray, and all that knows Ray.

Two things are done on import, before anything imports Ray. RAY_ADDRESS = auto is looked up, for a cluster that died
leaves its address behind. And unless the job belongs to a cluster (RAY_ADDRESS), the Ray that it starts is made to
listen on loopback alone. By itself Ray listens on all interfaces of a Linux machine, and turns a node's address of
127.0.0.1 into one that others reach; this is its switch against that, which it reads when it is imported.
"""

import os

from harvester.distributed.address import resolve_auto

resolve_auto()
if not os.environ.get("RAY_ADDRESS"):
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
