"""The annotation pickles published with Lesion Harvester, read without running anything they name.

Such a file is `{volume_id: {z: [[x1, y1, x2, y2, z, z], ...]}}`; the fully annotated ones append ".annot"
to their ids. Its numbers are numpy scalars, for which a pickle names three globals; boxes may be numpy
arrays too, for which it names two more. Each is replaced here by a function that only reads numbers, so that
no code of a file's choosing is ever imported or called.
"""

import io
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa

from harvester.errors import LabelError
from harvester.records import MARKS

SUFFIX: Final = ".annot"
"""What the fully annotated files append to a volume's id."""
NUMBERS: Final = {"f8": "<f8", "f4": "<f4", "i8": "<i8", "i4": "<i4"}
"""Codes of the numbers that may appear, with the byte order they are read in."""
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
    """Unpickler for which a few globals exist, all of them methods of its own that only read numbers.

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
            ("numpy", "ndarray"): self.ndarray,
            ("numpy.core.multiarray", "_reconstruct"): self.reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): self.reconstruct,
            ("numpy.core.numeric", "_frombuffer"): self.frombuffer,
            ("numpy._core.numeric", "_frombuffer"): self.frombuffer,
            ("_codecs", "encode"): self.latin1,
        }
        if (module, name) not in known:
            raise LabelError(
                f"{self.name}: names {module}.{name}; only numpy scalars and arrays of numbers are read from it"
            )
        return known[module, name]

    def dtype(self, code: str, *_flags: object) -> "_Number":
        if code not in NUMBERS:
            raise LabelError(f"{self.name}: numbers of dtype {code!r}; want one of {', '.join(NUMBERS)}")
        return _Number(NUMBERS[code])

    def ndarray(self) -> None:
        """Named by an array's pickle, and only handed to `reconstruct`."""
        raise LabelError(f"{self.name}: calls numpy.ndarray; want an array as numpy pickles it")

    def reconstruct(self, *_kind: object) -> "_Array":
        return _Array()

    def frombuffer(self, raw: bytes, dtype: "_Number", shape: tuple[int, ...], order: str) -> "_Array":
        array = _Array()
        array.__setstate__((1, shape, dtype, order == "F", bytes(raw)))
        return array

    def latin1(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise LabelError(f"{self.name}: bytes encoded as {encoding!r}; want latin1")
        return text.encode("latin1")

    def scalar(self, code: "_Number", raw: bytes) -> Any:
        if not isinstance(code, _Number) or not isinstance(raw, bytes):
            raise LabelError(f"{self.name}: a scalar that is not a dtype and its bytes")
        return code.read(raw)


class _Number:
    """Stands for a numpy dtype: keeps the byte order a pickle gives it and nothing else."""

    __slots__ = ("_dtype",)

    def __init__(self, dtype: str) -> None:
        self._dtype = np.dtype(dtype)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "="):
            raise ValueError(f"byte order {state[1]!r}")
        self._dtype = self._dtype.newbyteorder(state[1])

    def read(self, raw: bytes) -> Any:
        if len(raw) != self._dtype.itemsize:
            raise ValueError(f"{len(raw)} bytes for one {self._dtype}")
        return np.frombuffer(raw, self._dtype)[0].item()

    def read_all(self, raw: bytes, shape: tuple[int, ...], order: Literal["C", "F"]) -> Any:
        return np.frombuffer(raw, self._dtype).reshape(shape, order=order).tolist()


class _Array:
    """Stands for a numpy array of numbers: keeps its values as nested lists and nothing else."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values: Any = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _Number) or not isinstance(raw, bytes) or not isinstance(shape, tuple):
            raise ValueError("an array of anything but numbers")
        self.values = dtype.read_all(raw, shape, "F" if fortran else "C")


def _lists(boxes: object) -> list[Any]:
    """Boxes as lists of lists, from a list of lists or arrays or from one array."""
    inner = boxes.values if isinstance(boxes, _Array) else boxes
    rows = inner if isinstance(inner, list) else [inner]
    return [row.values if isinstance(row, _Array) else row for row in rows]


def _rows(volume_id: object, slices: object, name: str) -> Iterator[dict[str, Any]]:
    if not isinstance(volume_id, str) or not isinstance(slices, dict):
        raise LabelError(f"{name}: volume {volume_id!r} holds a {type(slices).__name__}; want {{z: boxes}}")
    plain, index = _plain_id(volume_id), 0
    for z, boxes in slices.items():
        for box in _lists(boxes):
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
