"""Who fits which fold, without starting Ray."""

import pyarrow as pa
import pytest

from harvester.config.loading import resolve
from harvester.config.settings import Settings
from harvester.distributed.training import examples_of, shares
from harvester.errors import SettingsError


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


def test_more_workers_than_a_batch_has_items_are_refused() -> None:
    def resolved(workers: int) -> Settings:
        return resolve(None, [f"compute.train_workers={workers}", "folds=2", "generator.batch_slabs=3"])

    assert resolved(6).compute.train_workers == 6
    with pytest.raises(SettingsError, match=r"puts 4 workers on a fold .* want at most 6"):
        resolved(7)


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
