"""A study as a page of Markdown and a picture."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from harvester.report.plots import INK, SOFT, image
from harvester.report.retraining import ap_span, draw_sets
from harvester.run.retraining import SETS, DetectorFigures, Figure
from harvester.run.study import ArmFigures, StudyDetectors, StudyResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

ARM_HEAD: Final = (
    "arm", "what it is", "recall at 0.90", "against the full loop, points", "certified", "harvested", "precision",
    "recall", "looked at",
)  # fmt: skip
SET_HEAD: Final = ("detector", "learned from", "AP", "95 %", "sensitivity at 4 FP", "95 %")
GAIN_HEAD: Final = ("detector", "gain in AP, points", "", "95 %")
BLUE: Final = "#2f7fe0"


def as_markdown(done: StudyResult) -> str:
    """docs/study.md: tables with intervals, and what they were made with."""
    made = f"harvester {done.harvester}, settings {done.settings_hash}"
    lines = [
        "# Study: what each part is worth, against rivals, and what the harvest gives detectors",
        "",
        f"`{done.command}` ({made}). Generated: every figure is in `study.json`. Archives of known truth: what is",
        "harvested and how much of it is right is counted on V_H^test. Intervals are 95 %, of a bootstrap over",
        "patients, seeds as a second level.",
        "",
        *_headline(done),
    ]
    for archive in dict.fromkeys(arm.archive for arm in done.arms):
        lines += ["", f"## {archive}", "", *_arms(done, archive)]
        for each in done.detectors:
            if each.archive == archive and each.detectors:
                lines += ["", *_detectors(each)]
    return "\n".join(lines) + "\n"


def _headline(done: StudyResult) -> Iterator[str]:
    head = done.headline
    if head.certified_share is not None and head.certified_interval:
        low, high = head.certified_interval
        yield (
            f"- Of {head.certified_pairs} certified harvests (archive and seed) {100 * head.certified_share:.0f} % "
            f"[{100 * low:.0f}, {100 * high:.0f}] are at least 90 % right; all together {_share(head.precision)}."
        )
    alone = _share(head.recall_unmarked_lpg_alone)
    yield f"- Recall of unmarked lesions {head.recall_unmarked:.3f}; of the generator alone {alone}."
    if head.ap_gain_harvest is not None:
        closed = f", {100 * head.gap_closed:.0f} % of the gap to the full truth" if head.gap_closed is not None else ""
        gain = f"{100 * head.ap_gain_harvest:+.1f}"
        yield f"- Detectors gain {gain} points of AP by the harvest over clinical marks{closed}."


def _arms(done: StudyResult, archive: str) -> Iterator[str]:
    mine = [arm for arm in done.arms if arm.archive == archive]
    rows = [row for row in done.rows if row.archive == archive and row.arm == mine[0].arm]
    yield (
        f"{mine[0].seeds} seeds; {sum(sum(row.lesions) for row in rows)} unmarked lesions of "
        f"{sum(len(row.lesions) for row in rows)} patients in all. Rivals are in italics."
    )
    yield ""
    yield from _table(ARM_HEAD, map(_arm, mine))


def _arm(arm: ArmFigures) -> list[str]:
    name = f"*{arm.arm}*" if arm.rival else arm.arm
    return [
        name.replace("_", " "),
        arm.about,
        f"{arm.recall_at_90:.3f}",
        _points(arm.gain) if arm.gain else "",
        "" if arm.certified is None else f"{arm.certified} of {arm.seeds}",
        f"{arm.harvested:.0f}",
        _share(arm.precision),
        f"{arm.recall:.3f}",
        f"{arm.reviewed:.0f}" if arm.reviewed else "",
    ]


def _detectors(done: StudyDetectors) -> Iterator[str]:
    yield f"### Detectors on {done.archive}"
    yield ""
    yield (
        f"Trained on the full loop's harvests of {done.seeds} seeds, scored on V_D^test: {done.lesions} lesions of "
        f"{done.patients} patients in all."
    )
    yield ""
    rows = [
        [
            own.detector,
            SETS[each.labels],
            f"{each.ap.value:.3f}",
            _ends(each.ap),
            f"{each.sensitivity.value:.3f}",
            _ends(each.sensitivity),
        ]
        for own in done.detectors
        for name in SETS
        for each in own.sets
        if each.labels == name
    ]
    yield from _table(SET_HEAD, rows)
    yield ""
    gains = [[own.detector, name, *_gain(gain)] for own in done.detectors for name, gain in own.gains.items()]
    name = "gap to the full truth closed, %"
    closed = [[own.detector, name, *_gain(own.gap_closed)] for own in done.detectors if own.gap_closed]
    yield from _table(GAIN_HEAD, [*gains, *closed])
    for own in done.detectors:
        if own.exchange_rate:
            yield ""
            yield from _exchange(own)


def _exchange(own: DetectorFigures) -> Iterator[str]:
    rate = own.exchange_rate
    assert rate is not None  # noqa: S101  the caller has looked
    recall, precision = (_points(each, 2) for each in (rate.ap_per_point_of_recall, rate.ap_per_point_of_precision))
    said = f"is worth {recall} points of AP, a point of its precision {precision}"
    yield f"{own.detector}: a point of a harvest's recall {said}."


def _gain(gain: Figure, digits: int = 1) -> list[str]:
    ends = " to ".join(f"{100 * end:.{digits}f}" for end in gain.interval or ())
    return [f"{100 * gain.value:+.{digits}f}", ends]


def _points(figure: Figure, digits: int = 1) -> str:
    value, ends = _gain(figure, digits)
    return f"{value} [{ends}]" if ends else value


def _ends(figure: Figure) -> str:
    return " to ".join(f"{end:.3f}" for end in figure.interval) if figure.interval else ""


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def headline_table(done: StudyResult) -> str:
    """For README: AP of each detector on each label set, archive by archive."""
    names = [name for name in SETS if any(one.labels == name for each in _of_all(done) for one in each.sets)]
    rows = [
        [each.archive, own.detector, *(f"{ap[name]:.2f}" if name in ap else "" for name in names)]
        for each in done.detectors
        for own in each.detectors
        if (ap := {one.labels: one.ap.value for one in own.sets})
    ]
    return "\n".join(_table(["AP on V_D^test", "", *(SETS[name] for name in names)], rows))


def _of_all(done: StudyResult) -> list[DetectorFigures]:
    return [own for each in done.detectors for own in each.detectors]


def study_picture(done: StudyResult) -> bytes:
    """A PNG: per archive, each arm's recall at a precision of 0.90 less the full loop's, with intervals; then AP by
    label set."""
    archives = list(dict.fromkeys(arm.archive for arm in done.arms))
    panels = [(each, own) for each in done.detectors for own in each.detectors]

    def draw(canvas: "Canvas") -> None:
        rows = canvas.subfigures(2 if panels else 1, 1, squeeze=False, height_ratios=[most, 6] if panels else None)[
            :, 0
        ]
        for own, archive in zip(rows[0].subplots(1, len(archives), squeeze=False)[0], archives, strict=True):
            _gains(own, [arm for arm in done.arms if arm.archive == archive], archive)
        if panels:
            span = ap_span(_of_all(done))
            for own, (each, detector) in zip(rows[1].subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
                draw_sets(own, detector, named=detector is each.detectors[0])
                own.set(xlim=span, title=f"{each.archive}: {detector.detector}")

    most = max(6, *(sum(arm.archive == archive for arm in done.arms) for archive in archives), 0)
    across = max(len(archives), len(panels), 1)
    return image(draw, (4.0 * across, 1.6 + 0.3 * most + (3.2 if panels else 0.0)), dpi=110)


def _gains(axes: "Axes", arms: Sequence[ArmFigures], archive: str) -> None:
    shown = [arm for arm in arms if arm.gain][::-1]
    for place, arm in enumerate(shown):
        assert arm.gain is not None  # noqa: S101  those alone are shown
        colour = SOFT if arm.rival else BLUE
        if arm.gain.interval:
            axes.plot([100 * end for end in arm.gain.interval], (place, place), color=colour, linewidth=2)
        axes.plot(100 * arm.gain.value, place, color=colour, marker="D" if arm.rival else "o")
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks(range(len(shown)), [arm.arm.replace("_", " ") for arm in shown])
    axes.set(title=f"{archive}: against the full loop", xlabel="recall at precision 0.90, points")
