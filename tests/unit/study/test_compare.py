"""A study put together of pieces, and its headline."""

from pathlib import Path

import pytest

from harvester.errors import StoreError
from harvester.run.study import FILE, StudyResult, StudyRow
from harvester.storage.location import Location
from harvester.study.compare import headline, merged, result
from harvester.study.settings import FULL, StudyArchive, StudySettings

QUICK = StudyArchive(config="quickstart")


def row(archive: str, seed: int, arm: str = FULL, right: int = 9, certified: bool | None = True) -> StudyRow:
    return StudyRow(
        archive=archive, seed=seed, arm=arm, key="k", certified=certified, harvested=10, right=right,
        precision=right / 10, recall=right / 20, recall_at_90=0.5, lesions=(4, 16), seconds=60.0,
    )  # fmt: skip


def piece(archive: str, *rows: StudyRow) -> StudyResult:
    return result(StudySettings(archives={archive: QUICK}, seeds=(1, 2)), rows, {}, (), f"study --only {archive}")


def test_the_headline_counts_certified_lists_that_kept_their_promise() -> None:
    rows = [row("a", 1), row("a", 2, right=8), row("b", 1, right=10), row("b", 2, certified=False)]
    head = headline([*rows, row("a", 1, "generator_alone", right=4, certified=None)], ())
    assert (head.certified_pairs, head.certified_share) == (3, pytest.approx(2 / 3))
    assert head.certified_interval is not None and head.certified_interval[0] == pytest.approx(0.2077, abs=1e-4)
    assert head.precision == pytest.approx(36 / 40) and head.recall_unmarked == pytest.approx(0.45)
    assert head.recall_unmarked_lpg_alone == pytest.approx(0.2) and head.ap_gain_harvest is None
    assert headline([], ()).certified_share is None


def test_pieces_of_a_study_are_put_together_by_archive() -> None:
    first, second = piece("a", row("a", 1), row("a", 2)), piece("b", row("b", 1, right=10))
    both = merged(first, second)
    assert [(each.archive, each.seed) for each in both.rows] == [("a", 1), ("a", 2), ("b", 1)]
    assert [arm.archive for arm in both.arms] == ["a", "b"] and both.seconds == 180.0
    assert both.command == "study --only a && study --only b" and both.headline.certified_pairs == 3
    again = merged(both, piece("b", row("b", 1, right=7)))
    assert [each.right for each in again.rows] == [9, 9, 7] and again.headline.certified_share == pytest.approx(2 / 3)
    assert again.command == both.command
    assert again.seconds == 180.0
    assert merged(first, piece("a", row("a", 1, right=8))).rows == (row("a", 1, right=8),)
    assert [each.archive for each in merged(second, first).rows] == ["a", "a", "b"]


def test_a_piece_made_again_with_more_arms_takes_the_place_of_its_command() -> None:
    more = piece("a", row("a", 1), row("a", 1, "one_round")).model_copy(
        update={"command": "study --only a --arms one_round"}
    )
    both = merged(merged(piece("a", row("a", 1)), piece("b", row("b", 1))), more)
    assert both.command == "study --only a --arms one_round && study --only b"
    whole = piece("a", row("a", 1)).model_copy(update={"command": "study"})
    assert merged(merged(whole, piece("b", row("b", 1))), more).command.startswith("study && study --only a")


def test_a_study_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder, done = Location.of(tmp_path), piece("a", row("a", 1))
    assert StudyResult.read(folder) is None
    done.write(folder)
    assert StudyResult.read(folder) == done
    (tmp_path / FILE).write_text('{"rows": 3}')
    with pytest.raises(StoreError, match="not as harvester writes it"):
        StudyResult.read(folder)
