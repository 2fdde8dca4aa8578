"""Pickles that claim more than they hold make no room for it."""

import pickle
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest

from harvester.errors import LabelError
from harvester.labels.deeplesion.safe_pickle import load_numbers

ONE = b"\x80\x05K\x01"
CLAIMS = {
    "remembers the 100 millionth object": ONE + pickle.LONG_BINPUT + (10**8).to_bytes(4, "little") + b".",
    "the same in words": ONE + b"p100000000\n.",
    "bytes": ONE + pickle.BINBYTES8 + (1 << 29).to_bytes(8, "little") + b"abc.",
    "a byte array": ONE + pickle.BYTEARRAY8 + (1 << 29).to_bytes(8, "little") + b"abc.",
    "text": ONE + pickle.BINUNICODE8 + (1 << 29).to_bytes(8, "little") + b"abc.",
    "a whole number": ONE + pickle.LONG4 + (1 << 29).to_bytes(4, "little") + b"abc.",
    "a frame": b"\x80\x05" + pickle.FRAME + (1 << 29).to_bytes(8, "little") + b"K\x01.",
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_no_room_is_made_for_what_a_pickle_claims(tmp_path: Path, claim: str) -> None:
    file = tmp_path / "a.pkl"
    file.write_bytes(CLAIMS[claim])
    tracemalloc.start()
    with suppress(LabelError):
        assert load_numbers(file) == 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_pickle_that_repeats_itself_without_end_is_refused(tmp_path: Path) -> None:
    box: list[object] = [1.0, 2.0, 3.0, 4.0, 0.5]
    many: list[object] = [box] * 50
    file = tmp_path / "a.pkl"
    file.write_bytes(pickle.dumps([box] * 3))
    assert load_numbers(file) == [box] * 3
    many = [[many] * 50] * 50
    cycle: list[object] = []
    cycle.append(cycle)
    for tree in (many, cycle, {"v": cycle}):
        file.write_bytes(pickle.dumps(tree))
        with pytest.raises(LabelError, match="repeats itself without end"):
            load_numbers(file)
