"""Which generator a round's is finetuned from. What runs on Ray has a stand-in, so Ray is not started."""

from pathlib import Path

import numpy as np
import pytest

from harvester import harvest as loop
from harvester.config.settings import Settings
from harvester.distributed.training import FitJob
from harvester.labels.ledger import initial_ledger
from harvester.run.folder import Artifact, Run
from harvester.storage.location import Location
from harvester.store.store import Store
from tests.builders import made_store, mark


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A completely marked volume of each of two patients."""
    hu = np.zeros((3, 32, 32), np.int16)
    return made_store(tmp_path / "store", {"a": "vm", "b": "vm"}, [mark("a", (4, 4, 11, 11), z=1)], hu=hu)


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize(("choice", "of_round_2"), [("last", 1), ("first", 0)])
def test_a_round_starts_from_the_last_rounds_generator_or_the_firsts(
    choice: str, of_round_2: int, weights: bool, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[Path | None] = []

    def fit(job: FitJob) -> None:
        starts.append(job.start)

    monkeypatch.setattr(loop, "train_folds", fit)
    settings = Settings.model_validate({"generator": {"finetune_from": choice}})
    run = Run.open(tmp_path / "run", settings, store)
    ledger = initial_ledger(store.marks(), store.reviewed())
    start = Artifact(Location.of(tmp_path / "starting"), "digest", 0.0) if weights else None
    first, made = start.path if start else None, list[Artifact]()
    for k in range(3):
        made.append(loop.train_generator(run, k, ledger, start))
        start = loop.next_start(run, k, start, made[-1])
    assert starts == [first, made[0].path, made[of_round_2].path]
    assert len({output.path for output in made}) == 3
    # The key of a round names what it started from.
    assert (made[2].key == made[1].key) == (choice == "first")
