"""What a GPU makes of a volume's pixels is what read_slab makes on a CPU, to the last HU."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from harvester.config.models import GridSettings
from harvester.imaging.hounsfield import windowed
from harvester.models.device_slab import load_to_device, on_grid
from harvester.proposals.network import group_images, slice_groups
from harvester.store.slab import GridFrame, read_pixels, read_slab
from harvester.store.store import Store


@pytest.mark.parametrize(
    "spacing", [(2.0, 0.8, 0.8), (5.0, 0.7, 0.9), (1.25, 0.8, 0.8), (2.0, 0.66, 0.66), (3.0, 1.9, 0.4)]
)
def test_resampling_on_the_device_equals_read_slab(
    make_store: Callable[..., Store], spacing: tuple[float, float, float]
) -> None:
    rng = np.random.default_rng(1)
    store = make_store({"v": ("vh", rng.integers(-1024, 3000, (40, 50, 61)))}, spacing_zyx_mm=spacing)
    frame = GridFrame.of(store.manifest.to_pylist()[0], GridSettings(spacing_zyx_mm=(2.0, 0.8, 0.8)))
    for z_start, z_end in ((-4, frame.shape_zyx[0] + 4), (3, 5)):
        expected = read_slab(store.path, frame, z_start, z_end)
        pixels, taps_z = read_pixels(store.path, frame, z_start, z_end)
        grid = on_grid(torch.from_numpy(np.array(pixels)), taps_z, *frame.taps_yx())
        assert grid.dtype == torch.int16
        np.testing.assert_array_equal(grid.numpy(), expected)
        here = load_to_device(store.path, frame, z_start, z_end, torch.device("cpu"))
        np.testing.assert_array_equal(here.numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_group_images_are_the_windowed_slice_groups(dtype: torch.dtype) -> None:
    windows = ((-1024.0, 3071.0), (-160.0, 240.0))
    hu = np.random.default_rng(0).integers(-2000, 4000, (7, 12, 16), dtype=np.int16)
    got = group_images(torch.from_numpy(hu), windows, dtype)
    slab: Any = torch.from_numpy(windowed(hu, windows))[None]
    assert got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got, slice_groups(slab)[0].to(dtype), atol=1e-6, rtol=0)
