"""One precision per run: the lowest common of the nodes at its first start, kept wherever it goes on."""

from pathlib import Path
from typing import Any

import pytest

from harvester.config.loading import dump
from harvester.config.settings import ComputeSettings, Settings
from harvester.distributed import precision
from harvester.distributed.precision import fastest_everywhere
from harvester.harvest import train_generator
from harvester.labels.ledger import from_marks
from harvester.models import device
from harvester.run.first_start import decided
from harvester.run.folder import Run
from harvester.storage.location import Location
from harvester.store.store import Store
from tests.builders import made_store, marks

AUTO = Settings()


def with_compute(**changed: Any) -> Settings:
    return AUTO.model_copy(update={"compute": AUTO.compute.model_copy(update=changed)})


def chosen(folder: Path, found: str, settings: Settings = AUTO) -> str:
    """The precision of a start in this folder on machines that are fast in `found`; written down as a run does."""
    place = Location.of(folder)
    resolved = decided(settings, place, lambda compute: found)
    (place / "settings.yaml").write_text(dump(resolved))
    return resolved.compute.precision


def test_a_run_keeps_the_precision_that_it_began_with(tmp_path: Path) -> None:
    assert chosen(tmp_path, "bfloat16") == "bfloat16"
    assert chosen(tmp_path, "float32") == "bfloat16"
    assert chosen(tmp_path, "bfloat16", with_compute(precision="float32")) == "float32"
    assert chosen(tmp_path, "bfloat16") == "float32"


@pytest.mark.parametrize("before", [dump(AUTO), "seed: 1", "compute: 3", "a: [", "compute: {precision: auto}"])
def test_a_folder_that_names_no_precision_is_chosen_for(tmp_path: Path, before: str) -> None:
    (tmp_path / "settings.yaml").write_text(before)
    assert chosen(tmp_path, "bfloat16") == "bfloat16"


def test_a_step_is_named_by_the_precision_that_was_found(tmp_path: Path) -> None:
    store = made_store(tmp_path / "store", {"v": "vm"})
    keys = [step_key(store, tmp_path, found) for found in ("float32", "bfloat16", "float32")]
    assert keys[0] == keys[2] != keys[1]


def step_key(store: Store, folder: Path, found: str) -> str:
    settings = decided(AUTO, Location.of(folder / "new"), lambda _: found)
    run, keys = Run(Location.of(folder / "run"), settings, store), []
    run.weights = lambda step, k, key, make: keys.append(key)  # type: ignore[assignment, method-assign, func-returns-value]
    train_generator(run, 0, from_marks(marks()), None)
    return keys[0]


@pytest.mark.parametrize(
    ("found", "wanted"),
    [(["bfloat16", "bfloat16"], "bfloat16"), (["bfloat16", "float32"], "float32"), (["float32", "float32"], "float32")],
)
def test_mixed_nodes_take_what_all_are_fast_in(monkeypatch: pytest.MonkeyPatch, found: list[str], wanted: str) -> None:
    asked: list[Any] = []
    every = [{"NodeID": name, "Resources": {"CPU": cpus}} for name, cpus in (("head", 0.0), ("a", 8.0), ("b", 8.0))]
    monkeypatch.setattr(precision, "living_nodes", lambda: every)
    monkeypatch.setattr(precision, "_answers", lambda given: (asked.extend(given), found)[1])
    assert fastest_everywhere(ComputeSettings()) == wanted
    assert [node["NodeID"] for node in asked] == ["a", "b"]  # none that gets no work


def test_gpus_alone_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "living_nodes", lambda: pytest.fail("asked"))
    assert fastest_everywhere(ComputeSettings(train_gpu=True, gpus_per_replica=0.5)) == "bfloat16"
    monkeypatch.setattr(device.torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert precision.fastest_here(ComputeSettings(train_gpu=True)) == "float32"
