"""Where a cluster is and whether it answers, found out without Ray."""

import logging
import os
import socket
import tempfile
from pathlib import Path
from typing import Final

from harvester.errors import SettingsError

logger = logging.getLogger(__name__)

SECONDS_TO_CONNECT: Final = 5.0
SHORT: Final = "/tmp"  # noqa: S108  Ray makes a folder of its own there
MOST_FOLDER_BYTES: Final = 107 - len("/ray/session_2026-11-29_19-12-35_117579_12345678/sockets/plasma_store.1")
"""Of a path, before what Ray adds to it."""


def resolve_auto() -> None:
    """RAY_ADDRESS = auto becomes the address that `ray start` noted on this machine, and nothing where that is gone.

    A cluster that died leaves its note behind, and Ray would wait minutes for it. Nobody asked for that very one.
    """
    note = Path(_rays_folder()) / "ray" / "ray_current_cluster"
    if os.environ.get("RAY_ADDRESS") != "auto" or not note.is_file():
        return
    address = note.read_text().strip()
    if answers(address):
        os.environ["RAY_ADDRESS"] = address
    else:
        logger.warning("RAY_ADDRESS = auto: the Ray that was at %s is gone; one is started on this machine", address)
        del os.environ["RAY_ADDRESS"]


def require_answer() -> None:
    """Raise SettingsError where RAY_ADDRESS names a cluster that does not answer."""
    address = os.environ.get("RAY_ADDRESS", "")
    if address and not answers(address):
        raise SettingsError(f"RAY_ADDRESS = {address}: no Ray answers there; start it, or unset RAY_ADDRESS")


def short_folder() -> str:
    """A folder whose path leaves Ray's sockets room: the one that Ray would take, else the machine's own /tmp.

    Schedulers (Slurm) give each job a TMPDIR of its own, and the name of a socket may have 107 bytes.
    Raises SettingsError where neither will do.
    """
    wanted = _rays_folder()
    if len(os.fsencode(wanted)) <= MOST_FOLDER_BYTES:
        return wanted
    if os.access(SHORT, os.W_OK):
        logger.info("the temporary folder %s has too long a path for Ray's sockets; they are in %s", wanted, SHORT)
        return SHORT
    raise SettingsError(
        f"the temporary folder {wanted} has too long a path for Ray's sockets, and {SHORT} cannot be written: set "
        f"RAY_TMPDIR to a folder of at most {MOST_FOLDER_BYTES} letters"
    )


def _rays_folder() -> str:
    return os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()


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
