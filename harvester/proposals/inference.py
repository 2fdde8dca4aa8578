"""Stored volumes to tubelets: slices are read ahead of the device, boxes are found there and linked on the CPU."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import cache, partial
from typing import Any

import numpy as np
from torch import Tensor

from harvester.config.settings import Settings
from harvester.geometry import Array
from harvester.models.device import DeviceSpec
from harvester.models.device_slab import load_to_device
from harvester.models.finite import read_weights
from harvester.models.prefetch import prefetch, readers
from harvester.proposals.detect import Boxes, find_boxes, prepare_for_inference, slices_at_once
from harvester.proposals.linking import Tubelet, link, suppress, trim
from harvester.proposals.network import CONTEXT, Generator
from harvester.records import SIDES
from harvester.storage.location import Location
from harvester.store.slab import GridFrame

Rows = list[dict[str, Any]]
Task = tuple[GridFrame, list[Location]]


class Proposals:
    """Fitted generators on a device, read once from their files, to go through the volumes of a store."""

    def __init__(self, settings: Settings, store: Location, spec: DeviceSpec) -> None:
        self.settings, self.store, self.spec = settings, store, spec
        self.batch = slices_at_once(spec)
        self.model = cache(partial(load_generator, settings=settings, spec=spec))

    def over(self, tasks: Iterable[Task]) -> Iterator[Callable[[], Rows]]:
        """For each volume, scored by the models in its files, a call that gives its rows or raises its error.

        While the boxes of one volume are linked, the next is on the device, and those after it are read.
        """
        read = prefetch(tasks, self._read, readers(self.spec, self.settings.compute.readers))
        for ((frame, _), _), boxes in prefetch(read, self._find):
            yield partial(self._link, boxes, frame)

    def _read(self, task: Task) -> Tensor:
        return read_with_context(self.store, task[0], self.spec)

    def _find(self, given: tuple[Task, Future[Tensor]]) -> Boxes:
        (frame, files), slab = given
        models = [self.model(file) for file in files]
        return find_boxes(models, slab.result(), frame, self.settings, self.spec, self.batch)

    def _link(self, boxes: Future[Boxes], frame: GridFrame) -> Rows:
        return tubelet_rows(boxes.result(), frame, self.settings)


def load_generator(weights: Location, settings: Settings, spec: DeviceSpec) -> Generator:
    """A fitted generator from its safetensors file, ready to propose."""
    model = Generator(settings.generator.model_copy(update={"weights": ""}), settings.grid)
    model.load_state_dict(read_weights(weights))
    return prepare_for_inference(model, spec, settings.compute.compile)


def read_with_context(store: Location, frame: GridFrame, spec: DeviceSpec) -> Tensor:
    """All grid slices of a volume on the device, int16 HU, with CONTEXT more at both ends."""
    return load_to_device(store, frame, -CONTEXT, frame.shape_zyx[0] + CONTEXT, spec.device)


def tubelet_rows(boxes: Boxes, frame: GridFrame, settings: Settings) -> Rows:
    """Boxes of slices linked to rows of records.TUBELETS, without the patient: in the volume's pixels, best first."""
    inside = _in_patient(boxes, frame)
    tubelets = link(boxes.z[inside], boxes.boxes_xyxy[inside], boxes.scores[inside], settings.linking)
    trimmed = [trim(tubelet, settings.linking.end_share) for tubelet in tubelets]
    kept = suppress(trimmed, settings.linking.suppress_iou)
    rows = sorted((_row(tubelet, frame) for tubelet in kept), key=lambda row: -row["lpg_score"])
    return [row | {"tubelet_id": index} for index, row in enumerate(rows)]


def _in_patient(boxes: Boxes, frame: GridFrame) -> Array:
    """Whether each box's centre lies in the slices, beyond which the grid is padded, and in the body.

    Leads, wires and the table are not tissue.
    """
    corners = boxes.boxes_xyxy[:, :2] + boxes.boxes_xyxy[:, 2:]
    _, rows, columns = frame.shape_zyx
    inside: Array = np.all((corners + 1 >= 0) & ((corners + 1) / 2 <= (columns, rows)), axis=1)
    if boxes.body_zyx is not None:
        x, y = np.maximum(corners / 2, 0).astype(np.int64).T // boxes.step
        _, rows, columns = boxes.body_zyx.shape
        inside &= boxes.body_zyx[boxes.z, y.clip(max=rows - 1), x.clip(max=columns - 1)]
    return inside


def _row(tubelet: Tubelet, frame: GridFrame) -> dict[str, Any]:
    """The tubelet on the volume's own slices: each takes the box of its nearest grid slice, cut at the image.

    Where the grid's slices are thinner than the volume's, some are nobody's nearest: their scores do not count.
    """
    nearest = frame.slices_of_px()
    z_px = np.flatnonzero(np.isin(nearest, tubelet.z))
    if len(z_px) == 0:
        z_px = np.abs(nearest - tubelet.z[0]).argmin(keepdims=True)
    at = np.abs(tubelet.z[None, :] - nearest[z_px][:, None]).argmin(1)
    scores = tubelet.scores[at]
    _, height, width = frame.shape_px_zyx
    boxes = frame.boxes_to_px(tubelet.boxes_xyxy[at])
    boxes = np.clip(boxes, 0, [width - 1, height - 1, width - 1, height - 1])
    best = boxes[scores.argmax()]
    sides_mm = (best[2:] - best[:2] + 1) * frame.spacing_px_zyx_mm[:0:-1]
    return {
        "volume_id": frame.volume_id,
        "lpg_score": float(scores.max()),
        "width_mm": float(sides_mm.min()),
        "z": z_px.tolist(),
        **{side: boxes[:, i].tolist() for i, side in enumerate(SIDES)},
        "slice_score": scores.tolist(),
    }
