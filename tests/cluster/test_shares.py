"""Who fits which fold, without starting Ray."""

from types import SimpleNamespace
from typing import cast

import pyarrow as pa
import pytest

from harvester.config import Settings
from harvester.distributed.training import examples_of, shares
from harvester.harvest import peers
from harvester.run import Run


@pytest.mark.parametrize("folds", [2, 3, 5])
@pytest.mark.parametrize("world", [1, 2, 3, 4, 5, 7, 12])
def test_every_fold_is_fitted_and_the_load_is_even(folds: int, world: int) -> None:
    plan = shares(folds, world)
    assert [fold for fold, _ in plan] == list(range(folds))
    load = dict.fromkeys(range(world), 0)
    for _, ranks in plan:
        assert ranks == sorted(set(ranks))
        for rank in ranks:
            load[rank] += 1
    assert max(load.values()) - min(load.values()) <= 1
    assert min(load.values()) >= 1
    if world <= folds:
        # Alone, one fold after the other.
        assert all(len(ranks) == 1 for _, ranks in plan)
    else:
        # A rank shares one model alone: two groups could wait for each other.
        assert set(load.values()) == {1}
        sizes = [len(ranks) for _, ranks in plan]
        assert max(sizes) - min(sizes) <= 1


def test_a_step_is_named_by_its_workers_only_where_they_change_the_models() -> None:
    def named(workers: int, folds: int = 2) -> int:
        settings = Settings.model_validate({"folds": folds, "compute": {"train_workers": workers}})
        return peers(cast(Run, SimpleNamespace(settings=settings)))

    # A fold fitted alone does not know how many others are being fitted.
    assert named(1) == named(2)
    assert named(1, folds=5) == named(5, folds=5)
    assert len({named(workers) for workers in (2, 3, 4, 5)}) == 4


def test_examples_are_those_of_the_given_volumes() -> None:
    row = {
        "volume_id": "a", "depth": 4, "height": 8, "width": 8,
        "spacing_z_mm": 4.0, "spacing_y_mm": 1.6, "spacing_x_mm": 1.6,
    }  # fmt: skip
    table = pa.table({"volume_id": ["b", "a", "a"], "tubelet_id": [0, 0, 1], "label": [1, 1, 0]})
    chosen = examples_of(table, [row], Settings())
    assert {label: [tubelet["tubelet_id"] for _, tubelet in found] for label, found in chosen.items()} == {
        0: [1],
        1: [0],
    }
    assert chosen[0][0][0].volume_id == "a"
    assert examples_of(table.slice(0, 0), [row], Settings()) == {0: [], 1: []}
