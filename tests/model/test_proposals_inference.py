"""A volume to tubelets in its own pixels, and tubelets to probabilities, with stand-ins for the fitted networks."""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from harvester.classifier import inference as classifier_inference
from harvester.classifier.crops import load_views
from harvester.classifier.network import Classifier
from harvester.config.models import ClassifierSettings, GeneratorSettings, GridSettings
from harvester.config.settings import Settings
from harvester.geometry import paired_iou
from harvester.models.batch_size import AutoBatchSize
from harvester.models.device import DeviceSpec
from harvester.proposals import inference
from harvester.proposals.boxes import SliceBoxes
from harvester.proposals.network import GROUPS
from harvester.proposals.targets import SlabLabels, build_targets
from harvester.records import TUBELETS
from harvester.store.slab import GridFrame
from harvester.store.store import Store
from tests.builders import tubelet

FLOAT = DeviceSpec(torch.device("cpu"), torch.float32)
GRID = GridSettings(windows_hu=((-1024.0, 1024.0),))
SETTINGS = Settings(grid=GRID, generator=GeneratorSettings(body_mask=False, stride=4))
Boxes = dict[int, list[tuple[float, ...]]]


class Answering(nn.Module):
    """In place of a Generator: what a perfect one would answer for these boxes of each grid slice.

    `heat_of_slice`: how sure it is there (1 elsewhere).
    """

    def __init__(self, boxes_on_grid: Boxes, heat_of_slice: dict[int, float] | None = None) -> None:
        super().__init__()
        self.boxes, self.heat_of_slice, self.z = boxes_on_grid, heat_of_slice or {}, 0

    def features(self, groups: Tensor) -> list[Tensor]:
        return [groups[:, :1, ::4, ::4]]

    def fuse_incremental(
        self, maps: list[Tensor], carry: list[Tensor] | None
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        depth, (rows, columns) = len(maps[0]) - (0 if carry else GROUPS[-1]), maps[0].shape[-2:]
        first, self.z = self.z, self.z + depth
        pairs = [(z - first, box) for z, boxes in self.boxes.items() for box in boxes if first <= z < first + depth]
        none = SliceBoxes.of()
        known = SlabLabels(SliceBoxes.of(pairs), none, none, np.ones(depth, np.float32))
        made = build_targets(known, 4 * rows, 4 * columns, 4)
        targets = {name: torch.from_numpy(values) for name, values in made.items()}
        for z, heat in self.heat_of_slice.items():
            if first <= z < first + depth:
                targets["heat"][z - first] *= heat
        heat = torch.logit(targets["heat"], eps=1e-4)
        return {"heat": heat, "size": targets["size"], "offset": targets["offset"]}, maps


def propose(
    models: list[Answering], store: Store, frame: GridFrame, settings: Settings = SETTINGS
) -> list[dict[str, Any]]:
    slab = inference.read_with_context(store.path, frame, FLOAT)
    return inference.tubelet_rows(
        inference.find_boxes(cast(Any, models), slab, frame, settings, FLOAT), frame, settings
    )


@pytest.mark.parametrize(
    "spacing", [(4.0, 1.6, 1.6), (2.0, 0.8, 0.8), (5.0, 0.9, 0.7), (8.0, 3.0, 3.0), (1.5, 1.0, 1.2)]
)
def test_a_box_of_the_volume_comes_back_in_its_pixels(
    make_store: Callable[..., Store], frames_of: Any, spacing: tuple[float, float, float]
) -> None:
    shape = tuple(round(mm / step) for mm, step in zip((48.0, 128.0, 112.0), spacing, strict=True))
    store = make_store({"v": ("vh", np.zeros(shape))}, spacing_zyx_mm=spacing)
    frame: GridFrame = frames_of(store, GRID)["v"]
    first = np.array([40.0 / spacing[2], 56.0 / spacing[1], 64.0 / spacing[2] - 1, 84.0 / spacing[1] - 1])
    # The lesion covers 16 to 32 mm, these slices of the volume and of the grid, and drifts by 2 mm a grid slice.
    own = [z for z in range(shape[0]) if 16 <= (z + 0.5) * spacing[0] < 32]
    z_grid = sorted({int(z) for z in frame.slices_of_px()[own]})
    drift = np.array([2.0 / spacing[2], 0, 2.0 / spacing[2], 0])
    truth = {z: first + (z - z_grid[0]) * drift for z in z_grid}
    model = Answering({z: [tuple(frame.boxes_to_grid(box))] for z, box in truth.items()})
    rows = propose([model], store, frame)
    assert len(rows) == 1
    row = rows[0]
    assert set(own) <= set(row["z"])
    # A grid slice stands for all of the volume's slices that are nearest to it.
    assert set(frame.slices_of_px()[row["z"]]) == set(z_grid)
    boxes = np.array([row[side] for side in ("x1", "y1", "x2", "y2")]).T
    expected = np.stack([truth[z] for z in frame.slices_of_px()[row["z"]]])
    assert paired_iou(boxes, expected).min() > 0.999
    assert row["width_mm"] == pytest.approx(24.0, abs=0.1)
    assert row["lpg_score"] == max(row["slice_score"])
    assert row["tubelet_id"] == 0
    assert pa.Table.from_pylist([row | {"patient_id": "p"}], TUBELETS).num_rows == 1


def test_a_tubelet_is_worth_what_its_kept_slices_are(make_store: Any, frames_of: Any) -> None:
    # Slices of 12 mm on a grid of 4 mm: grid slices 1, 4, 7 are some slice's nearest, the others are nobody's.
    store = make_store({"v": ("vh", np.zeros((3, 64, 64)))}, spacing_zyx_mm=(12.0, 1.6, 1.6))
    frame: GridFrame = frames_of(store, GRID)["v"]
    assert frame.slices_of_px().tolist() == [1, 4, 7]
    one, wide, other = (8.0, 8.0, 23.0, 23.0), (6.0, 8.0, 25.0, 23.0), (40.0, 40.0, 51.0, 51.0)
    boxes: Boxes = {3: [wide], 4: [one], 5: [wide], 7: [other]}
    rows = propose([Answering(boxes, {3: 0.9, 4: 0.5, 5: 0.8, 7: 0.7})], store, frame)
    summary = [(row["tubelet_id"], row["z"], round(row["lpg_score"], 3)) for row in rows]
    # The first one's best grid slice is lost: best first is by what is left of it.
    assert summary == [(0, [2], 0.7), (1, [1], 0.5)]
    assert all(row["lpg_score"] == max(row["slice_score"]) for row in rows)
    assert [row["width_mm"] for row in rows] == pytest.approx([12 * 1.6, 16 * 1.6], abs=0.01)


def test_boxes_end_at_the_image_and_peaks_beyond_it_are_none(make_store: Any, frames_of: Any) -> None:
    # 50 x 60 pixels on a grid padded to 64 x 64: the last box's centre lies in the padding.
    store = make_store({"v": ("vh", np.zeros((2, 50, 60)))})
    frame: GridFrame = frames_of(store, GRID)["v"]
    corner, edge, beyond = (-6.0, -4.0, 9.0, 11.0), (46.0, 40.0, 65.0, 55.0), (20.0, 48.0, 31.0, 59.0)
    rows = propose([Answering({0: [corner, edge, beyond]})], store, frame)
    got = sorted(tuple(round(row[side][0], 3) for side in ("x1", "y1", "x2", "y2")) for row in rows)
    # The last pixel of the image is column 59, row 49 (geometry.py: inclusive ends).
    assert got == [(0.0, 0.0, 9.0, 11.0), (46.0, 40.0, 59.0, 49.0)]
    assert sorted(row["width_mm"] for row in rows) == pytest.approx([10 * 1.6, 10 * 1.6])


def test_several_models_are_averaged(make_store: Any, frames_of: Any) -> None:
    store = make_store({"v": ("vh", np.zeros((4, 64, 64)))})
    box = (16.0, 16.0, 31.0, 31.0)
    models = [Answering({1: [box]}), Answering({1: [box], 3: [(40.0, 40.0, 51.0, 51.0)]})]
    rows = propose(models, store, frames_of(store, GRID)["v"])
    assert [(row["z"], round(row["lpg_score"], 2)) for row in rows] == [([1], 1.0), ([3], 0.5)]


def test_a_volume_without_peaks_has_no_tubelets(make_store: Any, frames_of: Any) -> None:
    store = make_store({"v": ("vh", np.zeros((3, 32, 32)))})
    assert propose([Answering({})], store, frames_of(store, GRID)["v"], Settings(grid=GRID)) == []


def test_what_lies_outside_the_body_is_dropped(make_store: Any, frames_of: Any) -> None:
    hu = np.full((5, 128, 128), -1000)
    hu[:, 30:100, 20:90] = 40
    hu[:, 50:70, 30:50] = -850
    hu[:, 110:114, 100:104] = 2000
    store = make_store({"v": ("vh", hu)})
    inside, lung, wire = (60.0, 40.0, 71.0, 51.0), (36.0, 56.0, 43.0, 63.0), (98.0, 108.0, 105.0, 115.0)
    frame = frames_of(store, GRID)["v"]
    for mask, count in ((False, 3), (True, 2)):
        settings = Settings(grid=GRID, generator=GeneratorSettings(body_mask=mask, stride=4))
        rows = propose([Answering({2: [inside, lung, wire]})], store, frame, settings)
        assert len(rows) == count
        assert (98.0 in [round(row["x1"][0]) for row in rows]) == (not mask)


def test_chunks_do_not_change_probabilities(make_store: Any, frames_of: Any) -> None:
    rng = np.random.default_rng(0)
    store = make_store({"v": ("vh", rng.normal(0, 100, (6, 64, 64)))})
    settings = Settings(grid=GRID, classifier=ClassifierSettings(channels=8, views=2, local_px=16, global_px=16))
    torch.manual_seed(0)
    model = Classifier(settings.classifier, GRID).eval()
    left = rng.uniform(0, 50, 5)
    rows = [tubelet("v", (x, 20.0, x + 9, 29.0), [z]) for z, x in enumerate(left)]
    frame = frames_of(store, GRID)["v"]

    def scores(some: list[dict[str, Any]], batch: AutoBatchSize | None = None) -> list[float]:
        views = load_views(store.path, frame, some, settings.classifier, FLOAT.device)
        return classifier_inference.classify(model, views, settings, FLOAT, batch)

    whole, parts = scores(rows), scores(rows, AutoBatchSize("crops", 2))
    alone = [scores([row])[0] for row in rows]
    assert all(0 < p < 1 for p in whole)
    assert whole == pytest.approx(parts, abs=1e-5)
    assert whole == pytest.approx(alone, abs=1e-5)
    assert len(set(whole)) == 5
