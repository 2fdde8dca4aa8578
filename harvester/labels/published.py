"""The annotation pickles published with Lesion Harvester, read without running anything they name.

Such a file is `{volume_id: {z: [[x1, y1, x2, y2, z, z], ...]}}`; the fully annotated ones append ".annot"
to their ids. Its numbers are numpy float scalars, for which a pickle names three globals. Each is replaced
here by a function that only reads a number, so that no code of a file's choosing is ever imported or
called.
"""

import io
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from harvester.errors import LabelError
from harvester.records import MARKS

SUFFIX: Final = ".annot"
"""What the fully annotated files append to a volume's id."""
FLOATS: Final = {"f8": "<f8", "f4": "<f4"}
"""Codes of the scalars that may appear, with the byte order they are read in."""
BROKEN: Final = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    MemoryError,
)
"""What Python's unpickler raises on bytes that are cut short or are no pickle."""


@dataclass(frozen=True)
class PublishedMarks:
    """One published file: every volume it annotates, those without a mark too, and its marks (records.MARKS).

    All marks have clinical=False and kind "": the files do not tell clinical marks from the added ones.
    """

    volume_ids: tuple[str, ...]
    marks: pa.Table


def read_published(file: Path) -> PublishedMarks:
    """Read `Revised-*.pkl` or `RECIST-Box-*.pkl`; rows in the file's order. Boxes have inclusive pixel ends.

    Raises LabelError where the file is missing, cut short, names a foreign global or has another layout.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise LabelError(f"{file.name}: cannot be read ({error.strerror}); want a published pickle") from None
    tree = _unpickle(content, file.name)
    if not isinstance(tree, dict):
        raise LabelError(f"{file.name}: want {{volume_id: {{z: boxes}}}}, got a {type(tree).__name__}")
    rows = [row for volume_id, slices in tree.items() for row in _rows(volume_id, slices, file.name)]
    return PublishedMarks(tuple(map(_plain_id, tree)), pa.Table.from_pylist(rows, MARKS))


def _plain_id(volume_id: str) -> str:
    return volume_id.removesuffix(SUFFIX)


def _unpickle(content: bytes, name: str) -> Any:
    try:
        return _NumbersOnly(io.BytesIO(content), name).load()
    except BROKEN as error:
        raise LabelError(
            f"{name}: cut short or not a pickle ({error}; {len(content)} bytes); download it again"
        ) from None


class _NumbersOnly(pickle.Unpickler):
    """Unpickler for which three globals exist, all of them methods of its own that only read numbers.

    Bound methods, because a pickle can set attributes on a plain function or class it is handed.
    """

    def __init__(self, stream: io.BytesIO, name: str) -> None:
        super().__init__(stream)
        self.name = name

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("numpy.core.multiarray", "scalar"): self.scalar,
            ("numpy._core.multiarray", "scalar"): self.scalar,
            ("numpy", "dtype"): self.dtype,
            ("_codecs", "encode"): self.latin1,
        }
        if (module, name) not in known:
            raise LabelError(f"{self.name}: names {module}.{name}; only numpy float scalars are read from it")
        return known[module, name]

    def dtype(self, code: str, *_flags: object) -> "_Float":
        if code not in FLOATS:
            raise LabelError(f"{self.name}: a scalar of dtype {code!r}; want one of {', '.join(FLOATS)}")
        return _Float(FLOATS[code])

    def latin1(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise LabelError(f"{self.name}: bytes encoded as {encoding!r}; want latin1")
        return text.encode("latin1")

    def scalar(self, code: "_Float", raw: bytes) -> float:
        if not isinstance(code, _Float) or not isinstance(raw, bytes):
            raise LabelError(f"{self.name}: a scalar that is not a dtype and its bytes")
        return code.read(raw)


class _Float:
    """Stands for a numpy dtype: keeps the byte order a pickle gives it and nothing else."""

    __slots__ = ("_dtype",)

    def __init__(self, dtype: str) -> None:
        self._dtype = np.dtype(dtype)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "="):
            raise ValueError(f"byte order {state[1]!r}")
        self._dtype = self._dtype.newbyteorder(state[1])

    def read(self, raw: bytes) -> float:
        if len(raw) != self._dtype.itemsize:
            raise ValueError(f"{len(raw)} bytes for one {self._dtype}")
        return float(np.frombuffer(raw, self._dtype)[0])


def _rows(volume_id: object, slices: object, name: str) -> Iterator[dict[str, Any]]:
    if not isinstance(volume_id, str) or not isinstance(slices, dict):
        raise LabelError(f"{name}: volume {volume_id!r} holds a {type(slices).__name__}; want {{z: boxes}}")
    plain, index = _plain_id(volume_id), 0
    for z, boxes in slices.items():
        for box in boxes if isinstance(boxes, list) else [boxes]:
            _check(z, box, f"{name}: volume {plain}")
            mark = {"volume_id": plain, "mark_id": f"{plain}-{index}", "z": z, "clinical": False, "kind": ""}
            yield mark | dict(zip(("x1", "y1", "x2", "y2"), map(float, box[:4]), strict=True))
            index += 1


def _check(z: Any, box: Any, where: str) -> None:
    numbers = isinstance(box, list) and len(box) == 6 and all(type(end) in (int, float) for end in box)
    if not numbers or type(z) is not int or z < 0:
        raise LabelError(f"{where}: slice {z!r} holds {box!r}; want [x1, y1, x2, y2, z, z] on a slice from 0")
    x1, y1, x2, y2, z_first, z_last = box
    if not (x1 <= x2 and y1 <= y2 and z_first == z_last == z):
        raise LabelError(f"{where}: slice {z}: box {box} has ends out of order or lies on another slice")
