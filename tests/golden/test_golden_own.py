"""Our own golden case, in own/: what the job prints to JSON equals figures that a slow, obvious version worked out.

`python tests/golden/test_golden_own.py` makes the files of own/ again (same seed, same bytes).
"""

import csv
import json
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

OWN = Path(__file__).parent / "own"
RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
P3D = ("x1", "y1", "x2", "y2")
BOX3D = ("x1", "y1", "z1", "x2", "y2", "z2")
Row = dict[str, Any]
Point = tuple[int, int, int]


def common_and_sizes(a: list[float], b: list[float]) -> tuple[float, float, float]:
    """What two boxes (low ends, then high ends, all inclusive) have in common, and their own sizes."""
    axes = len(a) // 2
    sides = [min(a[i + axes], b[i + axes]) - max(a[i], b[i]) + 1 for i in range(axes)]
    sizes = [prod(box[i + axes] - box[i] + 1 for i in range(axes)) for box in (a, b)]
    return prod(max(side, 0) for side in sides), sizes[0], sizes[1]


def iou(a: list[float], b: list[float]) -> float:
    common, size_a, size_b = common_and_sizes(a, b)
    return common / (size_a + size_b - common)


def iobb(a: list[float], b: list[float]) -> float:
    return common_and_sizes(a, b)[0] / common_and_sizes(a, b)[1]


def iogt(a: list[float], b: list[float]) -> float:
    return common_and_sizes(a, b)[0] / common_and_sizes(a, b)[2]


def p3d_iou(tubelet: Row, mark: Row) -> float:
    for box in tubelet["boxes"]:
        if tubelet["volume_id"] == mark["volume_id"] and box["z"] == mark["z"]:
            return iou([box[side] for side in P3D], [mark[side] for side in P3D])
    return 0.0


def in_3d(metric: Callable[[list[float], list[float]], float]) -> Callable[[Row, Row], float]:
    def overlap(detection: Row, mark: Row) -> float:
        if detection["volume_id"] != mark["volume_id"]:
            return 0.0
        return metric([detection[side] for side in BOX3D], [mark[side] for side in BOX3D])

    return overlap


def visit(
    detections: list[Row], marks: list[Row], overlap: Callable[[Row, Row], float], threshold: float
) -> list[Point]:
    """(marks hit, false positives of FROC, of AP) after each detection, best score first."""
    hit: set[int] = set()
    fp_froc = fp_ap = 0
    points = []
    for detection in sorted(detections, key=lambda row: -row["score"]):
        over = [j for j, mark in enumerate(marks) if overlap(detection, mark) >= threshold]
        if not over:
            fp_froc, fp_ap = fp_froc + 1, fp_ap + 1
        for j in over:
            fp_ap += j in hit
            hit.add(j)
        points.append((len(hit), fp_froc, fp_ap))
    return points


def area(points: list[Point], num_marks: int) -> float:
    """For each further recall, its width times the best precision from there on."""
    total, before = 0.0, 0
    for at, (tp, _, _) in enumerate(points):
        best = max(later / (later + fp) for later, _, fp in points[at:])
        total += (tp - before) / num_marks * best
        before = tp
    return total


def figures(points: list[Point], num_marks: int, num_volumes: int, lens: bool) -> dict[str, Any]:
    """Of a step curve: the last point before a rate is reached; by LENS' rule, a point at the rate counts too."""
    sensitivity = []
    for rate in RATES[:7] if lens else RATES:
        before = [tp for tp, fp, _ in points if fp / num_volumes < rate or (lens and fp / num_volumes == rate)]
        sensitivity.append(max(before, default=0) / num_marks)
    tp, fp_froc, fp_ap = points[-1]
    return {
        "num_marks": num_marks,
        "num_volumes": num_volumes,
        "num_tubelets": len(points),
        "tp": tp,
        "fp_froc": fp_froc,
        "fp_ap": fp_ap,
        "ap": area(points, num_marks),
        "sensitivity": sensitivity,
        "mean": sum(sensitivity[:7]) / 7,
    }


def read(name: str) -> list[Row]:
    with (OWN / name).open(newline="") as lines:
        return [
            {key: value if key.endswith("_id") else float(value) for key, value in row.items()}
            for row in csv.DictReader(lines)
        ]


def tubelets() -> list[Row]:
    by_id: dict[tuple[str, str], Row] = {}
    for row in read("tubelets.csv"):
        key = row["volume_id"], row["tubelet_id"]
        tubelet = by_id.setdefault(key, {"volume_id": key[0], "boxes": [], "score": -1.0})
        tubelet["boxes"].append(row)
        tubelet["score"] = max(tubelet["score"], row["score"])
    return list(by_id.values())


def slow() -> dict[str, dict[str, Any]]:
    """The expected figures of every case."""
    volumes = len((OWN / "volumes.txt").read_text().split())
    marks, boxes, detections = read("marks.csv"), read("boxes3d.csv"), read("detections3d.csv")
    scores = {"p3d_iou": figures(visit(tubelets(), marks, p3d_iou, 0.5), len(marks), volumes, lens=False)}
    for name, metric in {"iobb": iobb, "iou": iou, "iogt": iogt}.items():
        points = visit(detections, boxes, in_3d(metric), 0.3)
        scores[name] = figures(points, len(boxes), volumes, lens=True)
    return scores


def same(got: dict[str, Any], want: dict[str, Any], tolerance: float) -> None:
    for name, value in want.items():
        if isinstance(value, int):
            assert got[name] == value, name
        else:
            np.testing.assert_allclose(got[name], value, rtol=0, atol=tolerance, err_msg=name)


def test_the_slow_version_still_gives_the_expected_figures() -> None:
    want = json.loads((OWN / "expected.json").read_text())
    for case, scores in slow().items():
        same(scores, want[case], 1e-12)
        # The case is worth something: repeats, double hits, points that stand exactly at a rate.
        assert scores["fp_ap"] > scores["fp_froc"]
        assert scores["num_volumes"] == 16


@pytest.mark.parametrize("case", ["p3d_iou", "iobb", "iou", "iogt"])
def test_the_job_gives_the_expected_figures(case: str, tmp_path: Path, evaluate: Callable[..., dict[str, Any]]) -> None:
    want = json.loads((OWN / "expected.json").read_text())[case]
    volumes = ("--volumes", OWN / "volumes.txt", "--resamples", "0")
    if case == "p3d_iou":
        got = evaluate("--marks", OWN / "marks.csv", "--tubelets", OWN / "tubelets.csv", *volumes)
    else:
        files = ("--marks", OWN / "boxes3d.csv", "--tubelets", OWN / "detections3d.csv")
        got = evaluate(*files, "--boxes3d", "--metric", case, *volumes)
    same(got, want, 1e-9)


def make() -> None:
    """Write own/: 16 volumes, two without a mark; marks, detections on, beside and off them."""
    rng = np.random.default_rng(20240501)
    names = [f"{n // 2 + 1:06d}_01_01_{10 * n + 1:03d}-{10 * n + 20:03d}" for n in range(16)]
    boxes: list[Row] = []
    low, side = np.zeros(3, np.int64), np.ones(3, np.int64)
    for number in range(60):
        twin = number % 10 == 9  # overlaps the mark before it: one detection can find both
        if not twin:
            low, side = rng.integers(0, (80, 80, 14)), rng.integers((8, 8, 2), (40, 40, 5))
        ends = [int(v) for v in (*(low + twin), *(low + side - 1))]
        name = boxes[-1]["volume_id"] if twin else names[int(rng.integers(14))]
        boxes.append({"volume_id": name} | dict(zip(BOX3D, ends, strict=True)))
    scores = (rng.permutation(250) + 1) / 251
    detections = [{**moved(rng, boxes, names), "score": round(float(score), 6)} for score in scores]
    write("boxes3d.csv", boxes)
    write("detections3d.csv", detections)
    write(
        "marks.csv",
        [{"volume_id": b["volume_id"], "z": (b["z1"] + b["z2"]) // 2} | {s: b[s] for s in P3D} for b in boxes],
    )
    write("tubelets.csv", [row for number, d in enumerate(detections) for row in slices(rng, number, d)])
    (OWN / "volumes.txt").write_text("\n".join(names) + "\n")
    (OWN / "expected.json").write_text(json.dumps(slow(), indent=1) + "\n")


def moved(rng: np.random.Generator, boxes: list[Row], names: list[str]) -> Row:
    """A box near a marked one, or anywhere."""
    like = boxes[int(rng.integers(len(boxes)))]
    spread = rng.choice([0.5, 2.0, 5.0, 40.0])
    shift = rng.normal(0, spread, 3) * (1, 1, 0.15)
    grown = rng.normal(0, spread / 3, 3) * (1, 1, 0.15)
    low = [max(like[f"{axis}1"] + shift[i] - grown[i], 0) for i, axis in enumerate("xyz")]
    high = [like[f"{axis}2"] + shift[i] + grown[i] for i, axis in enumerate("xyz")]
    ends = [*low, *(max(a, b) for a, b in zip(low, high, strict=True))]
    name = like["volume_id"] if spread < 10 else names[int(rng.integers(16))]
    return {"volume_id": name} | {side: round(float(end), 3) for side, end in zip(BOX3D, ends, strict=True)}


def slices(rng: np.random.Generator, number: int, box: Row) -> Iterator[Row]:
    """The box's slices as a tubelet whose best slice has the box's score."""
    first, last = round(box["z1"]), max(round(box["z1"]), round(box["z2"]))
    best = int(rng.integers(first, last + 1))
    for z in range(first, last + 1):
        score = box["score"] if z == best else round(box["score"] * float(rng.uniform(0.3, 0.9)), 6)
        yield (
            {"volume_id": box["volume_id"], "tubelet_id": number, "z": z} | {s: box[s] for s in P3D} | {"score": score}
        )


def write(name: str, rows: list[Row]) -> None:
    with (OWN / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    make()
