"""What is asked of long columns."""

import pyarrow as pa
import pytest

from harvester.columns import count_sorted, joined, place_in


@pytest.mark.parametrize("chunks", [[["b", "d"], ["d", "é", "日"]], [["b", "d", "d", "é", "日"]]])
def test_a_text_is_found_among_sorted_ones(chunks: list[list[str]]) -> None:
    ordered = pa.chunked_array(chunks, pa.string())
    assert [place_in(ordered, text) for text in ("b", "d", "é", "日")] == [0, 1, 3, 4]
    assert [place_in(ordered, text) for text in ("", "a", "c", "z", "日本")] == [None] * 5
    assert place_in(pa.array([], pa.string()), "a") is None


@pytest.mark.parametrize(("texts", "different"), [([], 0), (["a"], 1), (["a", "a"], 1), (["a", "a", "b", "c", "c"], 3)])
def test_how_many_a_sorted_column_holds(texts: list[str], different: int) -> None:
    column = pa.array(texts, pa.string())
    assert count_sorted(column) == count_sorted(pa.chunked_array([column[:2], column[2:]])) == different


def test_texts_are_joined_of_columns_and_words() -> None:
    table = pa.table({"volume": ["a", "b"], "number": pa.array([3, 12], pa.int32())})
    assert joined("-", "x", table["volume"], table["number"]).to_pylist() == ["x-a-3", "x-b-12"]
    assert joined("-", "x", table["number"][:0]).to_pylist() == []
