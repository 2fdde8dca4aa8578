"""The published pickles: read as numbers, refused where they name anything else or are cut short."""

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harvester.errors import LabelError
from harvester.labels.deeplesion.published_marks import read_published
from harvester.records import MARKS


def pickled_scalar(value: float) -> bytes:
    """A numpy float64 as Python 2 wrote it: scalar(dtype('f8').__setstate__(...), encode(text, 'latin1'))."""
    text = struct.pack("<d", value).decode("latin1").encode()
    dtype = b"cnumpy\ndtype\n" + b"X\x02\x00\x00\x00f8K\x00K\x01\x87R"
    state = b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    encoded = b"c_codecs\nencode\nX" + struct.pack("<I", len(text)) + text + b"X\x06\x00\x00\x00latin1\x86R"
    return b"cnumpy.core.multiarray\nscalar\n" + dtype + state + encoded + b"\x86R"


def pickled(boxes: list[list[float]], volume_id: str = "000001_01_02_003-040.annot", z: int = 6) -> bytes:
    """One volume with boxes on one slice, written like the published files (protocol 2)."""
    lists = b"".join(b"](" + b"".join(map(pickled_scalar, box)) + b"e" for box in boxes)
    name = b"X" + struct.pack("<I", len(volume_id)) + volume_id.encode()
    return b"\x80\x02}" + name + b"}K" + bytes([z]) + b"](" + lists + b"ess."


def write(folder: Path, content: Any) -> Path:
    file = folder / "marks.pkl"
    file.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=2))
    return file


BOX = [215.383, 176.983, 267.122, 220.374, 6.0, 6.0]


def test_marks_are_read_bit_by_bit(tmp_path: Path) -> None:
    published = read_published(write(tmp_path, pickled([BOX, [1.5, 2.5, 3.5, 4.5, 6.0, 6.0]])))
    assert published.volume_ids == ("000001_01_02_003-040",)
    assert published.marks.schema == MARKS
    first, second = published.marks.to_pylist()
    assert [first[side] for side in ("x1", "y1", "x2", "y2")] == BOX[:4]
    assert (first["volume_id"], first["z"], first["clinical"], first["kind"]) == ("000001_01_02_003-040", 6, False, "")
    assert first["mark_id"] != second["mark_id"]


def test_scalars_of_this_numpy_and_plain_numbers_are_read_too(tmp_path: Path) -> None:
    box = [*map(np.float64, BOX[:4]), 6, np.float32(6)]
    for protocol in (2, 4, 5):
        published = read_published(write(tmp_path, pickle.dumps({"a": {6: [box]}}, protocol)))
        assert published.marks["x1"].to_pylist() == [BOX[0]]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_numbers_are_read_as_lists_are(tmp_path: Path, protocol: int, order: Any) -> None:
    second = [1.0, 2.0, 3.0, 4.0, 6.0, 6.0]
    whole = np.array([BOX, second], order=order)
    for boxes in (whole, [np.array(BOX), np.array(second)], [BOX, np.array(second).astype(">f8")]):
        marks = read_published(write(tmp_path, pickle.dumps({"a": {6: boxes}}, protocol))).marks
        assert [marks[side].to_pylist() for side in ("x1", "y2")] == [[BOX[0], 1.0], [BOX[3], 4.0]]
    whole_numbers = np.array([[1, 2, 3, 4, 6, 6]], dtype=np.int32)
    keys = {"a": {np.int64(6): whole_numbers}}
    assert read_published(write(tmp_path, pickle.dumps(keys, protocol))).marks["x2"].to_pylist() == [3.0]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([Path("/")], dtype=object), "dtype 'O8'|_PosixPath|pathlib"),
        (np.array(["abc"]), "dtype 'U3'"),
        (np.zeros(3), "holds 0.0"),
        (np.zeros((2, 2, 6)), "holds"),
        (np.array([[9.0, 0.0, 1.0, 5.0, 6, 6]]), "ends out of order"),
    ],
)
def test_arrays_of_other_things_are_refused(tmp_path: Path, array: Any, message: str) -> None:
    for protocol in (2, 5):
        with pytest.raises(LabelError, match=message):
            read_published(write(tmp_path, pickle.dumps({"a": {6: array}}, protocol)))


def test_arrays_that_numpy_would_not_write_are_refused(tmp_path: Path) -> None:
    content = pickle.dumps({"a": {6: np.array([BOX])}}, protocol=2)
    reshaped = content.replace(b"K\x01K\x06\x86", b"K\x02K\x06\x86")
    assert reshaped != content
    with pytest.raises(LabelError, match="cut short or not a pickle"):
        read_published(write(tmp_path, reshaped))
    with pytest.raises(LabelError, match=r"calls numpy\.ndarray"):
        read_published(write(tmp_path, b"\x80\x02cnumpy\nndarray\n)R."))
    unfilled = b"\x80\x02}X\x01\x00\x00\x00a}K\x06cnumpy.core.multiarray\n_reconstruct\n)Rss."
    with pytest.raises(LabelError, match="slice 6 holds None"):
        read_published(write(tmp_path, unfilled))


def test_volumes_without_marks_are_kept(tmp_path: Path) -> None:
    published = read_published(write(tmp_path, {"a.annot": {}, "b": {6: [BOX]}}))
    assert published.volume_ids == ("a", "b")
    assert published.marks["volume_id"].to_pylist() == ["b"]
    empty = read_published(write(tmp_path, {}))
    assert (empty.volume_ids, len(empty.marks), empty.marks.schema) == ((), 0, MARKS)


class Call:
    """Pickles as a call of something."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("thing", "name"),
    [(Call(eval, "1/0"), "eval"), (Call(Path, "/"), "pathlib.*Path"), (Call(getattr, 1, "real"), "getattr")],
)
def test_any_other_global_is_refused_by_name(tmp_path: Path, thing: Any, name: str) -> None:
    with pytest.raises(LabelError, match=rf"marks.pkl: names .*{name}; only numpy scalars and arrays"):
        read_published(write(tmp_path, {"a": {0: [thing]}}))


def test_a_command_is_refused_and_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    with pytest.raises(LabelError, match=r"names .*\.open"):
        read_published(write(tmp_path, {"a": {0: [Call(open, str(trace), "w")]}}))
    assert not trace.exists()


def test_scalars_that_are_no_floats_are_refused(tmp_path: Path) -> None:
    content = pickled([BOX])
    with pytest.raises(LabelError, match="dtype 'O8'"):
        read_published(write(tmp_path, content.replace(b"\x02\x00\x00\x00f8", b"\x02\x00\x00\x00O8")))
    with pytest.raises(LabelError, match="cut short or not a pickle"):
        read_published(write(tmp_path, content.replace(b"\x02\x00\x00\x00f8", b"\x02\x00\x00\x00f4")))
    with pytest.raises(LabelError, match="encoded as 'rot_13'"):
        read_published(write(tmp_path, content.replace(b"latin1", b"rot_13")))


def test_truncation_anywhere_is_a_clear_error(tmp_path: Path) -> None:
    content = pickled([BOX])
    for length in [*range(0, len(content), 13), len(content) - 1]:
        with pytest.raises(LabelError, match=rf"marks.pkl: cut short or not a pickle .* {length} bytes"):
            read_published(write(tmp_path, content[:length]))


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"\x80\x02K\x01b.", b"\x80\x02cnumpy\ndtype\n)R."])
def test_noise_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(LabelError, match=r"marks\.pkl: cut short or not a pickle"):
        read_published(write(tmp_path, content))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([1], "got a list"),
        ({"a": [BOX]}, "volume 'a' holds a list"),
        ({1: {}}, "volume 1 holds"),
        ({"a": {6: [BOX[:5]]}}, "volume a: slice 6 holds"),
        ({"a": {"6": [BOX]}}, "slice '6' holds"),
        ({"a": {-1: [BOX]}}, "slice -1 holds"),
        ({"a": {7: [BOX]}}, "lies on another slice"),
        ({"a": {6: [[9.0, 0.0, 1.0, 5.0, 6, 6]]}}, "ends out of order"),
        ({"a": {6: [[float("nan"), 0.0, 1.0, 5.0, 6, 6]]}}, "slice 6 holds .nan"),
        ({"a": {6: 5}}, "slice 6 holds 5"),
    ],
)
def test_another_layout_is_refused(tmp_path: Path, tree: Any, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        read_published(write(tmp_path, tree))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"nothing.pkl: cannot be read"):
        read_published(tmp_path / "nothing.pkl")
