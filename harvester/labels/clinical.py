"""Which lesions of a completely marked volume the clinic had marked, where nobody says so: drawn as it would mark."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from harvester.records import PARTLY_MARKED

Row = Mapping[str, Any]


def longer_side_mm(mark: Row, volume: Row) -> float:
    """The longer side of a mark's box in its slice; rows of records.MARKS and MANIFEST."""
    width_mm = (mark["x2"] - mark["x1"] + 1) * volume["spacing_x_mm"]
    return float(max(width_mm, (mark["y2"] - mark["y1"] + 1) * volume["spacing_y_mm"]))


def draw_clinical(
    marks: Sequence[Row], manifest: Sequence[Row], volume_ids: Collection[str], seed: int
) -> list[dict[str, Any]]:
    """The marks of all volumes, in their order, with `clinical` drawn for the lesions of the named ones.

    The largest lesions first, and as many of a volume as of a volume of V_H that is drawn at random: together the
    named ones get what so many volumes of V_H have, as far as they have lesions. One per volume where no V_H is.
    """
    volumes = {row["volume_id"]: row for row in manifest}
    own: dict[str, list[int]] = {name: [] for name in sorted(volume_ids) if name in volumes}
    shown = {name: 0 for name, row in volumes.items() if row["split"] in PARTLY_MARKED and name not in own}
    for at, mark in enumerate(marks):
        if mark["volume_id"] in own:
            own[mark["volume_id"]].append(at)
        elif mark["volume_id"] in shown:
            shown[mark["volume_id"]] += mark["clinical"]
    counts = _counts([len(lesions) for lesions in own.values()], sorted(shown.values()) or [1], seed)
    clinical = {
        at
        for (name, lesions), count in zip(own.items(), counts, strict=True)
        for at in sorted(lesions, key=lambda at: -longer_side_mm(marks[at], volumes[name]))[:count]
    }
    return [
        {**mark, "clinical": at in clinical if mark["volume_id"] in own else mark["clinical"]}
        for at, mark in enumerate(marks)
    ]


def _counts(lesions: Sequence[int], shown: Sequence[int], seed: int) -> list[int]:
    """How many of each volume's lesions are clinical: draws from `shown`, each to a volume that has so many."""
    rng = np.random.default_rng(seed)
    counts, free = [0] * len(lesions), list(range(len(lesions)))
    for wanted in sorted(rng.choice(shown, len(lesions)).tolist(), reverse=True):
        most = max(lesions[at] for at in free)
        at = int(rng.choice([at for at in free if lesions[at] >= min(wanted, most)]))
        counts[at] = min(wanted, most)
        free.remove(at)
    return counts
