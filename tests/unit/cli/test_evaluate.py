"""harvester evaluate as a user calls it: what it prints, writes and refuses, and with which exit code."""

import json
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from harvester.cli.evaluate import main

OWN = Path(__file__).parents[2] / "golden" / "own"
P3D = ("--marks", OWN / "marks.csv", "--tubelets", OWN / "tubelets.csv", "--volumes", OWN / "volumes.txt")


def call(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def figures(folder: Path, *arguments: object) -> dict[str, Any]:
    assert call(*P3D, *arguments, "--json", folder / "out" / "figures.json") == 0
    tree: dict[str, Any] = json.loads((folder / "out" / "figures.json").read_text())
    return tree


def test_table_json_and_plots_come_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = figures(tmp_path, "--by", "size", "--accept", "0.5", "--resamples", "40", "--plots", tmp_path / "plots")
    said = capsys.readouterr().out
    assert "60 marks in 16 volumes of 8 patients (volume_id up to its first _)" in said
    assert "40 resamples of patients, seed 0; 8 patients are few" in said
    assert "sensitivity at 1/8 FP" in said
    assert found["intervals"]["ap"][0] <= found["ap"] <= found["intervals"]["ap"][1]
    assert len(found["intervals"]["sensitivity"]) == len(found["sensitivity"]) == 8
    assert found["precision"] == found["correct"] / found["accepted"]
    assert found["recall"] == found["found"] / found["num_marks"]
    sizes = found["strata"]["size"]
    assert sizes["unit"] == "px"
    assert sum(one["num_marks"] for one in sizes["strata"]) == found["num_marks"]
    assert sum(one["tp"] for one in sizes["strata"]) == found["tp"]
    for name in ("froc.png", "precision_recall.png"):
        assert (tmp_path / "plots" / name).read_bytes().startswith(b"\x89PNG")


def test_a_run_is_no_better_than_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = figures(tmp_path, "--baseline", OWN / "tubelets.csv", "--resamples", "30", "--by", "size")
    assert found["baseline"]["ap"] == found["ap"]
    assert found["difference"]["ap"] == {"value": 0.0, "interval": [0.0, 0.0], "share_at_most_0": 1.0}
    assert "share <= 0" in capsys.readouterr().out
    assert all(one["difference"]["mean"]["value"] == 0 for one in found["strata"]["size"]["strata"])


def test_a_worse_baseline_shows_in_a_paired_difference(tmp_path: Path) -> None:
    lines = (OWN / "tubelets.csv").read_text().splitlines()
    worse = tmp_path / "worse.csv"
    astray = [",".join([*row.split(",")[:3], "1", "1", "2", "2", row.split(",")[7]]) for row in lines[1::2]]
    ids = {tuple(row.split(",")[:3]) for row in lines[1::2]}
    worse.write_text(
        "\n".join([lines[0], *astray, *(r for r in lines[2::2] if tuple(r.split(",")[:3]) not in ids)]) + "\n"
    )
    found = figures(tmp_path, "--baseline", worse, "--resamples", "50", "--seed", "3")
    assert found["difference"]["ap"]["value"] == found["ap"] - found["baseline"]["ap"] > 0
    assert found["difference"]["ap"]["share_at_most_0"] == 0.0
    again = figures(tmp_path, "--baseline", worse, "--resamples", "50", "--seed", "3")
    assert again == found


def test_without_resamples_there_are_no_intervals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert figures(tmp_path, "--resamples", "0", "--baseline", OWN / "tubelets.csv")["intervals"] == {}
    assert "interval" not in capsys.readouterr().out


def test_undefined_figures_are_null(tmp_path: Path) -> None:
    assert figures(tmp_path, "--accept", "2", "--resamples", "5")["precision"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--metric", "iou"), 2, "--metric iou is for --boxes3d"),
        (("--threshold", "1.5"), 2, "--threshold 1.5: want an overlap in"),
        (("--threshold", "nan"), 2, "--threshold nan"),
        (("--by", "colour"), 2, "--by colour: the marks have no such column"),
        (("--resamples", "-1"), 2, "resamples = -1"),
        (("--score", "lpc_score"), 1, "tubelets.csv: no column lpc_score"),
        (("--boxes3d",), 1, "marks.csv: no column z1, z2"),
        (("--json", OWN), 1, ".*cannot be written"),
        (("--plots", OWN / "marks.csv"), 1, ".*cannot be written"),
    ],
)
def test_what_cannot_be_scored_is_one_line_and_an_exit_code(
    arguments: tuple[object, ...], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*P3D, "--resamples", "0", *arguments) == code
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.search(message, said)


class Command:
    """Pickles as a command."""

    def __init__(self, line: str) -> None:
        self.line = line

    def __reduce__(self) -> Any:
        return os.system, (self.line,)


def test_a_pickle_with_a_command_is_refused_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    marks, trace = tmp_path / "marks.pkl", tmp_path / "ran"
    marks.write_bytes(pickle.dumps({"a": {0: [Command(f"touch {trace}")]}}))
    assert call("--marks", marks, "--tubelets", OWN / "tubelets.csv") == 1
    assert "names posix.system" in capsys.readouterr().err
    assert not trace.exists()


def test_a_pickle_that_is_cut_short_is_a_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    marks = tmp_path / "marks.pkl"
    marks.write_bytes(pickle.dumps({"a": {0: [[1.0, 1.0, 5.0, 5.0, 0, 0]]}})[:-9])
    assert call("--marks", marks, "--tubelets", OWN / "tubelets.csv") == 1
    assert "marks.pkl: cut short or not a pickle" in capsys.readouterr().err


def test_published_3d_boxes_and_a_published_harvest_are_scored_under_any_form_of_their_ids(tmp_path: Path) -> None:
    """A detection on each of two boxes; ids with a dash, and with .annot."""
    first, second = "000001_01_01_003-040", "000002_01_01_001-009"
    boxes = {first: [[1.0, 2.0, 9.0, 9.0, 3.0, 5.0]], f"{second}.annot": [[1.0, 2.0, 9.0, 9.0, 3.0, 5.0]]}
    (tmp_path / "boxes.pkl").write_bytes(pickle.dumps(boxes))
    header, sides = "volume_id,x1,y1,z1,x2,y2,z2,score\n", "1,2,3,9,9,5"
    (tmp_path / "found.csv").write_text(
        f"{header}{first.replace('_003', '-003')},{sides},0.9\n{second}.annot,{sides},0.8\n"
    )
    files = ("--marks", tmp_path / "boxes.pkl", "--tubelets", tmp_path / "found.csv")
    found = scored(tmp_path, "--boxes3d", "--metric", "iou", *files)
    assert (found["num_volumes"], found["num_marks"], found["tp"], found["fp_froc"]) == (2, 2, 2, 0)

    marks = {f"{first}.annot": {4: [[1.0, 2.0, 9.0, 9.0, 4, 4]]}, second: {}}
    mined = {first: [[(4, [1.0, 2.0, 9.0, 9.0, 0.9])], [(7, [1.0, 2.0, 9.0, 9.0, 0.8])]]}
    (tmp_path / "marks.pkl").write_bytes(pickle.dumps(marks))
    (tmp_path / "mined.pkl").write_bytes(pickle.dumps(mined))
    found = scored(tmp_path, "--marks", tmp_path / "marks.pkl", "--tubelets", tmp_path / "mined.pkl")
    assert (found["num_volumes"], found["num_marks"], found["tp"], found["fp_froc"]) == (2, 1, 1, 1)


def scored(folder: Path, *arguments: object) -> dict[str, Any]:
    assert call(*arguments, "--resamples", "0", "--json", folder / "figures.json") == 0
    tree: dict[str, Any] = json.loads((folder / "figures.json").read_text())
    return tree


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ("volume_id,z,x1,y1,x2,y2,x1", "marks.csv: two columns are called x1; keep one"),
        ("volume_id,z,x1,y1,x2,y2,patientid", "marks.csv: no such column: patientid, did you mean patient_id?"),
    ],
)
def test_a_doubled_or_misspelt_column_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], head: str, said: str
) -> None:
    (tmp_path / "marks.csv").write_text(f"{head}\nv,1,1,1,5,5,9\n")
    assert call("--marks", tmp_path / "marks.csv", "--tubelets", OWN / "tubelets.csv") == 1
    line = capsys.readouterr().err
    assert said in line and line.count("\n") == 1
