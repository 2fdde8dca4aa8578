"""A large V_H is gone through in parts and comes out as it does whole: what is found, what is none, what is missing."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from harvester.certificate.selection import Calibration, select_point
from harvester.config.settings import OperatingPointSettings, Settings
from harvester.mining.fusion import ScoreFusion
from harvester.mining.round_view import RoundView
from harvester.records import SCORED, ScoredTable
from harvester.results import rounds as module
from harvester.results.ablations import ablations
from harvester.results.completeness import expected_missing
from harvester.results.rounds import PartSweep, rounds_viewed, up_to
from harvester.results.truth import TruthEvaluator, harvested_table
from harvester.run.parted_table import PartedTable
from harvester.run.partials import Partials, plan_parts
from harvester.storage.location import Location
from harvester.store.store import Store
from tests.builders import made_store, mark, tubelet

SPLITS = {f"h{i:02d}": ("vh", "vh_test")[i % 2] for i in range(70)} | {f"m{i:02d}": "vm" for i in range(20)}
SETTINGS = Settings(operating_point=OperatingPointSettings(target_precision=0.5, confidence=0.6, min_patients=1))
EVEN = ScoreFusion(0.5, 0.1)
PLACES = [(float(x), 8.0, float(x) + 9, 17.0) for x in (0, 20, 40, 60)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A lesion at each volume's first place is marked; in V_M those at the second, too."""
    clinical = [mark(name, PLACES[0]) for name in SPLITS]
    annotated = [mark(name, PLACES[1], clinical=False) for name, split in SPLITS.items() if split == "vm"]
    hidden = [mark(name, PLACES[1], clinical=False) for name, split in SPLITS.items() if split == "vh_test"]
    hu = np.zeros((12, 24, 72), np.int16)
    return made_store(tmp_path_factory.mktemp("store"), SPLITS, [*clinical, *annotated], [*hidden], hu)


def scored_by_chance(store: Store, folder: Path, seed: int) -> PartedTable[ScoredTable]:
    """Every volume has a tubelet at each place: lesions score high, the rest low, both by chance."""
    rng, partials = np.random.default_rng(seed), Partials(Location.of(folder))
    parts = plan_parts(store.manifest)
    partials.plan(parts)
    for part in parts:
        rows = []
        for volume in part.rows:
            for number, place in enumerate(PLACES):
                lpg, lpc = (float(rng.beta(*((5, 2) if number < 2 else (2, 5)))) for _ in range(2))
                given: dict[str, Any] = {"tubelet_id": number, "lpg_score": lpg, "lpc_score": lpc * (number < 3) / 2}
                rows.append(tubelet(volume["volume_id"], place, **given))
        note = {"volumes": [row["volume_id"] for row in part.rows], "errors": {}}
        partials.publish(part.name, pa.Table.from_pylist(rows, SCORED), note)
    return PartedTable(partials, ScoredTable)


@pytest.fixture(scope="module")
def scored(store: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[PartedTable[ScoredTable], ...]:
    return tuple(scored_by_chance(store, tmp_path_factory.mktemp("round"), seed) for seed in range(2))


@pytest.fixture(scope="module")
def whole(scored: Any, store: Store) -> RoundView:
    view = rounds_viewed(scored, store, SETTINGS)
    assert view.sweep is None
    return view


@pytest.fixture
def parted(scored: Any, store: Store, monkeypatch: pytest.MonkeyPatch) -> RoundView:
    """Of V_H a sample of 20 volumes is held; it is gone through three parts at a time."""
    monkeypatch.setattr("harvester.mining.round_view.SAMPLE_VOLUMES", 20)
    monkeypatch.setattr(module, "PARTS_AT_ONCE", 3)
    view = rounds_viewed(scored, store, SETTINGS)
    assert view.sweep is not None
    return view


def test_the_driver_holds_v_m_and_a_sample(parted: RoundView, whole: RoundView) -> None:
    held = set(parted.tubelets["volume_id"].to_pylist())
    assert len(held) == 40
    assert parted.calibration.equals(whole.calibration)
    assert parted.targets.equals(whole.targets)
    assert len(parted.harvestable) < len(whole.harvestable)
    assert set(parted.rivals["volume_id"].to_pylist()) <= held


def test_what_is_found_is_found_everywhere_best_first(parted: RoundView, whole: RoundView) -> None:
    for threshold in (0.6, 0.3, 0.7):
        assert parted.reaching(EVEN, threshold).equals(whole.reaching(EVEN, threshold))
        assert parted.harvested(EVEN, threshold).equals(whole.harvested(EVEN, threshold))
    assert parted.likely(EVEN, 0.4, 0.6).equals(whole.likely(EVEN, 0.4, 0.6))
    assert len(parted.reaching(EVEN, np.inf)) == 0


def test_v_h_is_gone_through_once_for_all_that_lies_above(parted: RoundView) -> None:
    asked = []
    sweep = parted.sweep
    assert sweep is not None

    def counted(work: Any, volumes: int | None) -> Iterator[pa.Table]:
        asked.append(work)
        return sweep(work, volumes)

    view = replace(parted, sweep=counted)
    for threshold in (0.3, 0.6, 0.5, np.inf):
        view.reaching(EVEN, threshold)
    assert len(asked) == 1


def test_hard_negatives_are_the_same(parted: RoundView, whole: RoundView) -> None:
    ours, theirs = (view.possible_negatives(EVEN, 0.5) for view in (parted, whole))
    assert len(ours) > 0
    assert ours.sort_by("volume_id").equals(theirs.sort_by("volume_id"))


def test_hard_negatives_come_of_evenly_spread_parts_where_there_are_many(
    parted: RoundView, whole: RoundView, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harvester.mining.round_view.NEGATIVE_VOLUMES", 30)
    some = set(parted.possible_negatives(EVEN, 0.5)["volume_id"].to_pylist())
    assert some < set(whole.possible_negatives(EVEN, 0.5)["volume_id"].to_pylist())
    assert any(name < "h35" for name in some) and any(name >= "h35" for name in some)


def test_what_is_missing_is_the_same(parted: RoundView, whole: RoundView) -> None:
    point = select_point(Calibration.of(whole), EVEN, SETTINGS.operating_point)
    assert point.point.threshold < 1
    ours, theirs = (
        expected_missing(view, point, whole.harvested(EVEN, point.point.threshold), {"h00": "it was broken"})
        for view in (parted, whole)
    )
    assert ours.equals(theirs)
    assert len(ours) == 70
    nothing = expected_missing(parted, point, harvested_table(), None)
    assert set(nothing["left_out"].to_pylist()) == {"nothing was scored"}


def test_ablations_are_told_of_the_sample(parted: RoundView, store: Store) -> None:
    truth = TruthEvaluator(store, SETTINGS)
    alone = ablations(SETTINGS.operating_point, 0)["lpg_alone"].after(0, parted, EVEN)
    assert set(alone.lesions["volume_id"].to_pylist()) <= set(parted.harvestable["volume_id"].to_pylist())
    told = alone.result(truth)
    sampled = [name for name in parted.store.manifest["volume_id"].to_pylist() if SPLITS[name] == "vh_test"]
    assert told.test_correct is not None and told.recall_unmarked == told.test_correct / len(sampled) > 0


def test_an_earlier_round_is_as_it_was(parted: RoundView, scored: Any, store: Store) -> None:
    first = rounds_viewed(scored[:1], store, SETTINGS)
    assert up_to(parted, 0).reaching(EVEN, 0.5).equals(first.reaching(EVEN, 0.5))
    assert isinstance(first.sweep, PartSweep)


def test_parts_are_read_as_one_table_by_others(scored: Any) -> None:
    import pyarrow.dataset as ds

    folder = scored[0].partials.folder.base
    table = ds.dataset(sorted(map(str, Path(folder).glob("*.parquet")))).to_table()
    assert table.equals(scored[0].whole())
