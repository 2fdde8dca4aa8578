"""A walk through somebody's folders that ends: ordinary files alone, links named and not followed."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class FileList:
    """What lies under a root, sorted, as paths relative to it with forward slashes.

    files       ordinary files (no pipes, sockets or devices: opening those may wait for ever)
    links       symbolic links to anything: a loop has no end, and a link may lead out of the root
    unreadable  folders that may not be listed
    """

    files: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def list_files(root: Path) -> FileList:
    """Everything under `root`. An absent root is an unreadable one: nothing is raised."""
    found = FileList()
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            entries = list(os.scandir(root / folder))
        except OSError:
            found.unreadable.append(folder)
            continue
        waiting.extend(_sorted_in(found, folder, entries))
    for listed in (found.files, found.links, found.unreadable):
        listed.sort()
    return found


def _sorted_in(found: FileList, folder: str, entries: list[os.DirEntry[str]]) -> Iterator[str]:
    """Put each entry where it belongs; the folders come back."""
    for entry in entries:
        name = f"{folder}/{entry.name}" if folder else entry.name
        if entry.is_symlink():
            found.links.append(name)
        elif entry.is_dir(follow_symlinks=False):
            yield name
        elif entry.is_file(follow_symlinks=False):
            found.files.append(name)
