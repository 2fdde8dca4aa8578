"""16-bit slices come out as they were; what is no such slice is refused with its reason."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harvester.errors import VolumeError
from harvester.imaging import png as io_png
from harvester.imaging.png import read_png_slices
from harvester.records import Volume

NAMES = ["s/001.png", "s/002.png", "s/003.png"]
SPACING = (5.0, 0.8, 0.7)


def put(file: Path, hu_yx: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((hu_yx.astype(np.int32) + 32768).astype(np.uint16)).save(file)


@pytest.fixture
def hu() -> np.ndarray:
    values = np.random.default_rng(0).integers(-1024, 3072, (3, 20, 24)).astype(np.int16)
    values[0, 0, :3] = [-32768, 32767, 0]
    return values


@pytest.fixture
def root(tmp_path: Path, hu: np.ndarray) -> Path:
    for name, plane in zip(NAMES, hu, strict=True):
        put(tmp_path / "root" / name, plane)
    return tmp_path / "root"


def read(root: Path, names: list[str] = NAMES, size: tuple[int, int] | None = None) -> Volume:
    return read_png_slices(root, names, "v", "p", SPACING, size)


def test_png_in_capitals_is_read(root: Path, hu: np.ndarray) -> None:
    (root / NAMES[1]).rename(root / "s" / "002.PNG")
    np.testing.assert_array_equal(read(root).hu_zyx, hu)


def refused(root: Path, names: list[str] = NAMES, size: tuple[int, int] | None = None) -> str:
    with pytest.raises(VolumeError) as caught:
        read(root, names, size)
    assert str(root) not in str(caught.value) and ".png" not in str(caught.value)
    return caught.value.reason


def test_every_value_survives(root: Path, hu: np.ndarray) -> None:
    volume = read(root, size=(24, 20))
    np.testing.assert_array_equal(volume.hu_zyx, hu)
    assert (volume.hu_zyx.dtype, volume.spacing_zyx_mm) == (np.int16, SPACING)
    np.testing.assert_array_equal(read(root, NAMES[::-1]).hu_zyx, hu[::-1])


def test_no_slices_are_refused(root: Path) -> None:
    assert refused(root, []) == "no_slices"


def test_a_missing_slice_is_refused(root: Path) -> None:
    (root / NAMES[1]).unlink()
    assert refused(root) == "missing_slice"


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "1", "LA"])
def test_other_kinds_of_png_are_refused(root: Path, mode: str) -> None:
    Image.new(mode, (24, 20)).save(root / NAMES[1])
    assert refused(root) == "not_16_bit"


def test_another_size_is_refused(root: Path) -> None:
    assert refused(root, size=(25, 20)) == "wrong_size"
    put(root / NAMES[2], np.zeros((20, 23)))
    assert refused(root) == "wrong_size"


@pytest.mark.parametrize("kept", [0, 10, 25, 60, 0.5, 0.95])
def test_a_file_cut_short_is_refused(root: Path, kept: float) -> None:
    for name in NAMES[:2]:
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: int(kept if kept >= 1 or not kept else kept * len(content))])
        assert refused(root) == "unreadable"


def test_what_is_no_png_is_refused(root: Path) -> None:
    (root / NAMES[0]).write_bytes(b"hello" * 100)
    assert refused(root) == "unreadable"
    Image.new("I;16", (24, 20)).save(root / "s" / "t.tif")
    (root / "s" / "t.tif").replace(root / NAMES[0])
    assert refused(root) == "unreadable"


def test_a_claim_of_too_many_pixels_is_refused_unread(root: Path) -> None:
    claim = struct.pack(">IIBBBBB", 60_000, 60_000, 16, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + claim + struct.pack(">I", zlib.crc32(b"IHDR" + claim))
    (root / NAMES[1]).write_bytes(io_png.SIGNATURE + chunk)
    assert refused(root) == "wrong_size"
    (root / NAMES[0]).write_bytes(io_png.SIGNATURE + chunk)
    assert refused(root) == "too_large"


def test_nothing_outside_the_root_is_read(root: Path, hu: np.ndarray) -> None:
    put(root.parent / "secret" / "001.png", hu[0])
    assert refused(root, ["../secret/001.png"]) == "outside_root"
    assert refused(root, [str(root.parent / "secret" / "001.png")]) == "outside_root"
    (root / "link").symlink_to(root.parent / "secret")
    assert refused(root, ["link/001.png"]) == "outside_root"
    (root / NAMES[0]).unlink()
    (root / NAMES[0]).symlink_to(root.parent / "secret" / "001.png")
    assert refused(root) == "outside_root"


def test_a_link_within_the_root_and_a_linked_root_are_followed(root: Path, hu: np.ndarray) -> None:
    (root / "t").symlink_to(root / "s")
    (root.parent / "elsewhere").symlink_to(root)
    names = [name.replace("s/", "t/") for name in NAMES]
    np.testing.assert_array_equal(read(root.parent / "elsewhere", names).hu_zyx, hu)


def test_a_loop_of_links_is_refused(root: Path) -> None:
    (root / "a").symlink_to(root / "b")
    (root / "b").symlink_to(root / "a")
    assert refused(root, ["a/1.png"]) in ("unreadable", "outside_root", "missing_slice")


def test_a_file_that_may_not_be_read_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(root))

    monkeypatch.setattr(Path, "open", deny)
    assert refused(root) == "unreadable"
    monkeypatch.undo()
    monkeypatch.setattr(os, "stat", deny)
    monkeypatch.setattr(Path, "stat", deny)
    assert refused(root) == "unreadable"


def test_a_spacing_of_zero_is_refused(root: Path) -> None:
    with pytest.raises(VolumeError) as caught:
        read_png_slices(root, NAMES, "v", "p", (0.0, 1.0, 1.0))
    assert caught.value.reason == "bad_spacing"
