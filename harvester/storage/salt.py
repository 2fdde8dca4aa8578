"""The secret that makes a store's ids meaningless outside: in a file beside the store, not in it."""

import os
import re
import secrets
import tempfile
from pathlib import Path
from typing import Final

from harvester.errors import StoreError
from harvester.storage.location import PART, Location, writing

WHOLE: Final = re.compile("[0-9a-fA-F]{32,}")


def salt_of(store: Location) -> str:
    """A store's salt, made where there is none; who starts at the same time gets the same. Raises StoreError."""
    file = _beside(store)
    if not file.is_file():
        with writing(file.parent):
            _make(file)
    return _read(file)


def salt_beside(store: Location) -> str:
    """The same, never made anew. Raises StoreError where there is none."""
    file = _beside(store)
    if not file.is_file():
        raise StoreError(
            f"{file}: no such file; the salt that harvester prepare wrote beside the store is needed to find the "
            "scans of --source again"
        )
    return _read(file)


def has_salt(store: Location) -> bool:
    """Whether a store's ids are fixed already."""
    return _beside(store).is_file()


def _beside(store: Location) -> Location:
    return store.parent / f"{store.name}.salt"


def _make(file: Location) -> None:
    """Whole or not at all, and on a disk for nobody else's eyes."""
    salt = secrets.token_hex(16)
    if not file.on_disk:
        file.write_text(salt)  # who prepares holds the store (owner.py): no other start is as far
        return
    folder = Path(file.parent.base)
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, aside = tempfile.mkstemp(PART, f".{file.name}.", folder)
    try:
        with os.fdopen(descriptor, "w") as target:
            target.write(salt)
            target.flush()
            os.fsync(descriptor)
        _publish(aside, file.base)
    finally:
        Path(aside).unlink(missing_ok=True)


def _publish(aside: str, file: str) -> None:
    """Give it its name, unless somebody was faster."""
    try:
        os.link(aside, file)
    except FileExistsError:
        pass
    except OSError:  # a share that knows no links
        Path(aside).rename(file)


def _read(file: Location) -> str:
    salt = file.read_bytes().decode(errors="replace").strip()
    if not WHOLE.fullmatch(salt):
        raise StoreError(
            f"{file}: want at least 32 hex digits: ids made with this could be guessed; put a copy of the whole one "
            "back, or delete it and prepare again: then all ids are new"
        )
    return salt
