"""Anybody's detections in a store, proven by looking at them: what is certified can be scored and looked at again."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harvester.certificate.audit import Verdict
from harvester.errors import StoreError
from harvester.evaluation.inputs.detections import read_detections
from harvester.records import SIDES
from harvester.results.audit import as_finds, draw_detections
from harvester.results.audit_outcome import certify_detections
from harvester.storage.location import Location
from harvester.store.store import Store
from tests.builders import made_store

FINDS = 70


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return made_store(tmp_path / "store", {"a": "vh", "b": "vh"}, hu=np.zeros((9, 512, 512), np.int16))


@pytest.fixture
def detections(tmp_path: Path) -> Path:
    """Seventy in two volumes, the best-scored one last."""
    rows = [
        {"volume_id": "ab"[at % 2], "z": [3, 4], "slice_score": [0.1, 0.2 + at / 100]}
        | {side: [float(6 * at + 5 * (side in ("x2", "y2")))] * 2 for side in SIDES}
        for at in range(FINDS)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "found.parquet")
    return tmp_path / "found.parquet"


def test_what_is_proven_of_detections_is_a_table_to_score(store: Store, detections: Path, tmp_path: Path) -> None:
    read = read_detections(detections, ["a", "b"])
    found = as_finds(read.table, read.scores, {"a": "p", "b": "q"})
    audit = draw_detections(Location.of(tmp_path / "out"), store, found, (0.9, 0.05), 0)
    with pytest.raises(StoreError, match="is not proven yet"):
        certify_detections(audit)
    best, second = audit.plan.deck.ranked[:2]
    with audit.reading("reader") as reader:
        for find in audit.plan.deck.order:
            said = {best: Verdict.REJECTED, second: Verdict.MOVED}.get(find, Verdict.ACCEPTED)
            reader.say(find, said, [(4, (1.0, 2.0, 9.0, 8.0))] if said == Verdict.MOVED else None)
    told = certify_detections(audit)
    assert told.startswith(
        f"{FINDS - 1} lesions certified at 0.9 (of {FINDS} finds {FINDS} were read, {FINDS - 1} right"
    )
    file = tmp_path / "out" / "audit-0" / "certified.parquet"
    assert told.endswith(str(file))
    certified = read_detections(file, ["a", "b"], score="score")
    expected = np.sort(read.scores)[::-1][1:]
    np.testing.assert_allclose(certified.scores, expected)
    rows = certified.table.to_pylist()
    assert (rows[0]["z"], rows[0]["x1"], rows[0]["y2"]) == ([4], [1.0], [8.0])
    assert (rows[1]["z"], rows[1]["x1"]) == ([3, 4], [6.0 * (FINDS - 3)] * 2)
    with pytest.raises(StoreError, match="drawn already, of detections"):
        draw_detections(Location.of(tmp_path / "elsewhere"), store, found, (0.9, 0.05), 1)
