"""Any volumes come back from a store as they went in, by any range of slices, on the network's grid too."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from harvester.config.models import GridSettings
from harvester.geometry import scale_slices
from harvester.imaging.interpolation import Taps, interpolate
from harvester.records import Split, Volume
from harvester.storage.location import Location
from harvester.store.container import open_shard
from harvester.store.slab import GridFrame, pad_sides, read_slab
from harvester.store.store import Store, finish_store
from tests.builders import made_store

sizes = st.tuples(st.integers(1, 6), st.integers(1, 20), st.integers(1, 20))
spacings = st.tuples(st.sampled_from([0.8, 4.0, 5.0]), st.sampled_from([0.7, 1.6]), st.sampled_from([1.6, 1.9]))


@st.composite
def contents(draw: st.DrawFn) -> Any:
    """HU of any size and value: noise, or one value, as far as int16 reaches."""
    shape = draw(sizes)
    low, high = sorted((draw(st.integers(-32768, 32767)), draw(st.integers(-32768, 32767))))
    return np.random.default_rng(draw(st.integers(0, 99))).integers(low, high + 1, shape).astype(np.int16)


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@settings(max_examples=15)
@given(st.lists(contents(), min_size=1, max_size=4), spacings, st.data())
def test_volumes_of_one_shard_come_back_bit_by_bit(volumes: list[Any], spacing: Any, data: st.DataObject) -> None:
    with folder() as place:
        with open_shard(Location.of(place) / "shards" / "s.shard") as shard:
            rows = [shard.add(Volume(f"v{i}", f"p{i % 2}", hu, spacing), Split.VM, "h") for i, hu in enumerate(volumes)]
        store = finish_store(place, rows, [], [])
        assert Store.open(place).manifest.equals(store.manifest)
        for i, hu in enumerate(volumes):
            first = data.draw(st.integers(0, len(hu) - 1))
            last = data.draw(st.integers(first + 1, len(hu)))
            got = store.read(f"v{i}", first, last)
            np.testing.assert_array_equal(got.hu_zyx, hu[first:last])
            assert (got.patient_id, got.spacing_zyx_mm) == (f"p{i % 2}", spacing)


@settings(max_examples=15)
@given(contents(), spacings, st.integers(-3, 8), st.integers(1, 6))
def test_a_slab_is_the_whole_volume_mixed_axis_by_axis_and_cut(hu: Any, spacing: Any, start: int, count: int) -> None:
    with folder() as place:
        store = made_store(place, {"v": "vm"}, hu=hu, spacing_zyx_mm=spacing)
        frame = GridFrame.of(store.manifest.to_pylist()[0], GridSettings(spacing_zyx_mm=(4.0, 1.6, 1.6)))
        got = read_slab(store.path, frame, start, start + count)
    whole = hu
    for axis in range(3):
        places = np.arange(frame.shape_zyx[axis])
        taps = Taps.at(scale_slices(places, frame.ratios_zyx[axis]), hu.shape[axis])
        whole = interpolate(whole, axis, taps)
    wanted = np.clip(np.arange(start, start + count), 0, frame.shape_zyx[0] - 1)
    np.testing.assert_array_equal(got, pad_sides(whole[wanted]))
