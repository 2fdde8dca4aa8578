"""Tables and spans of time as a terminal shows them."""

import pytest

from harvester.text import duration, table


def test_a_table_is_as_wide_as_its_widest_cells() -> None:
    rows = [["split", "volumes", ""], ["vh_test", "9", ""], ["vm", "12,345", "x"]]
    assert table(rows) == ["split    volumes", "vh_test        9", "vm        12,345  x"]
    assert table(rows, "rl") == ["  split  volumes", "vh_test  9", "     vm  12,345   x"]
    assert table([]) == []


def test_rows_of_different_lengths_are_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="shorter"):
        table([["a", "b"], ["c"]])


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "–"), (0, "0.0 s"), (3.21, "3.2 s"), (59.97, "1 min 0 s"), (478, "7 min 58 s"), (3700, "1 h 1 min")],
)
def test_duration(seconds: float | None, said: str) -> None:
    assert duration(seconds) == said
