"""Strata: where size is cut, and that marks of other strata are neither found nor false."""

import numpy as np
import pyarrow as pa
import pytest

from harvester.errors import SettingsError
from harvester.evaluation.matching import hits
from harvester.evaluation.strata import longer_sides, strata, within
from tests.builders import overlapping


def lesions(sides: list[tuple[float, float]], **columns: list[object]) -> pa.Table:
    ends = {"x2": [10 + w - 1 for w, _ in sides], "y2": [10 + h - 1 for _, h in sides]}
    return pa.table({"x1": [10.0] * len(sides), "y1": [10.0] * len(sides), **ends, **columns})


def test_size_is_the_longer_side_with_inclusive_ends_in_pixels_or_mm() -> None:
    table = lesions([(19.9, 5.0), (20.0, 5.0), (5.0, 40.0), (40.1, 5.0)])
    assert longer_sides(table)[1] == "px"
    cut = strata(table, "size")
    assert (cut.unit, cut.labels) == ("px", ("< 20 px", "20 to 40 px", "> 40 px"))
    assert cut.of_mark.tolist() == [0, 1, 1, 2]
    table = lesions([(19, 5), (20, 5), (5, 30), (5, 31)], spacing_x_mm=[0.5] * 4, spacing_y_mm=[1.0] * 4)
    cut = strata(table, "size")
    assert (cut.unit, cut.labels) == ("mm", ("< 10 mm", "10 to 30 mm", "> 30 mm"))
    assert cut.of_mark.tolist() == [0, 1, 1, 2]


def test_strata_without_a_mark_are_left_out() -> None:
    assert strata(lesions([(50, 5), (5, 5)]), "size").labels == ("< 20 px", "> 40 px")


def test_columns_make_strata_and_gaps_have_a_name() -> None:
    cut = strata(lesions([(5, 5)] * 4, kind=["b", "", None, "b"]), "kind")
    assert [cut.labels[place] for place in cut.of_mark] == ["b", "(empty)", "(none)", "b"]
    flags = strata(lesions([(5, 5)] * 2, clinical=[True, False]), "clinical")
    assert flags.labels == ("false", "true")


def test_columns_that_are_missing_or_not_for_strata_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"--by colour: .* want size or one of"):
        strata(lesions([(5, 5)]), "colour")
    with pytest.raises(SettingsError, match="31 values"):
        strata(lesions([(5, 5)] * 31, number=list(range(31))), "number")
    with pytest.raises(SettingsError, match="1 marks have no spacing, the first is row 2"):
        strata(lesions([(5, 5)] * 2, spacing_x_mm=[1.0, None], spacing_y_mm=[1.0, 1.0]), "size")


def test_a_detection_on_other_strata_alone_is_left_out_and_a_weak_overlap_does_not_excuse_it() -> None:
    #               on a mark of ours | on another's | on both | weakly on another's | on nothing
    pairs = [(0, 0, 0.9), (1, 1, 0.9), (2, 0, 0.6), (2, 1, 0.7), (3, 1, 0.4)]
    kept, rows = within(overlapping(*pairs), np.array([True, False]), 5, threshold=0.5)
    assert rows.tolist() == [0, 2, 3, 4]
    seen = hits(kept, np.array([0.9, 0.8, 0.7, 0.6]), 1)
    assert seen.new_hits.tolist() == [1, 0, 0, 0]
    assert seen.repeat_hits.tolist() == [0, 1, 0, 0]


def test_the_marks_of_a_stratum_are_counted_anew() -> None:
    kept, rows = within(overlapping((0, 0, 0.9), (1, 2, 0.8)), np.array([False, True, True]), 2, threshold=0.5)
    assert (kept.tubelet.tolist(), kept.mark.tolist(), rows.tolist()) == ([0], [1], [1])
