"""Small records that a power loss left empty or torn: what they tell of is made again, and nothing else is lost."""

from pathlib import Path

import pyarrow as pa
import pytest

from harvester.errors import StoreError
from harvester.run.partials import Partials
from harvester.run.quarantine import Marks, Quarantine, Worker, begun, mark_name
from harvester.run.status import read_status
from harvester.run.step_notes import step_notes
from harvester.storage.location import Location
from harvester.store.commit import DRAWN, STAMP, inputs_before, volumes_with_drawn_marks

DAMAGED = pytest.mark.parametrize("text", ["", "[]", "null", '{"crashes": 2, "al', '{"round": 0}', "\0\0", "\\xff"])


@DAMAGED
def test_a_damaged_mark_leaves_no_volume_out(tmp_path: Path, text: str) -> None:
    quarantine = Quarantine(Location.of(tmp_path), Worker("driver", "node"), lambda: ["node"])
    (tmp_path / mark_name("a")).write_text(text)
    assert quarantine.crash_count("a") == 0
    quarantine.begin_alone("a", "part", 1)
    assert quarantine.crash_count("a") == 1
    (tmp_path / mark_name("part")).write_text(text)  # of a part
    assert begun(quarantine.folder, ["a", "b"]) == {"a"}
    assert Marks(quarantine.folder).look()[1] == {}


@DAMAGED
def test_a_damaged_part_is_not_published(tmp_path: Path, text: str) -> None:
    (tmp_path / "settings.yaml").write_text("")
    partials = Partials(Location.of(tmp_path / "round-0" / "tubelets-abc.partials"))
    for name in "ab":
        partials.publish(name, pa.table({}), {"errors": {f"v{name}": "odd"}, "volumes": [f"v{name}"]})
    for name in ("a", "plan"):
        (partials.folder / f"{name}.json").write_text(text)
    assert partials.done() == {"b"}
    assert partials.errors() == {"vb": "odd"}
    assert partials.planned() == {"volumes": 0, "at": 0.0}
    under_way = read_status(Location.of(tmp_path)).under_way
    assert under_way and under_way.done == 1
    assert partials.publish("a", pa.table({}), {})["published"] == 1


@DAMAGED
def test_a_damaged_note_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "round-0").mkdir()
    (tmp_path / "round-0" / "tubelets-abc.step.json").write_text(text)
    assert step_notes(Location.of(tmp_path)) == []


@pytest.mark.parametrize("text", ["", "[]", '{"settings": "a'])
def test_a_store_whose_stamp_is_damaged_is_to_be_prepared_again(tmp_path: Path, text: str) -> None:
    store = Location.of(tmp_path)
    assert volumes_with_drawn_marks(store) == 0
    (store / "manifest.parquet").write_text("")
    (store / STAMP).write_text('{"settings": "a", "' + DRAWN + '": "3"}')
    assert volumes_with_drawn_marks(store) == 3
    (store / STAMP).write_text(text)
    with pytest.raises(StoreError, match="damaged; prepare the store again"):
        volumes_with_drawn_marks(store)
    assert inputs_before(store, "a") is None
