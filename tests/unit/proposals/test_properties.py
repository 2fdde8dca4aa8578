"""Linking of any boxes, as a textbook's filters do it one by one."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from harvester.config.models import LinkingSettings
from harvester.proposals.linking import link
from tests.plain_linking import plain_link


@st.composite
def drifting(draw: st.DrawFn) -> tuple[Any, Any]:
    """z (n,) and boxes (n, 4): a few structures that drift and drop out, and strays."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    z, boxes = [], []
    for _ in range(draw(st.integers(0, 3))):
        centre, half = rng.uniform(20, 60, 2), rng.uniform(3, 12)
        for k in range(rng.integers(1, 9)):
            centre = centre + rng.normal(0, 0.1 * half, 2)
            if rng.random() < 0.8:
                z.append(k)
                boxes.append([*(centre - half), *(centre + half)])
    for _ in range(draw(st.integers(0, 6))):
        centre, half = rng.uniform(20, 60, 2), rng.uniform(3, 12)
        z.append(int(rng.integers(9)))
        boxes.append([*(centre - half), *(centre + half)])
    return np.array(z, np.int64), np.array(boxes).reshape(-1, 4)


@given(drifting(), st.integers(0, 2), st.integers(1, 3), st.sampled_from([0.1, 0.3, 0.6]))
def test_links_are_those_of_plain_filters_and_use_each_box_once(
    found: tuple[Any, Any], max_gap: int, min_length: int, floor: float
) -> None:
    z, boxes = found
    settings = LinkingSettings(max_gap=max_gap, min_length=min_length, iou_floor=floor)
    scores = np.arange(len(z)) / max(len(z), 1)  # each box is known again by its score
    linked = link(z, boxes, scores, settings)
    rows = [frozenset(int(row) for row in np.searchsorted(scores, tubelet.scores)) for tubelet in linked]
    assert set(rows) == plain_link(z, boxes, settings)
    assert sum(map(len, rows)) == len(frozenset[int]().union(*rows))
    for tubelet in linked:
        assert (np.diff(tubelet.z) > 0).all() and (np.diff(tubelet.z) <= max_gap + 1).all()
        assert len(tubelet.z) >= min_length
    assert [tubelet.score for tubelet in linked] == sorted((tubelet.score for tubelet in linked), reverse=True)
