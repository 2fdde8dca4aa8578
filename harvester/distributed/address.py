"""Where a cluster is and whether it answers, found out without Ray."""

import logging
import os
import socket
import tempfile
from pathlib import Path
from typing import Final

logger = logging.getLogger(__name__)

SECONDS_TO_CONNECT: Final = 5.0


def resolve_auto() -> None:
    """RAY_ADDRESS = auto becomes the address that `ray start` noted on this machine, and nothing where that is gone.

    A cluster that died leaves its note behind, and Ray would wait minutes for it. Nobody asked for that very one.
    """
    note = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray" / "ray_current_cluster"
    if os.environ.get("RAY_ADDRESS") != "auto" or not note.is_file():
        return
    address = note.read_text().strip()
    if answers(address):
        os.environ["RAY_ADDRESS"] = address
    else:
        logger.warning("RAY_ADDRESS = auto: the Ray that was at %s is gone; one is started on this machine", address)
        del os.environ["RAY_ADDRESS"]


def answers(address: str) -> bool:
    """Whether somebody listens at host:port or ray://host:port; taken on trust for what names no port."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_CONNECT).close()
    except ValueError:
        return True
    except OSError:
        return False
    return True
