"""Real lesions as a test of their own: boxes of masks, what counts as found and as false, whose weights propose."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from benchmarks import real_lesions
from benchmarks.real_lesion_pictures import nearest
from benchmarks.real_scans import WHOLE, Lesion, grown, left_out, lesions_of, marks_of, read_scan, slice_boxes
from harvester.config.loading import dump, resolve
from harvester.datasets.insertion.backgrounds import Background
from harvester.evaluation.matching import overlaps
from harvester.labels.folds import patient_folds
from harvester.records import IGNORE, TUBELETS, IgnoreTable, TubeletTable, Volume
from tests.builders import made_store, tubelet

DATA = Path(os.environ.get("HARVESTER_DATA", Path(__file__).parents[3] / "shared" / "data")) / "ct"
NORMAL = "chest_covmd_normal001"


def test_a_mask_gives_a_box_a_slice_and_the_largest_is_the_key() -> None:
    mask = np.zeros((5, 20, 20), bool)
    mask[1, 4:8, 5:7] = mask[2, 3:9, 4:10] = True
    assert slice_boxes(mask) == {1: (5, 4, 6, 7), 2: (4, 3, 9, 8)}
    lesion = grown("lung_1", slice_boxes(mask), (5.0, 2.0, 1.0))  # 4 mm are 2 rows and 4 columns
    assert lesion.boxes == {1: (1, 2, 10, 9), 2: (0, 1, 13, 10)}
    assert lesion.key == 2
    assert (
        lesion.holds(1, (9, 0, 11, 10)) and not lesion.holds(1, (12, 0, 13, 10)) and not lesion.holds(3, (4, 4, 5, 5))
    )


def test_disease_and_the_surroundings_of_lesions_are_left_out() -> None:
    volume = Volume("lung_1", "p", np.zeros((40, 50, 50), np.int16), (5.0, 2.0, 1.0))
    avoided = Background(id="a", file=Path("a"), patient="a", role="vm", avoid_mm=((10, 20, 4, 8, 3, 5),))
    lesion = Lesion("lung_1", {20: (20.0, 20.0, 24.0, 26.0), 21: (22.0, 20.0, 30.0, 24.0)})
    known, near = left_out(volume, [lesion], avoided)
    assert known == {"volume_id": "lung_1", "z1": 2, "z2": 3, "x1": 2.5, "x2": 4.5, "y1": 1.5, "y2": 3.5}
    assert near == {"volume_id": "lung_1", "z1": 18, "z2": 23, "x1": 10.0, "x2": 40.0, "y1": 15.0, "y2": 31.0}
    assert left_out(volume, [], None) == []


def found(scan: str, box: tuple[float, float, float, float], score: float) -> dict[str, Any]:
    return {name: value for name, value in tubelet(scan, box, lpg_score=score).items() if name in TUBELETS.names}


def judged(rows: list[dict[str, Any]], lesions: list[Lesion], regions: list[dict[str, Any]]) -> list[list[float]]:
    """False positives a scan at which each lesion is found, strictly and loosely."""
    tubelets = TubeletTable(pa.Table.from_pylist(rows, TUBELETS))
    ignored = IgnoreTable(pa.Table.from_pylist(regions, IGNORE))
    exact = overlaps(tubelets, marks_of(lesions))
    strict = real_lesions.judge(tubelets, lesions, exact, 0.5, ignored)
    loose = real_lesions.judge(tubelets, lesions, real_lesions.loosely(rows, lesions, exact), 0.3, ignored)
    for outcome in (strict, loose):
        at_rates = (outcome.false_positives[:, None] <= real_lesions.RATES).mean(axis=0)
        assert outcome.sensitivity.tolist() == at_rates.tolist()
        assert (outcome.interval[0] <= outcome.sensitivity).all() and (outcome.sensitivity <= outcome.interval[1]).all()
    return [outcome.false_positives.tolist() for outcome in (strict, loose)]


def test_false_positives_are_those_of_whole_scans_outside_what_is_left_out() -> None:
    lesions = [Lesion("lung_1", {5: (10.0, 10.0, 29.0, 29.0)}), Lesion("sts_008", {5: (10.0, 10.0, 29.0, 29.0)})]
    region = {"volume_id": NORMAL, "z1": 0, "z2": 9, "x1": 60.0, "x2": 80.0, "y1": 60.0, "y2": 80.0}
    rows = [
        found(NORMAL, (10, 10, 20, 20), 0.9),
        found(NORMAL, (65, 65, 75, 75), 0.9),  # disease
        found("sts_008", (50, 50, 60, 60), 0.9),  # a crop round a sarcoma
        found("lung_1", (10, 10, 29, 27), 0.8),
        found("lung_1", (60, 60, 70, 70), 0.7),
        found("sts_008", (10, 10, 29, 25), 0.6),
    ]
    assert judged(rows, lesions, [region])[0] == [1 / len(WHOLE), 2 / len(WHOLE)]


def test_a_box_in_the_middle_of_a_lesion_finds_it_loosely_alone() -> None:
    lesions = [Lesion("lung_1", {5: (10.0, 10.0, 49.0, 49.0)}), Lesion("lung_2", {5: (10.0, 10.0, 29.0, 29.0)})]
    rows = [found("lung_1", (20, 20, 29, 29), 0.9), found("lung_2", (10, 10, 29, 17), 0.8)]
    rows[0]["slice_score"] = [0.1, 0.9, 0.2]  # best on the lesion's slice
    strict, loose = judged(rows, lesions, [])
    assert strict == [np.inf, np.inf]
    assert loose == [0.0, 0.0]
    assert judged([], lesions, []) == [[np.inf, np.inf]] * 2


def test_the_nearest_proposal_overlaps_most_or_else_is_closest() -> None:
    lesion = Lesion("lung_1", {5: (10.0, 10.0, 29.0, 29.0)})
    far, near, other = (
        found("lung_1", (80, 80, 90, 90), 0.9),
        found("lung_1", (40, 10, 50, 29), 0.3),
        found("lung_2", (10, 10, 29, 29), 0.9),
    )
    assert nearest(lesion, [far, near, other]) == (0.0, 0.3, (40, 10, 50, 29))
    assert nearest(lesion, [far, near, found("lung_1", (10, 10, 29, 19), 0.2)]) == (0.5, 0.2, (10, 10, 29, 19))
    assert nearest(lesion, [other]) is None


def test_a_patient_is_proposed_by_the_newest_models_that_never_saw_it(tmp_path: Path) -> None:
    store = made_store(tmp_path / "store", dict.fromkeys("abcd", "vm"))
    settings = resolve(None, ["folds=2"])
    (tmp_path / "settings.yaml").write_text(dump(settings))
    for folder in ("round-0/generator-b", "round-1/generator-a"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "fold-0.safetensors").touch()
    _, files = real_lesions.of_run(tmp_path, None)
    newest, folds = tmp_path / "round-1" / "generator-a", patient_folds(store.manifest.to_pylist(), 2, settings.seed)
    for patient in ("p-a", "p-b", "p-c", "p-d"):
        assert files(patient) == [newest / f"fold-{folds[patient]}.safetensors"]
    assert files("nobody") == [newest / "fold-0.safetensors", newest / "fold-1.safetensors"]


@pytest.mark.parametrize(("scan", "listed"), [("chest_nsclcrg_r01001", "lesions"), ("chest_lidc0002", "nodules")])
def test_a_mask_holds_the_annotated_boxes(scan: str, listed: str) -> None:
    if not DATA.is_dir():
        pytest.skip("real CT is absent: set HARVESTER_DATA or put shared/data beside the repository")
    volume = read_scan(DATA, scan, "p")
    (annotated,) = json.loads((DATA / f"{scan}.{listed}.json").read_text())[listed]
    slices = annotated.get("nifti_slices", annotated["slices"])
    boxes = {row["z"]: row.get("box_xyxy") or row["box_xyxy_union"] for row in slices}
    assert lesions_of(DATA, volume) == [grown(scan, boxes, volume.spacing_zyx_mm)]
