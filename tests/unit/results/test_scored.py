"""Which scored tubelets are a run's: those that its summary is of, whatever other settings left beside them."""

import json
from pathlib import Path

import pytest

from harvester.errors import StoreError
from harvester.results.scored import last_round, scored_round
from harvester.run.summary import Summary
from harvester.storage.location import Location
from tests.summaries import summary_tree


def put(run: Path, k: int, key: str, ended: float) -> None:
    folder = run / f"round-{k}"
    folder.mkdir(exist_ok=True)
    note = {"round": k, "step": "scored", "seconds": 1.0, "counts": {}, "ended": ended, "inputs": {}, "files": {}}
    (folder / f"scored-{key}.step.json").write_text(json.dumps(note))


def summarize(run: Path, *keys: str) -> None:
    steps = [{"round": k, "step": "scored", "seconds": 1.0, "counts": {}, "key": key} for k, key in enumerate(keys)]
    Summary.model_validate(summary_tree() | {"steps": steps}).write(Location.of(run))


def test_those_of_the_summary_are_taken_and_without_one_the_newest(tmp_path: Path) -> None:
    run = Location.of(tmp_path)
    with pytest.raises(StoreError, match="no scored tubelets"):
        last_round(run)
    put(tmp_path, 0, "aaaa", ended=1.0)
    put(tmp_path, 0, "bbbb", ended=2.0)
    put(tmp_path, 1, "cccc", ended=3.0)
    assert (last_round(run), scored_round(run, 0).partials.folder.name) == (1, "scored-bbbb.partials")
    summarize(tmp_path, "aaaa")  # the run went back to settings of one round
    assert (last_round(run), scored_round(run, 0).partials.folder.name) == (0, "scored-aaaa.partials")
    summarize(tmp_path, "")  # of an older release
    assert (last_round(run), scored_round(run, 0).partials.folder.name) == (1, "scored-bbbb.partials")
