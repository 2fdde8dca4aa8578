"""Pickles of numbers, read without running anything they name.

The published annotations are pickles of lists, dictionaries and numpy scalars, for which a pickle names three globals;
boxes may be numpy arrays too, for which it names two more. Each is replaced here by a function that only reads numbers,
so that no code of a file's choosing is ever imported or called.
"""

import io
import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np

from harvester.errors import LabelError

NUMBERS: Final = {"f8": "<f8", "f4": "<f4", "i8": "<i8", "i4": "<i4"}
"""Codes of the numbers that may appear, with the byte order they are read in."""
ITEMS_PER_BYTE: Final = 16
"""A pickle may name what it said before; one that becomes more than this is made to fill the memory."""
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
    RecursionError,
    struct.error,
)
"""What Python's unpickler raises on bytes that are cut short or are no pickle."""


def load_numbers(file: Path) -> Any:
    """What a pickle holds: dictionaries, lists, tuples, strings, Python's numbers; an array as what `plain` takes.

    Raises LabelError where the file is missing, cut short or names a foreign global.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise LabelError(f"{file.name}: cannot be read ({error.strerror}); want a published pickle") from None
    try:
        tree = _NumbersOnly(_Whole(content), file.name).load()
        _require_no_more(tree, ITEMS_PER_BYTE * len(content))
        return tree
    except BROKEN as error:
        raise LabelError(
            f"{file.name}: cut short or not a pickle ({error}; {len(content)} bytes); download it again"
        ) from None


def _require_no_more(tree: Any, items: int) -> None:
    """Raises ValueError for a tree of more items, counted each time that a pickle names them again."""
    waiting = [tree]
    while waiting:
        each = plain(waiting.pop())
        inside = [*each.values()] if isinstance(each, dict) else each if isinstance(each, list | tuple) else []
        items -= len(inside)
        if items < 0:
            raise ValueError("repeats itself without end")
        waiting.extend(inside)


def plain(value: object) -> Any:
    """The values of an array as nested lists; anything else as it is."""
    return value.values if isinstance(value, _Array) else value


class _Whole(io.BytesIO):
    """Bytes of which fewer than are asked for are an EOFError: Python's unpickler does not look."""

    def read(self, count: int | None = -1) -> bytes:
        """So many bytes, or all."""
        data = super().read(count)
        if len(data) < (count or 0):
            raise EOFError("ends too soon")
        return data

    def readline(self, count: int | None = -1) -> bytes:
        """A line with its end."""
        line = super().readline(count)
        if not line.endswith(b"\n"):
            raise EOFError("ends too soon")
        return line


class _NumbersOnly(pickle._Unpickler):
    """Unpickler for which a few globals exist, all of them methods of its own that only read numbers.

    Bound methods, because a pickle can set attributes on a plain function or class it is handed. It is Python's own
    unpickler, because the one in C makes room for as many objects as ten bytes of a file claim to remember; for byte
    arrays Python's own does so too.
    """

    def bounded_bytearray(self) -> None:
        """A byte array of no more bytes than follow."""
        (count,) = struct.unpack("<Q", self.read(8))  # type: ignore[attr-defined]  # told as the one in C
        self.append(bytearray(self.read(count)))  # type: ignore[attr-defined]

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: bounded_bytearray}

    def __init__(self, stream: io.BytesIO, name: str) -> None:
        super().__init__(stream)
        self.name = name

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("numpy._core.multiarray", "scalar"): self.scalar,
            ("numpy", "dtype"): self.dtype,
            ("numpy", "ndarray"): self.ndarray,
            ("numpy._core.multiarray", "_reconstruct"): self.reconstruct,
            ("numpy._core.numeric", "_frombuffer"): self.frombuffer,
            ("_codecs", "encode"): self.latin1,
        }
        key = module.replace("numpy.core.", "numpy._core."), name  # numpy 1 and 2
        if key not in known:
            raise LabelError(
                f"{self.name}: names {module}.{name}; only numpy scalars and arrays of numbers are read from it"
            )
        return known[key]

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
