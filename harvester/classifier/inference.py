"""Tubelets of stored volumes to probabilities: slices are read ahead of the device, crops are cut there.

A short tubelet's views show some slices several times, and a whole-slice view shows the same for every tubelet of the
slice: each distinct crop goes through its stream once, which the maximum over views cannot tell.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from harvester.classifier.network import Classifier
from harvester.classifier.views import (
    STREAMS,
    Tubelets,
    cut_crops,
    describe,
    pixels,
    slices_needed,
    view_corners,
    view_places,
)
from harvester.config.settings import Settings
from harvester.models.acceleration import accelerated
from harvester.models.batch_size import BatchSize, in_batches
from harvester.models.device import Place
from harvester.models.device_slab import read_resident
from harvester.models.prefetch import ahead, readers
from harvester.storage.location import Location, Where
from harvester.store.slab import GridFrame

Array = NDArray[Any]
Rows = list[dict[str, Any]]
Task = tuple[GridFrame, list[Location]]

CROPS_ON_CPU: Final = 32
CROPS_ON_GPU: Final = 256
MOST_CROPS: Final = 2048


@dataclass(frozen=True)
class Looked:
    """What a volume's n tubelets look at.

    rows        the tubelets, as in records.TUBELETS
    hu_zyx      int16 HU of the slices from `first` on, on the device
    z, boxes    (n, views) slices of the volume, (n, views, 4) boxes on the grid
    """

    frame: GridFrame
    rows: Rows
    tubelets: Tubelets
    hu_zyx: Tensor
    first: int
    z: Array
    boxes_xyxy: Array


class Scoring:
    """Fitted classifiers on a place, read once from their files, to go through the volumes of a store.

    rows_of     gives a volume's tubelets; called in the thread that reads ahead
    """

    def __init__(
        self, settings: Settings, store: Where, place: Place, rows_of: Callable[[str], Rows]
    ) -> None:
        self.settings, self.store, self.place, self.rows_of = settings, store, place, rows_of
        self.batch = crops_at_once(place)
        self.models: dict[Location, Classifier] = {}

    def over(self, tasks: Iterable[Task]) -> Iterator[Callable[[], Rows]]:
        """For each volume a call that gives its rows with their lpc_score, or raises its error.

        A score is the mean of the models in the volume's files: of those that never saw its patient.
        """
        for (_, files), looked in ahead(
            tasks, self._read, readers(self.place, self.settings.compute.readers)
        ):
            yield partial(self._score, looked, files)

    def _read(self, task: Task) -> Looked | None:
        rows = self.rows_of(task[0].volume_id)
        return look(self.store, task[0], rows, self.settings, self.place) if rows else None

    def _score(self, looking: Future[Looked | None], files: list[Location]) -> Rows:
        looked = looking.result()
        if looked is None:
            return []
        for file in files:
            if file not in self.models:
                self.models[file] = load_classifier(file, self.settings, self.place)
        answers = [
            classify(self.models[file], looked, self.settings, self.place, self.batch) for file in files
        ]
        means = [sum(scores) / len(scores) for scores in zip(*answers, strict=True)]
        return [row | {"lpc_score": score} for row, score in zip(looked.rows, means, strict=True)]


def load_classifier(weights: Location, settings: Settings, place: Place) -> Classifier:
    """A fitted classifier from its safetensors file, ready to score."""
    from safetensors.torch import load

    model = Classifier(settings.classifier.model_copy(update={"weights": ""}), settings.grid)
    model.load_state_dict(load(weights.read_bytes()))
    return ready(model, place, settings.compute.compile)


def ready(model: Classifier, place: Place, compile_it: bool = False) -> Classifier:
    """A fitted classifier for inference on a place."""
    model.eval()
    model.streams = nn.ModuleDict(
        {name: accelerated(stream, compile_it) for name, stream in model.streams.items()}
    )
    place.settle(model)
    return model


def crops_at_once(place: Place) -> BatchSize:
    """How many crops a place takes at first."""
    if place.device.type == "cuda":
        return BatchSize("crops", CROPS_ON_GPU, MOST_CROPS)
    return BatchSize("crops", CROPS_ON_CPU)


def classify_volume(
    model: Classifier,
    store: Where,
    frame: GridFrame,
    rows: Rows,
    settings: Settings,
    place: Place,
    batch: BatchSize | None = None,
) -> list[float]:
    """The probability of being a lesion of each tubelet (rows of records.TUBELETS, one volume); [] for none."""
    if not rows:
        return []
    looked = look(store, frame, rows, settings, place)
    return classify(model, looked, settings, place, batch or crops_at_once(place))


def look(store: Where, frame: GridFrame, rows: Rows, settings: Settings, place: Place) -> Looked:
    """The slices that the views of one volume's tubelets need, read onto the device."""
    tubelets = Tubelets.of(rows, frame)
    z, boxes = view_places(tubelets, settings.classifier.views, frame.shape_zyx[0])
    first, last = slices_needed(z)
    hu = read_resident(store, frame, first, last, place.device)
    return Looked(frame, rows, tubelets, hu, first, z, boxes)


@torch.inference_mode()
def classify(
    model: Classifier, looked: Looked, settings: Settings, place: Place, batch: BatchSize
) -> list[float]:
    """A probability a tubelet."""
    local, wide = (_features(model, name, looked, settings, place, batch) for name in STREAMS)
    course = torch.from_numpy(describe(looked.tubelets, looked.frame)).to(place.device)
    with place.autocast():
        logits = model.judge(local, wide, course)
    scores: list[float] = torch.sigmoid(logits.float()).cpu().tolist()
    return scores


def _features(
    model: Classifier, name: str, looked: Looked, settings: Settings, place: Place, batch: BatchSize
) -> Tensor:
    """A stream's features of every view, (n, views, features); equal views are cut and seen once."""
    corners = view_corners(name, looked.boxes_xyxy, settings.classifier, looked.frame)
    distinct, of_view = distinct_views(looked.z, corners)
    z, corners = distinct[:, 0].astype(np.int64) - looked.first, distinct[:, 1:]

    def work(start: int, stop: int) -> Tensor:
        side = pixels(name, settings.classifier)
        crops = cut_crops(looked.hu_zyx, z[start:stop], corners[start:stop], side, settings.grid)
        with place.autocast():
            features = model.features(name, crops)
        batch.learn(place, stop - start)
        return features

    features = torch.cat(list(in_batches(len(z), batch, work)))
    return features[torch.from_numpy(of_view).to(place.device)]


def distinct_views(z: Array, corners: Array) -> tuple[Array, Array]:
    """Rows (m, 5) of slice and corners without repeats, by slice, and which of them each view (n, views) is."""
    views = np.concatenate([z[..., None], corners], axis=-1)
    distinct, which = np.unique(views.reshape(-1, views.shape[-1]), axis=0, return_inverse=True)
    return distinct, which.reshape(z.shape)
