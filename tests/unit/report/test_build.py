"""The report on a tiny made run: whole, without truth, without lesions; pictures in the right place."""

import base64
import io
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.figure import Figure
from PIL import Image

from harvester.certificate.frontier import Frontier, FrontierRow
from harvester.certificate.selection import LEFT_TO_AUDIT
from harvester.config.settings import ReportSettings, Settings
from harvester.records import HARVEST, MARKS, MISSING, HarvestTable, Mark, MarkTable, MissingTable, Volume
from harvester.report.build import BOUND, ReportInputs, build, write_report, yields
from harvester.report.gallery import outline, sample_evenly
from harvester.report.pictures import Outline, slices_to_show, strip, window_for
from harvester.report.plots import FRONTIER_COLOURS, frontier_picture, legend_below
from harvester.report.sections import likeness, missing
from harvester.report.templates import piece
from harvester.report.words import closing_table, sentence, warnings
from harvester.run.summary import Summary
from harvester.storage.location import Location
from harvester.store.store import Store
from tests.builders import label, labels, made_store
from tests.summaries import summary_tree

SPACING = (4.0, 2.0, 2.0)
BOX = (30.0, 20.0, 37.0, 29.0)
SIDES = ("x1", "y1", "x2", "y2")
SENTENCE = "2 unmarked lesions harvested in 2 volumes at a precision certified to be at least 0.9 (95 % confidence)"


def volume(name: str, around_hu: int = 40) -> Volume:
    hu = np.full((9, 64, 72), around_hu, np.int16)
    hu[3:6, 20:30, 30:38] = 60
    return Volume(name, f"p-{name}", hu, SPACING)


def mark(name: str, mark_id: str, clinical: bool) -> Mark:
    return Mark(name, mark_id, 4, *BOX, clinical, "node")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("store")
    splits = {"v-m": "vm", "v-a": "vh_test", "v-b": "vh_test"}
    hidden = [mark("v-a", "t1", False), mark("v-b", "t2", False)]
    clinical = [mark("v-m", "m1", True), mark("v-m", "m2", False), mark("v-a", "c1", True)]
    return made_store(folder, splits, clinical, [*hidden, clinical[2]], volume("v").hu_zyx, SPACING)


def lesion(name: str, lesion_id: str, score: float) -> dict[str, Any]:
    boxes = {f"{side}_px": [value] * 3 for side, value in zip(SIDES, BOX, strict=True)}
    origin = {"round": 0, "threshold": 0.8, "precision_bound": 0.912, "lpg_score": 0.5, "lpc_score": 0.9}
    return {"volume_id": name, "lesion_id": lesion_id, "score": score, "z": [3, 4, 5], **boxes, **origin}


def summary(lesions: int, known: bool) -> Summary:
    """One round; without lesions refused, without truth not measured."""
    tree = summary_tree(harvested=lesions)
    tree["config"] = "tiny <&>"
    for row in (tree["rounds"][0], tree["final"]):
        row |= {"precision": 0.5 if known and lesions else None, "recall_unmarked": 0.25 if known else None}
        row |= {"threshold": 0.8 if lesions else None, "precision_bound": 0.912 if lesions else 0.71}
        row["lpg_sensitivity"] = row["lpg_sensitivity"] if known else None
    tree["rounds"][0]["refused"] = "" if lesions else "target 0.900 not reached"
    return Summary.model_validate(tree)


def inputs(store: Store, folder: Path, lesions: int, known: bool) -> ReportInputs:
    found = [lesion("v-a", "l<1>", 0.95), lesion("v-b", "l2", 0.85)][:lesions]
    origin = {"source": "hard_negative_vm", "round": 0, "score": 0.7}
    negatives = [label("v-m", BOX, "hard_negative", z=[2], label_id=f"n{i}", **origin) for i in range(3)]
    line = (np.array([0.0, 1.0, 4.0]), np.array([0.0, 0.4, 0.6]))
    curves = [{"name": "round 0: LPG + LPC", "froc": line, "precision_recall": line}] if known else []
    missed = [row for row in store.truth().to_pylist() if row["mark_id"] == "t2"] if known else []
    less = [
        {"volume_id": name, "patient_id": "p", "split": "vh", "marked": 1, "harvested": 1, "expected_more": more}
        | {"expected_missing": 1 + more, "best_left": more}
        for name, more in (("v-a", 0.75), ("v-b", 0.25))
    ]
    return ReportInputs(
        folder=Location.of(folder),
        store=store,
        settings=Settings(name="tiny", report=ReportSettings(gallery=4)),
        summary=summary(lesions, known),
        harvest=HarvestTable(pa.Table.from_pylist(found, HARVEST)),
        unproven=HarvestTable(pa.Table.from_pylist([lesion("v-a", "l<1>", 0.75)], HARVEST)),
        negatives=labels(*negatives),
        correct={("v-a", "l<1>"): True, ("v-b", "l2"): False} if known else {},
        missed=MarkTable(pa.Table.from_pylist(missed, MARKS)),
        missing=MissingTable(pa.Table.from_pylist(less, MISSING)),
        curves=curves,
    )


@pytest.fixture(scope="module")
def whole(store: Store, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = write_report(inputs(store, tmp_path_factory.mktemp("run"), 2, known=True))
    assert path.name == "report.html"
    assert path.parent.files() == ["guide.html", "report.html"]
    return path.read_text()


def headings(html: str) -> list[str]:
    return re.findall("<h2>(.*?)(?: <a|</h2>)", html)


def test_page_says_what_was_done(whole: str) -> None:
    assert SENTENCE in whole
    assert "not proven" not in whole
    assert headings(whole) == [
        "How sure is it?",
        "Found lesions",
        "What next?",
        "Round by round",
        "Wrong ones",
        "Misses",
        "Hardest negatives",
        "What the certificate rests on",
        "Is V_H like V_M?",
        "Ablations",
        "Volumes that miss the most",
        "The archive",
        "Time",
        "Settings",
    ]
    assert '<b class="right">right</b>' in whole
    assert '<b class="wrong">wrong</b>' in whole
    assert "13.5" in whole  # slices a second
    assert "precision_bound" not in whole


def test_page_stands_alone_and_is_escaped(whole: str) -> None:
    assert "tiny &lt;&amp;&gt;" in whole
    assert "tiny <&>" not in whole
    loaded = re.findall('(?:src|<image href)="(.{5})', whole)
    assert loaded and set(loaded) == {"data:"}
    links = set(re.findall('<a [^>]*href="([^"]*)"', whole))
    own = {link[1:] for link in links if link.startswith("#")}
    assert own and own <= set(re.findall('<section id="([^"]*)"', whole))
    assert {link.partition("#")[0] for link in links} == {"", "guide.html"}
    assert "<script" not in whole


def test_every_tag_is_closed(whole: str) -> None:
    for name in (
        "main",
        "section",
        "table",
        "tr",
        "figure",
        "svg",
        "image",
        "rect",
        "div",
        "span",
        "details",
        "ul",
        "p",
        "dl",
    ):
        assert len(re.findall(f"<{name}[ >]", whole)) == whole.count(f"</{name}>"), name


def test_one_hard_negative_per_volume(whole: str) -> None:
    assert whole.count('aria-label="hard negative in v-m, slice 2"') == 1


def test_same_inputs_same_bytes(store: Store, tmp_path: Path, whole: str) -> None:
    assert build(inputs(store, tmp_path, 2, known=True)) == whole


def test_every_rounds_list_is_drawn_and_the_last_ones_reason_is_told() -> None:
    tree = summary_tree(harvested=0)
    first = tree["rounds"][0] | {"harvested": 5, "test_harvested": 3, "test_correct": 2, "refused": "of round 0"}
    unknown = first | {"round": 1, "test_correct": None, "refused": "of round 1"}
    tree["rounds"] = [first, unknown]
    told = Summary.model_validate(tree)
    assert yields(told) == {0: {"right": 2, "wrong": 1, "unknown": 2}, 1: {"right": 0, "wrong": 0, "unknown": 5}}
    assert sentence(told, Settings().operating_point, 2) == "Nothing was harvested: of round 1."


def test_nothing_harvested_and_no_truth(store: Store, tmp_path: Path) -> None:
    html = build(inputs(store, tmp_path, 0, known=False))
    assert "Nothing was harvested" in html
    assert "target 0.900 not reached" in html
    assert "Misses" not in headings(html)
    assert "Wrong ones" not in headings(html)
    assert "What the point estimate would have taken" in headings(html)
    assert "proposal that is not proven in v-a" in html
    assert "nan" not in re.sub('"data:[^"]*"', "", html)


def test_what_next_names_no_folder_of_this_machine(store: Store, tmp_path: Path, whole: str) -> None:
    assert "<code>harvester export --run RUN --to coco --out RUN-coco</code>" in whole
    assert "harvester audit --run RUN draw" in whole
    assert str(tmp_path) not in build(inputs(store, tmp_path, 0, known=False))


def test_harvest_without_truth(store: Store, tmp_path: Path) -> None:
    html = build(inputs(store, tmp_path, 2, known=False))
    assert "there is no hidden truth here" in html
    assert '<b class="right">' not in html


WARNINGS = (
    "Round 0: V_H looks harder than V_M: p = 0.004 (accepted per volume: 4, in V_M 1.5); audit it: ",
    "Round 0 left out 3 volumes that could not be read or scored (1 of V_M, 2 of V_H): see missing.csv and the log",
    "Round 0 left 1 of the tubelets that reach the threshold for review: V_M has shown no like of them (too many of ",
    "V_M has been looked at by 2 earlier runs with other settings; the promise is for one",
)


def test_what_weakens_the_promise_is_told_first_and_at_the_end(store: Store, tmp_path: Path, whole: str) -> None:
    given = inputs(store, tmp_path, 2, known=True)
    closing = closing_table(given.summary)
    for warning in WARNINGS:
        assert warning in closing
        assert warning in unescape(whole.split("<h2>")[0])
    assert "most accepted of one patient</th><td>3</td><td>41</td>" in whole
    assert "outside of the range that V_M shows: 5 by width in mm." in whole
    tree = summary_tree() | {"earlier_looks": 0}
    tree["rounds"][0] |= {
        "left_out": {},
        "left_for_review": {},
        "comparison": tree["rounds"][0]["comparison"] | {"p": 0.4},
    }
    assert warnings(Summary.model_validate(tree)) == []
    # Of an older summary nothing is known.
    for name in ("left_out", "comparison"):
        del tree["rounds"][0][name]
    del tree["earlier_looks"]
    assert (warnings(Summary.model_validate(tree)), likeness(Summary.model_validate(tree))) == ([], None)


def test_the_promise_is_the_target_and_the_larger_figure_is_named(whole: str) -> None:
    assert "<dt>certified precision</dt><dd>≥ 0.9</dd>" in whole
    assert whole.count(BOUND) == 2
    assert "What is promised is “at least 0.9” and no more." in whole


def test_what_is_missing_is_a_dash_where_nobody_knows() -> None:
    row = {"volume_id": "v", "marked": 1, "harvested": 0, "expected_more": None, "expected_missing": None}
    assert missing([row]) == [["v", "1 lesion", "0", "–", "–"]]


def test_closing_table_lines_up(store: Store, tmp_path: Path) -> None:
    lines = closing_table(inputs(store, tmp_path, 2, known=True).summary).splitlines()
    assert len({len(line) for line in lines[:5]}) == 1
    assert lines[0].split()[:4] == ["round", "LPG", "@1", "@4"]
    assert lines[2].split() == ["0", "0.10", "0.20", "0.30", "0.8000", "0.912", "2", "3", "0.500", "0.250"]
    assert "the limit of 1 rounds was reached; 1 min 5 s" in lines[-1]


def picture(html: str, index: int) -> Any:
    found = re.findall('href="data:image/png;base64,([^"]*)"', html)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(found[index]))))


def test_picture_shows_the_lesion_in_the_middle_where_the_box_is() -> None:
    slab = volume("v")
    subject = Outline(dict.fromkeys((3, 4, 5), BOX), "#00f")
    html = piece("strip", strip(slab, range(9), subject, [], "lesion"))
    assert html.count("<svg") == 9
    assert html.count("<rect") == 3
    grey = picture(html, 4)
    # 100 mm over 200 px of half a mm; the lesion is 16 by 20 mm: 32 by 40 px around the centre.
    bright = np.argwhere(grey > 135)
    assert np.abs(bright.mean(axis=0) - 99.5).max() < 1
    assert np.abs(np.ptp(bright, axis=0) + 1 - (40, 32)).max() <= 3
    assert 'x="60.00" y="40.00" width="16.00" height="20.00"' in html


def test_picture_at_the_corner_is_filled_with_air() -> None:
    subject = Outline({0: (0.0, 0.0, 4.0, 4.0)}, "#00f")
    grey = picture(piece("strip", strip(volume("v"), [0], subject, [], "lesion")), 0)
    assert grey[:80, :80].max() == 0
    assert grey[120:, 120:].min() > 100


@pytest.mark.parametrize(("around_hu", "window"), [(-850, "lung"), (40, "soft tissue")])
def test_window_follows_the_surroundings(around_hu: int, window: str) -> None:
    assert window_for(volume("v", around_hu), 0, Outline({4: BOX}, "#00f")) == window


@pytest.mark.parametrize(
    ("z", "depth", "wanted", "shown"),
    [
        ([4], 9, 3, [3, 4, 5]),
        ([0], 9, 3, [0, 1, 2]),
        ([8], 9, 3, [6, 7, 8]),
        ([2, 3, 4, 5], 9, 3, [2, 4, 5]),
        ([2, 3, 4, 5, 6], 9, 3, [3, 4, 5]),
        (list(range(10, 28)), 90, 3, [13, 18, 24]),
        ([2, 6], 9, 1, [3]),
        ([0, 1], 2, 5, [0, 1]),
    ],
)
def test_slices_to_show(z: list[int], depth: int, wanted: int, shown: list[int]) -> None:
    assert slices_to_show(z, depth, wanted) == shown


def test_outline_reads_all_three_kinds_of_row() -> None:
    single = {"z": 4, "x1": 1.0, "y1": 2.0, "x2": 3.0, "y2": 4.0}
    lists = {name: [value] for name, value in single.items()}
    pixels = {name if name == "z" else f"{name}_px": value for name, value in lists.items()}
    for kind in (single, lists, pixels):
        assert outline(kind, "#00f").boxes_xyxy_px == {4: (1.0, 2.0, 3.0, 4.0)}


def test_an_even_sample_keeps_both_ends() -> None:
    rows = pa.table({"n": range(10)})
    assert [row["n"] for row in sample_evenly(rows, 4)] == [0, 3, 6, 9]
    assert sample_evenly(rows, 0) == []
    assert sample_evenly(rows.slice(0, 2), 5) == [{"n": 0}, {"n": 1}]
    assert sample_evenly(rows.slice(0, 0), 5) == []


@pytest.mark.parametrize(("known", "width"), [(False, 600), (True, 1200)])
def test_the_frontier_is_one_picture_or_two_where_the_truth_is_known(known: bool, width: int) -> None:
    measured = (0.93, 0.5) if known else (None, None)
    rows = [
        FrontierRow(target, way, 0.5, target, 40, 0.95, 0.6, 30, *measured, "")
        for target in (0.8, 0.9)
        for way in ("certified", "point estimate")
    ]
    refused = FrontierRow(0.99, "certified", None, 0.9, 0, 0.0, 0.0, 0, None, None, "not reached")
    image = Image.open(io.BytesIO(frontier_picture(Frontier(0, [], [*rows, refused]))))
    assert image.size == (width, 480)
    pixels = np.asarray(image.convert("RGB"))
    for colour in FRONTIER_COLOURS.values():
        drawn = (pixels == [int(colour[at : at + 2], 16) for at in (1, 3, 5)]).all(-1)
        assert drawn[:, : 600 if known else None].any()
        assert not known or drawn[:, 600:].any()


@pytest.mark.parametrize("curves", [2, 8])
def test_a_legend_hides_no_curve_and_stays_in_the_picture(curves: int) -> None:
    figure = Figure(figsize=(4.6, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for k in range(curves):
        axes.plot([0, 1], [0, 0], label=f"round {k}: LPG + LPC")
    axes.set_xlabel("recall of unmarked lesions")
    legend_below(axes)
    figure.draw_without_rendering()
    legend, label = axes.get_legend().get_window_extent(), axes.xaxis.label.get_window_extent()
    assert not legend.overlaps(axes.get_window_extent()) and not legend.overlaps(label)
    assert figure.bbox.x0 <= legend.x0 and figure.bbox.y0 <= legend.y0 and legend.x1 <= figure.bbox.x1


def test_text_is_escaped_in_every_piece() -> None:
    assert '<th scope="row">a &lt; b</th><td>&amp;</td>' in piece("table", ["&"], [["a < b", "&"]])
    assert 'style="width:8.00rem"' in piece("table", ["", ""], [["x", piece("bar", 0.5)]])


def test_a_run_that_is_left_to_an_audit_shows_what_waits_and_what_to_do(store: Store, tmp_path: Path) -> None:
    given = inputs(store, tmp_path, 0, known=False)
    tree = given.summary.model_dump()
    tree["rounds"][0]["refused"] = LEFT_TO_AUDIT
    html = build(replace(given, summary=Summary.model_validate(tree)))
    assert "1 find to be looked at. Nothing is proven yet" in html
    assert f"The list ends at a score of {min(given.unproven['score'].to_pylist()):.2f}" in html
    assert headings(html)[:3] == ["How sure is it?", "Finds to be looked at", "What next?"]
    assert [line for line in ("draw", "certify") if f"harvester audit --run RUN {line}" in html] == ["draw", "certify"]
    assert not {"What the certificate rests on", "Ablations", "Volumes that miss the most"} & set(headings(html))
    links = {link[1:] for link in re.findall('<a href="(#[^"]*)"', html)}
    assert links <= set(re.findall('<section id="([^"]*)"', html))
