"""Mining on hand-made tables: what a round may find, what teaches, and rounds in which there is nothing."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from harvester.config.settings import MiningSettings, OperatingPointSettings, Settings
from harvester.labels import ledger as ledgers
from harvester.mining import candidates, fusion, negatives
from harvester.mining.round_view import RoundView, StoreTables, match_to_lesions
from harvester.records import ACCEPTED, LEDGER, MARKS, REVIEWED, SCORED, Box
from tests.builders import ledger, manifest, mark, marks, pooled, scored, selected, tubelet

HERE: Box = (10, 10, 29, 29)
SHIFTED: Box = (15, 10, 34, 29)  # IoU with HERE: 300 / 500
HALF: Box = (20, 10, 39, 29)  # 200 / 600
TOUCHING: Box = (28, 10, 47, 29)  # 40 / 760, below clear_iou
AWAY: Box = (100, 100, 119, 119)
SETTINGS = MiningSettings()
VOLUMES = {"m1": "vm", "m2": "vm", "h1": "vh", "t1": "vh_test"}
PLAIN = fusion.ScoreFusion(0.5, 0.1)


def view(table: pa.Table, known: pa.Table) -> RoundView:
    store = StoreTables(manifest(VOLUMES), known, REVIEWED.empty_table())
    return RoundView((table,), store, Settings(mining=SETTINGS))


def ids(table: pa.Table) -> list[int]:
    return list(table["tubelet_id"].to_pylist())


# What a round may find


def test_overlap_is_the_best_of_all_labels_on_shared_slices() -> None:
    table = scored(
        tubelet("h1", HERE),
        tubelet("h1", SHIFTED),
        tubelet("h1", HERE, z=(6, 7)),
        tubelet("t1", HERE),
        tubelet("h1", AWAY),
    )
    labels = ledger(mark("h1", HERE), mark("h1", HALF))
    np.testing.assert_allclose(candidates.overlap_with(table, labels), [1, 3 / 5, 0, 0, 0])


def test_a_harvested_label_counts_on_each_of_its_slices() -> None:
    harvested = ledgers.from_tubelets(selected(tubelet("h1", HERE, z=(7, 8))), "lesion", "harvested", 0, "", "")
    table = scored(tubelet("h1", SHIFTED, z=(8, 9)), tubelet("h1", SHIFTED, z=(9, 10)))
    np.testing.assert_allclose(candidates.overlap_with(table, harvested), [0.6, 0])
    assert candidates.slice_marks(harvested)["z"].to_pylist() == [7, 8]


def test_what_lies_beside_a_known_lesion_may_be_found_and_is_no_hard_negative() -> None:
    beside = (22, 10, 41, 29)  # IoU with HERE: 160 / 640
    table, known = scored(tubelet("h1", beside), tubelet("h1", AWAY)), ledger(mark("h1", HERE))
    assert ids(candidates.candidates(table, known, SETTINGS)) == [0, 1]
    assert ids(candidates.clear_of(table, known, SETTINGS)) == [1]


def test_candidates_are_none_of_the_labels() -> None:
    table = scored(*(tubelet("h1", box) for box in (HERE, SHIFTED, HALF, TOUCHING, AWAY)), tubelet("t1", HERE))
    assert ids(candidates.candidates(table, ledger(mark("h1", HERE)), SETTINGS)) == [3, 4, 5]
    assert ids(candidates.candidates(table, LEDGER.empty_table(), SETTINGS)) == [0, 1, 2, 3, 4, 5]


def test_the_calibration_set_hides_annotations_but_not_marks() -> None:
    table = scored(
        tubelet("m1", HERE), tubelet("m1", AWAY), tubelet("m2", HERE), tubelet("h1", AWAY), tubelet("m2", AWAY)
    )
    known = marks(mark("m1", HERE), mark("m1", AWAY, clinical=False), mark("m2", AWAY, clinical=False))
    assert ids(view(table, known).calibration) == [1, 2, 4]
    targets = view(table, known).targets
    assert targets["volume_id"].to_pylist() == ["m1", "m2"]
    assert not any(targets["clinical"].to_pylist())


def test_a_round_harvests_what_touches_no_label_and_finds_marks_on_any_volume() -> None:
    table = scored(
        tubelet("h1", HERE), tubelet("h1", AWAY), tubelet("t1", HERE), tubelet("m1", HERE), tubelet("m1", AWAY)
    )
    known = marks(mark("h1", HERE), mark("m1", HERE), mark("m1", AWAY, clinical=False))
    first = view(table, known)
    assert ids(first.harvestable) == [1, 2]
    assert ids(first.clinical_finds) == [0]
    accepted = first.accepted(PLAIN, 0.0)
    assert (ids(accepted), accepted["correct"].to_pylist()) == ([4], [True])
    assert accepted.schema == ACCEPTED
    found = first.harvested(PLAIN, 0.0)
    assert ids(found) == [1, 2]
    assert ids(first.harvested(PLAIN, np.inf)) == []
    # Every round selects anew: what was found before is found again, or not.
    second = replace(first, rounds=(table, table))
    assert (ids(second.harvestable), ids(second.calibration)) == ([1, 2], [4])
    assert ids(second.clinical_finds) == ids(first.clinical_finds)
    assert ids(replace(first, rounds=(table, table, table.slice(0, 2))).harvested(PLAIN, 0.0)) == []


def test_a_view_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def extruded(*given: pa.Table) -> pa.Table:
        asked.append(given)
        return ledgers.extrude_marks(*given)

    monkeypatch.setattr("harvester.mining.round_view.extrude_marks", extruded)
    known = marks(mark("m1", HERE), mark("h1", HERE), mark("m1", AWAY, clinical=False))
    one = view(scored(tubelet("m1", AWAY), tubelet("h1", AWAY)), known)
    assert asked == []
    for _ in range(2):
        assert (len(one.harvestable), len(one.calibration), len(one.targets)) == (1, 1, 1)
    assert [len(labels) for labels, _ in asked] == [3]


def test_split_of_takes_rows_by_their_volume() -> None:
    table = scored(tubelet("m1", HERE), tubelet("t1", HERE), tubelet("h1", HERE), tubelet("gone", HERE))
    assert ids(candidates.split_of(table, manifest(VOLUMES), "vh", "vh_test")) == [1, 2]
    assert ids(candidates.split_of(table, manifest(VOLUMES), "vd_test")) == []


# What teaches


def test_a_lesion_is_learnt_anywhere_but_its_absence_only_where_all_are_marked() -> None:
    table = scored(
        *(tubelet("m1", box) for box in (HERE, SHIFTED, HALF, TOUCHING, AWAY)), tubelet("h1", HERE), tubelet("h1", AWAY)
    )
    known = ledger(mark("m1", HERE, clinical=False), mark("h1", HERE))
    found = selected(tubelet("m1", AWAY))
    rejected = ledgers.from_tubelets(found, "hard_negative", "hard_negative_vm", 0, "", "")
    lesion, other = negatives.classifier_examples(table, ledgers.extend(known, rejected), manifest(VOLUMES), 0.5)
    assert lesion.tolist() == [True, True, False, False, False, True, False]
    assert other.tolist() == [False, False, False, True, True, False, False]


def test_what_is_classified_is_counted_in_tubelets_not_in_ids() -> None:
    rows = [tubelet(volume, HERE) for volume in ("m1", "h1", "m1", "m1", "m1", "h1")]
    table = scored(*rows)
    # A region that is left out has swallowed tubelets 0 and 2 of m1.
    left = table.take([5, 4, 3, 1])
    assert ids(negatives.to_classify(left, 1)) == [1, 3]
    assert ids(negatives.to_classify(left, 2)) == [1, 5, 3, 4]
    assert ids(negatives.to_classify(left, 9)) == [1, 5, 3, 4]
    assert negatives.to_classify(left, 2).schema == SCORED
    assert len(negatives.to_classify(scored(), 2)) == 0


def test_sure_hard_negatives_are_the_best_scored_that_touch_nothing() -> None:
    rows = [tubelet("m1", AWAY, lpg_score=0.01 * i) for i in range(30)]
    rows += [tubelet("m1", HERE, lpg_score=0.99), tubelet("m2", AWAY, lpg_score=0.2)]
    table = scored(*rows).take(np.random.default_rng(0).permutation(len(rows)))
    found = negatives.sure_hard_negatives(table, ledger(mark("m1", HERE, clinical=False)), SETTINGS)
    assert ids(found) == [*range(29, 19, -1), 31]
    assert found["score"].to_pylist() == found["lpg_score"].to_pylist()
    none = negatives.sure_hard_negatives(table, ledger(), MiningSettings(hard_negatives_per_volume=0))
    assert ids(none) == []


def test_possible_hard_negatives_are_liked_refused_and_free() -> None:
    table = scored(
        tubelet("h1", AWAY, lpg_score=0.9, lpc_score=0.01),
        tubelet("h1", AWAY, lpg_score=0.9, lpc_score=0.2),
        tubelet("h1", AWAY, lpg_score=0.1, lpc_score=0.01),
        tubelet("h1", HERE, lpg_score=0.9, lpc_score=0.01),
        tubelet("t1", AWAY, lpg_score=0.3, lpc_score=0.05),
    )
    assert ids(negatives.possible_hard_negatives(table, ledger(mark("h1", HERE)), SETTINGS)) == [0, 4]


# One score, one threshold


def test_fusing_weighs_the_logits() -> None:
    rng = np.random.default_rng(1)
    lpg, lpc = rng.uniform(0.15, 1, 50), rng.uniform(0, 1, 50)
    table = pooled(*(tubelet("h1", HERE, lpg_score=a, lpc_score=b) for a, b in zip(lpg, lpc, strict=True)))
    for weight in (0.0, 0.3, 1.0):
        clipped = np.clip([lpg, lpc], 1e-4, 1 - 1e-4)
        odds = clipped / (1 - clipped)
        slow = odds[0] ** weight * odds[1] ** (1 - weight)
        fused = fusion.fuse(table, fusion.ScoreFusion(weight, 0.1))
        np.testing.assert_allclose(fused, slow / (1 + slow), rtol=1e-9)


def test_the_choice_drops_by_floor_and_length() -> None:
    table = pooled(
        tubelet("h1", HERE, lpg_score=0.19),
        tubelet("h1", HERE, lpg_score=0.2),
        tubelet("h1", HERE, z=(5,), lpg_score=0.9),
        tubelet("h1", HERE, lpg_score=0.5),
    )
    fused = fusion.fuse(table, fusion.ScoreFusion(1.0, 0.2, 2))
    assert np.isneginf(fused).tolist() == [True, False, True, False]
    assert fused[3] == pytest.approx(0.5)


def test_select_never_takes_what_was_dropped_and_sorts_by_score() -> None:
    table = pooled(*(tubelet("h1", HERE, lpg_score=lpg) for lpg in (0.05, 0.3, 0.9, 0.3, 0.6)))
    choice = fusion.ScoreFusion(1.0, 0.1)
    fused = fusion.fuse(table, choice)
    assert ids(fusion.select(table, choice, fused[1])) == [2, 4, 1, 3]
    assert ids(fusion.select(table, choice, -1e9)) == [2, 4, 1, 3]
    assert ids(fusion.select(table, choice, np.nextafter(fused[1], 1))) == [2, 4]
    nothing = fusion.select(table, choice, np.inf)
    assert ids(nothing) == []
    assert nothing.schema.names == [*SCORED.names, "score"]


def test_matching_gives_each_lesion_to_one_tubelet() -> None:
    places = (("m1", SHIFTED, 0.9), ("m1", HERE, 0.8), ("m1", AWAY, 0.7), ("m2", HERE, 0.6))
    table = selected(*(tubelet(volume, box, score=score) for volume, box, score in places))
    lesions = marks(mark("m1", HERE, clinical=False), mark("m2", HALF, clinical=False))
    # The better-scored tubelet takes the lesion although the other one fits better.
    assert match_to_lesions(table, lesions, 0.5).tolist() == [True, False, False, False]
    assert match_to_lesions(table, lesions, 0.3).tolist() == [True, False, False, True]


def test_every_choice_of_the_settings_is_tried_once() -> None:
    settings = OperatingPointSettings(lpg_weights=(0.25, 0.5), lpg_floors=(0.1, 0.2), min_slices=(1, 2))
    tried = fusion.fusions(settings)
    assert len(tried) == len(set(tried)) == 8
    assert fusion.fusions(OperatingPointSettings())[0] == fusion.ScoreFusion(0.5, 0.1, 1)


# Nothing anywhere


def empty_tables() -> list[pa.Table]:
    """No tubelets at all: without a chunk, with an empty chunk, and what a filter left."""
    left = scored(tubelet("m1", HERE)).filter(pa.array([False]))
    return [SCORED.empty_table(), pa.Table.from_pylist([], SCORED), left, pa.concat_tables([left, left])]


@pytest.mark.parametrize("case", range(4))
@pytest.mark.parametrize("known", [MARKS.empty_table(), marks(mark("m1", HERE), mark("m1", AWAY, clinical=False))])
def test_a_round_that_proposes_nothing_goes_through_every_step(case: int, known: pa.Table) -> None:
    table, labels = empty_tables()[case], ledgers.from_marks(known)
    one = view(table, known)
    assert fusion.fuse(one.calibration, PLAIN).shape == (0,)
    chosen = one.harvested(PLAIN, 0.5)
    assert chosen.schema.names == [*SCORED.names, "score"]
    assert one.accepted(PLAIN, 0.5).schema == ACCEPTED
    assert (len(one.correct(chosen)), one.correct(chosen).dtype) == (0, bool)
    lesion, other = negatives.classifier_examples(table, labels, manifest(VOLUMES), 0.5)
    assert lesion.shape == other.shape == (0,)
    sure = negatives.sure_hard_negatives(table, labels, SETTINGS)
    possible = negatives.possible_hard_negatives(table, labels, SETTINGS)
    after = ledgers.extend(
        labels,
        ledgers.from_tubelets(chosen, "lesion", "harvested", 0, "", ""),
        ledgers.from_tubelets(sure, "hard_negative", "hard_negative_vm", 0, "", ""),
        ledgers.from_tubelets(possible, "hard_negative", "hard_negative_vh", 0, "", ""),
    )
    assert len(after) == len(known)
    assert candidates.split_of(table, manifest(VOLUMES), "vm").schema == SCORED


def test_a_round_that_harvests_nothing_leaves_proposals_as_they_were() -> None:
    table = pooled(tubelet("h1", HERE), tubelet("t1", AWAY), tubelet("m1", AWAY))
    found = fusion.select(candidates.candidates(table, LEDGER.empty_table(), SETTINGS), PLAIN, np.inf)
    assert len(found) == 0
    empty = ledgers.from_tubelets(found, "lesion", "harvested", 0, "", "")
    assert ids(candidates.candidates(table, empty, SETTINGS)) == [0, 1, 2]


def test_a_volume_without_lesions_gives_negatives_and_nothing_else() -> None:
    # m2 is completely marked and holds no lesion; m1 holds one.
    table = pooled(tubelet("m2", HERE), tubelet("m2", AWAY, lpg_score=0.8), tubelet("m1", HERE))
    known = marks(mark("m1", HERE, clinical=False))
    labels = ledgers.from_marks(known)
    lesion, other = negatives.classifier_examples(table, labels, manifest(VOLUMES), 0.5)
    assert lesion.tolist() == [False, False, True]
    assert other.tolist() == [True, True, False]
    assert ids(negatives.sure_hard_negatives(table, labels, SETTINGS)) == [1, 0]
    chosen = fusion.select(table, PLAIN, 0.0)
    assert int(view(table, known).correct(chosen).sum()) == 1


def test_a_piece_of_a_marked_lesion_beside_the_key_slice_is_no_negative() -> None:
    # The lesion's mark is on slice 5; the proposal is a broken chain on the slices just above it.
    table = scored(tubelet("m1", HERE, z=(6, 7)))
    labels = ledger(mark("m1", HERE, clinical=False))
    _, other = negatives.classifier_examples(table, labels, manifest(VOLUMES), 0.5)
    assert not other.any()
    assert len(negatives.sure_hard_negatives(table, ledgers.extrude_marks(labels, manifest(VOLUMES)), SETTINGS)) == 0
