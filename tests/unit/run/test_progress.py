"""Lines of progress: one now and then, one at the end."""

import logging

import pytest

from harvester.run import progress
from harvester.run.partials import Part
from harvester.run.progress import PartLines, ProgressLines


def test_lines_come_now_and_then_and_once_at_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    lines = ProgressLines("prepare", 40)
    with caplog.at_level(logging.INFO):
        for now, done in ((101.0, 2), (116.0, 0), (120.0, 30), (140.0, 20), (141.0, 40), (142.0, 40)):  # noqa: B007
            lines.reached(done)
    assert caplog.messages == [
        "prepare: 0 of 40 volumes, 0.0 a second, none done yet",
        "prepare: 20 of 40 volumes, 0.5 a second, 40 s left",
        "prepare: 40 of 40 volumes, 1.0 a second, 0 s left",
    ]


def test_volumes_count_as_they_end_whatever_the_parts() -> None:
    lines = PartLines("propose", [Part(name, [{"volume_id": f"{name}{i}"} for i in range(16)]) for name in "abc"])

    def done(left: str, **begun: int) -> int:
        lines.reached([*left], begun)
        return lines.lines.done

    assert done("abc") == 0
    assert done("abc", a=16) == 0
    assert done("abc", a=14, b=16) == 2
    assert done("abc", b=16) == 2  # between its last volume and its end
    assert done("bc", b=14) == 18
    assert done("c", c=7) == 41
    assert done("") == 48
