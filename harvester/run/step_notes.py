"""A step's note: how long it took, what it depends on, and its files: whether they are as they were written."""

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Final

from harvester.errors import StoreError
from harvester.run.journal import round_folder, rounds
from harvester.storage.location import Location

NOTE: Final = ".step.json"
StepNote = dict[str, Any]

LARGEST_CHECKED: Final = 64 << 20
"""Bytes of a table that is read at each start, to see that it is as it was written; larger ones go by their size."""


def step_notes(folder: Location) -> list[StepNote]:
    """The notes of all finished steps, round by round in the order in which they ended."""
    own = [round_folder(folder, k) for k in rounds(folder)]
    notes = [read_note(each / name) for each in own for name in each.files() if name.endswith(NOTE)]
    return sorted(filter(None, notes), key=lambda note: (note["round"], ended(note)))


def read_note(file: Location) -> StepNote | None:
    """A step's note; None where there is none and where it is damaged: then the step is not made."""
    return file.read_json(round=int, step=str, seconds=Real, counts=dict)


def ended(note: StepNote) -> float:
    """When a step ended, as time.time() has it; 0 where its note does not say."""
    return float(note.get("ended", 0.0))


def contents(path: Location) -> tuple[dict[str, int], str]:
    """What a step's files are known by, and the hash that names weights: of weights the CRC, of all else the size.

    ({}, "") where there are none.
    """
    sizes = path.sizes()
    weights = [name for name in sorted(sizes) if name.endswith(".safetensors")]
    digest, known = hashlib.sha256(), {}
    for name in weights:
        data = (path / name).read_bytes()
        digest.update(data)
        known[name] = zlib.crc32(data)
    return (known, digest.hexdigest()[:12]) if weights else (sizes, "")


def checksum(path: Location) -> int | None:
    """The CRC of a step's table or small values; None for a large table and for weights (`contents`)."""
    size = path.sizes().get(path.name)
    return None if size is None or size > LARGEST_CHECKED else zlib.crc32(path.read_bytes())


def broken_files(path: Location, note: StepNote, files: Mapping[str, int]) -> list[str]:
    """Those of a step's files that are not as its note says. Older releases' notes name no files, or no CRC."""
    wanted = note.get("files", files) or {path.name: None}
    broken = [name for name, known in wanted.items() if files.get(name) != known or known is None]
    crc = None if broken else note.get("crc32")
    return broken if crc is None or crc == checksum(path) else [path.name]


def said_broken(files: Sequence[str]) -> str:
    """For people."""
    return f"{', '.join(files)} {'is' if len(files) == 1 else 'are'} gone or not as written"


def weights_hash(models: Location) -> str:
    """Names the weights in a folder. Raises StoreError where there are none."""
    _, content = contents(Location.of(models))
    if not content:
        raise StoreError(f"{models}: no weights (fold-*.safetensors); was the run finished?")
    return content


def most_measured(folder: Location) -> dict[str, float]:
    """What the fits of a folder's weights measured (fold-<k>.measured.json): of each figure the highest."""
    files = [folder / name for name in folder.files() if name.endswith(".measured.json")]
    measured = [file.read_json() or {} for file in files]
    names = {name for one in measured for name in one}
    return {name: max(one.get(name, 0.0) for one in measured) for name in sorted(names)}
