"""The columns of tables that people bring: one that is misspelt or there twice would be passed over without a word."""

from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches

from harvester.errors import LabelError


def refuse_columns(file: str, names: Sequence[str], allowed: Sequence[str], others: bool = False) -> None:
    """Raises LabelError for a column that is there twice, and for one that is not allowed; nameless ones are nothing.

    others  further columns may be there, as the tables of programs have them; but none that is nearly called as one of
            the allowed ones that is missing
    """
    twice = [name for name, count in Counter(names).items() if count > 1 and name]
    if twice:
        raise LabelError(f"{file}: two columns are called {twice[0]}; keep one")
    absent = [name for name in allowed if name not in names]
    for name in (name for name in names if name and name not in allowed):
        near = get_close_matches(name.strip().lower(), absent, 1, 0.8 if others else 0.6)
        if near or not others:
            meant = f", did you mean {near[0]}?" if near else ";"
            raise LabelError(f"{file}: no such column: {name}{meant} Allowed: {', '.join(allowed)}")
