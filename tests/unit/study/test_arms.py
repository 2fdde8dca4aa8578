"""What a reader who knows the truth proves of a list, from all of it to none."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harvester.config.settings import Settings
from harvester.mining.fusion import EVEN
from harvester.mining.round_view import RoundView, StoreTables
from harvester.records import Mark
from harvester.results.truth import TruthEvaluator
from harvester.study.arms import Looped, oracle_audit
from tests.builders import made_store, scored, tubelet

COUNT = 80
Box = tuple[float, float, float, float]


def place(at: int) -> Box:
    return (30.0 * (at % 10), 30.0 * (at // 10), 30.0 * (at % 10) + 9, 30.0 * (at // 10) + 9)


def looped(tmp_path: Path, right: int, found: int = COUNT) -> Any:
    """A loop that found so many, the first `right` of them lesions; V_M proposes nothing."""
    hu = np.zeros((8, 320, 320), np.int16)
    lesions = [Mark("h", f"h-{at}", 3, *place(at), False) for at in range(right)]
    store = made_store(
        tmp_path, {"h": "vh_test", "m": "vm"}, (), [*lesions, Mark("h", "other", 6, 0, 300, 9, 309, False)], hu
    )
    settings = Settings()
    table = scored(*(tubelet("h", place(at), (3,), lpg_score=0.9, lpc_score=0.9) for at in range(found)))
    view = RoundView((table,), StoreTables.of(store, settings), settings)
    history = SimpleNamespace(
        view=view, truth=TruthEvaluator(store, settings), origins=[(SimpleNamespace(choice=EVEN), "")]
    )
    return Looped(SimpleNamespace(settings=settings), history)  # type: ignore[arg-type]  # it takes no more of both


@pytest.mark.parametrize(("right", "proven"), [(COUNT, COUNT), (COUNT - 2, COUNT - 2), (40, 0), (0, 0)])
def test_an_oracle_proves_what_is_right_and_leaves_out_what_it_refused(tmp_path: Path, right: int, proven: int) -> None:
    taken, reviewed = oracle_audit(looped(tmp_path, right), 0.05)
    assert 0 < reviewed <= COUNT
    if not proven:
        assert len(taken) == 0
    else:
        assert proven <= len(taken) <= COUNT and reviewed < COUNT
        assert taken["lpg_score"].to_pylist() == [0.9] * len(taken)


def test_of_nothing_nothing_is_proven_by_nobody(tmp_path: Path) -> None:
    taken, reviewed = oracle_audit(looped(tmp_path, 3, found=0), 0.05)
    assert (len(taken), reviewed) == (0, 0)
