"""Plain text for people: tables, spans of time, numbers."""

import time
from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]], sides: str = "lr") -> list[str]:
    """A line per row, columns two spaces apart and as wide as their widest cell. No rows: no lines.

    sides  l or r per column, the side that its cells stand at; the last holds for all columns that follow
    """
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    left = [sides[min(place, len(sides) - 1)] == "l" for place in range(len(columns))]
    return [
        "  ".join(
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(row, widths, left, strict=True)
        ).rstrip()
        for row in rows
    ]


def clock(seconds: float) -> str:
    """A time (seconds since 1970) as this machine's clocks show it: 2026-11-28 23:10:05."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def duration(seconds: float | None) -> str:
    """Seconds as people say them: 5.4 s, 7 min 58 s, 3 h 12 min; an en dash for what is unknown."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s"


def time_left(seconds: float) -> str:
    """What is left, no more exact than it can be known: 42 s left, 7 min left, 3 h 12 min left."""
    if seconds < 90:
        return f"{seconds:.0f} s left"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min left" if hours else f"{minutes} min left"


def number(value: float | None, digits: int = 2) -> str:
    """A number for people: 1,234 or 0.50; an en dash for what is unknown."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """A share in percent; an en dash for what is unknown."""
    return "–" if value is None else f"{100 * value:.1f} %"


def count(amount: int, noun: str, plural: str = "") -> str:
    """1 lesion, 2 lesions."""
    return f"{amount:,} {noun if amount == 1 else plural or noun + 's'}"
