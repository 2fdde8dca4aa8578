"""One thread, and small stores of made volumes: noise with bright or dark boxes where the test wants them."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from harvester.config.models import GridSettings
from harvester.records import Mark
from harvester.store.slab import GridFrame
from harvester.store.store import Store
from tests.builders import made_store

MakeStore = Callable[..., Store]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def make_store(tmp_path: Path) -> MakeStore:
    """(volumes: id -> (split, HU), marks, spacing) to a store; each volume is its own patient."""

    def make(
        volumes: dict[str, tuple[str, Any]],
        marks: Iterable[Mark] = (),
        spacing_zyx_mm: tuple[float, float, float] = (4.0, 1.6, 1.6),
    ) -> Store:
        splits, hu = ({name: pair[at] for name, pair in volumes.items()} for at in range(2))
        return made_store(tmp_path, splits, marks, hu=hu, spacing_zyx_mm=spacing_zyx_mm)

    return make


@pytest.fixture
def frames_of() -> Callable[[Store, GridSettings], dict[str, GridFrame]]:
    """The grid frame of every volume of a store."""

    def frames(store: Store, grid: GridSettings) -> dict[str, GridFrame]:
        return {row["volume_id"]: GridFrame.of(row, grid) for row in store.manifest.to_pylist()}

    return frames
