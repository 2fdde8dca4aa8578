"""A study as a page and pictures: every figure stands there, whatever is missing."""

from typing import Any

from harvester.report.retraining import retraining_picture
from harvester.report.study import as_markdown, headline_table, study_picture
from harvester.run.retraining import DetectorFigures, ExchangeRate, Figure, Retraining, SetFigures
from harvester.run.study import ArmFigures, Headline, StudyDetectors, StudyResult, StudyRow


def figure(value: float, around: float | None = 0.02) -> Figure:
    return Figure(value=value, interval=None if around is None else (value - around, value + around))


def detector(name: str = "fcos", known: bool = True, around: float | None = 0.02) -> DetectorFigures:
    aps = {"clinical": 0.15, "complete_vm": 0.24, "harvest": 0.31, "hard_negatives": 0.42, "placebo": 0.21}
    if known:
        aps |= {"full_truth": 0.41} | {f"truth_p{p}_r{r}": 0.3 for p in (90, 80) for r in (100, 75, 50)}
        aps |= {f"truth_p100_r{r}": 0.35 for r in (75, 50)}
    sets = tuple(
        SetFigures(labels=label, ap=figure(ap, around), sensitivity=figure(ap / 2, around), by_seed=(ap,))
        for label, ap in aps.items()
    )
    rate = ExchangeRate(
        ap_per_point_of_recall=figure(0.0012),
        ap_per_point_of_precision=figure(0.0024),
        recall_per_point_of_precision=2.0,
    )
    return DetectorFigures(
        detector=name,
        sets=sets,
        gains={"harvest over clinical marks": figure(0.16, around)},
        gap_closed=figure(0.4) if known else None,
        exchange_rate=rate if known else None,
    )


def row(arm: str, **more: Any) -> StudyRow:
    given: dict[str, Any] = {
        "archive": "phantoms", "seed": 1, "arm": arm, "key": "k", "certified": True, "harvested": 100, "right": 93,
        "precision": 0.93, "recall": 0.5, "recall_at_90": 0.6, "lesions": (2, 3), "seconds": 60.0,
    }  # fmt: skip
    return StudyRow(**(given | more))


def arm(name: str, gain: Figure | None, rival: bool = False) -> ArmFigures:
    return ArmFigures(
        archive="phantoms", arm=name, about="what it is", rival=rival, seeds=1, certified=None if rival else 1,
        harvested=100, precision=0.93, recall=0.5, recall_at_90=0.6, gain=gain, reviewed=0,
    )  # fmt: skip


def study(*detectors: DetectorFigures) -> StudyResult:
    found = StudyDetectors(archive="phantoms", seeds=1, patients=40, lesions=164, detectors=detectors)
    head = Headline(
        certified_share=1.0, certified_pairs=1, certified_interval=(0.2, 1.0), recall_unmarked=0.5,
        recall_unmarked_lpg_alone=0.3, precision=0.93, ap_gain_harvest=0.16 if detectors else None,
        gap_closed=0.4 if detectors else None,
    )  # fmt: skip
    return StudyResult(
        harvester="0", command="harvester study --config study", settings={}, settings_hash="h", seconds=4000.0,
        headline=head, arms=(arm("full_loop", None), arm("self_training", figure(-0.1), rival=True)),
        detectors=(found,) if detectors else (), rows=(row("full_loop"), row("self_training", certified=None)),
    )  # fmt: skip


def test_the_page_has_every_arm_detector_and_gain() -> None:
    page = as_markdown(study(detector(), detector("faster_rcnn")))
    assert "`harvester study --config study` (harvester 0, settings h)" in page
    assert "Of 1 certified harvests (archive and seed) 100 % [20, 100] are at least 90 % right" in page
    assert "| *self training* | what it is | 0.600 | -10.0 [-12.0 to -8.0] |" in page
    assert "1 seeds; 5 unmarked lesions of 2 patients in all" in page
    assert "| fcos | + harvest | 0.310 | 0.290 to 0.330 | 0.155 |" in page
    assert "| faster_rcnn | gap to the full truth closed, % | +40.0 | 38.0 to 42.0 |" in page
    assert "is worth +0.12 [-1.88 to 2.12] points of AP" in page
    assert "truth_p90" not in page and max(map(len, page.splitlines())) < 400


def test_without_detectors_truth_or_intervals() -> None:
    page = as_markdown(study())
    assert "Detectors" not in page and "self training" in page
    bare = as_markdown(study(detector(known=False, around=None)))
    assert "| full truth |" not in bare and "nan" not in bare and "| fcos | + harvest | 0.310 |" in bare


def test_the_headline_table_has_a_column_for_each_label_set_there_is() -> None:
    lines = headline_table(study(detector(), detector("mine", known=False))).splitlines()
    assert lines[0].endswith("| + harvest | + hard negatives | full truth |")
    assert lines[2].startswith("| phantoms | fcos | 0.15 |") and lines[3].endswith("| 0.31 | 0.42 |  |")


def test_the_pictures_are_drawn_whatever_is_known() -> None:
    for done in (study(), study(detector()), study(detector(known=False, around=None))):
        assert study_picture(done).startswith(b"\x89PNG")
    for each in (detector(), detector(known=False, around=None)):
        done = Retraining(
            command="", run_id="", data_hash="", settings={}, seeds=1, labels={}, volumes=1, patients=1, lesions=1,
            seconds=1.0, detectors=(each,),
        )  # fmt: skip
        assert retraining_picture(done).startswith(b"\x89PNG")
