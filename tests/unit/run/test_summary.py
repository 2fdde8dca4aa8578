"""summary.json: its schema, an older one, a newer one, a broken one."""

import json
from pathlib import Path
from typing import Any

import pytest

from harvester.errors import StoreError
from harvester.run.summary import Summary, read_summary, schema
from harvester.storage.location import Location
from tests.summaries import summary_tree

SCHEMA = Path(__file__).parents[3] / "docs" / "summary.schema.json"


def written(folder: Path, tree: Any) -> Path:
    (folder / "summary.json").write_text(json.dumps(tree))
    return folder


def test_the_schema_in_docs_is_the_models() -> None:
    assert SCHEMA.read_text() == schema(), "make pages"
    assert json.loads(SCHEMA.read_text()) == Summary.model_json_schema()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    summary = read_summary(written(tmp_path, summary_tree()))
    assert summary.rounds[0].point_estimate.precision_vm == 0.5
    assert summary.steps[0].counts == {"slices": 27, "memory_mib": 1.5}
    summary.write(Location.of(tmp_path))
    assert json.loads((tmp_path / "summary.json").read_text()) == summary_tree()
    # A round is described from its number on.
    assert next(iter(json.loads((tmp_path / "summary.json").read_text())["rounds"][0])) == "round"


def test_an_older_summary_says_no_format_and_is_read(tmp_path: Path) -> None:
    tree = summary_tree()
    del tree["format"]
    # Steps that had been done before a restart had more fields.
    tree["steps"][0] |= {"ended": 1.0, "made_of": {"seed": 1}}
    assert read_summary(written(tmp_path, tree)).model_dump(mode="json") == summary_tree()


def test_a_newer_summary_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="of format 2, newer than 1"):
        read_summary(written(tmp_path, {"format": 2, "sum": "else"}))


def test_what_is_no_summary_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no summary\.json"):
        read_summary(tmp_path)
    tree = summary_tree()
    del tree["final"]["harvested"]
    with pytest.raises(StoreError, match=r"final\.harvested: Field required"):
        read_summary(written(tmp_path, tree))
    for broken in ([], 3, {"format": "x"}):
        with pytest.raises(StoreError, match="no summary of this version"):
            read_summary(written(tmp_path, broken))
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(StoreError, match="no summary of this version"):
        read_summary(tmp_path)
