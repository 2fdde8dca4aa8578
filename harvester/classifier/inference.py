"""Tubelets of stored volumes to probabilities: slices are read ahead of the device, crops are cut there.

A short tubelet's views show some slices several times, and a whole-slice view shows the same for every tubelet of the
slice: each distinct crop goes through its stream once, which the maximum over views cannot tell.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import cache, partial
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from harvester.classifier.network import Classifier
from harvester.classifier.views import STREAMS, VolumeViews, cut_crops, load_views, pixels, shape_profile, view_corners
from harvester.config.settings import Settings
from harvester.errors import NotFiniteError
from harvester.geometry import Array
from harvester.models.acceleration import accelerated
from harvester.models.batch_size import AutoBatchSize
from harvester.models.device import DeviceSpec
from harvester.models.finite import ADVICE, not_finite, read_weights
from harvester.models.prefetch import prefetch, readers
from harvester.storage.location import Location
from harvester.store.slab import GridFrame

Rows = list[dict[str, Any]]
Task = tuple[GridFrame, list[Location]]

CROPS_ON_CPU: Final = 32
CROPS_ON_GPU: Final = 256
MOST_CROPS: Final = 2048


class Scoring:
    """Fitted classifiers on a device, read once from their files, to go through the volumes of a store.

    rows_of     gives a volume's tubelets; called in the thread that reads ahead
    """

    def __init__(self, settings: Settings, store: Location, spec: DeviceSpec, rows_of: Callable[[str], Rows]) -> None:
        self.settings, self.store, self.spec, self.rows_of = settings, store, spec, rows_of
        self.batch = crops_at_once(spec)
        self.model = cache(partial(load_classifier, settings=settings, spec=spec))

    def over(self, tasks: Iterable[Task]) -> Iterator[Callable[[], Rows]]:
        """For each volume a call that gives its rows with their lpc_score, or raises its error.

        A score is the mean of the models in the volume's files: of those that never saw its patient.
        """
        count = readers(self.spec, self.settings.compute.readers)
        for (_, files), views in prefetch(tasks, self._read, count):
            yield partial(self._score, views, files)

    def _read(self, task: Task) -> VolumeViews | None:
        rows, views = self.rows_of(task[0].volume_id), self.settings.classifier.views
        return load_views(self.store, task[0], rows, views, self.spec.device) if rows else None

    def _score(self, read: Future[VolumeViews | None], files: list[Location]) -> Rows:
        views = read.result()
        if views is None:
            return []
        answers = [classify(self.model(file), views, self.settings, self.spec, self.batch) for file in files]
        means = [sum(scores) / len(scores) for scores in zip(*answers, strict=True)]
        return [row | {"lpc_score": score} for row, score in zip(views.rows, means, strict=True)]


def load_classifier(weights: Location, settings: Settings, spec: DeviceSpec) -> Classifier:
    """A fitted classifier from its safetensors file, ready to score."""
    model = Classifier(settings.classifier.model_copy(update={"weights": ""}), settings.grid)
    model.load_state_dict(read_weights(weights))
    return prepare_for_inference(model, spec, settings.compute.compile)


def prepare_for_inference(model: Classifier, spec: DeviceSpec, compile_it: bool = False) -> Classifier:
    """A fitted classifier, made fast and moved to the device."""
    model.eval()
    model.streams = nn.ModuleDict({name: accelerated(stream, compile_it) for name, stream in model.streams.items()})
    spec.move_model(model)
    return model


def crops_at_once(spec: DeviceSpec) -> AutoBatchSize:
    """How many crops a device takes at first."""
    if spec.device.type == "cuda":
        return AutoBatchSize("crops", CROPS_ON_GPU, MOST_CROPS, spec.device)
    return AutoBatchSize("crops", CROPS_ON_CPU)


@torch.inference_mode()
def classify(
    model: Classifier, views: VolumeViews, settings: Settings, spec: DeviceSpec, batch: AutoBatchSize | None = None
) -> list[float]:
    """The probability of being a lesion of each tubelet. Raises NotFiniteError where one is NaN."""
    batch = batch or crops_at_once(spec)
    local, wide = (_features(model, name, views, settings, spec, batch) for name in STREAMS)
    profile = torch.from_numpy(shape_profile(views.tubelets, views.frame)).to(spec.device)
    with spec.autocast():
        logits = model.logits(local, wide, profile)
    scores = torch.sigmoid(logits.float()).cpu()
    if not_finite({"scores": scores}):
        raise NotFiniteError(f"volume {views.frame.volume_id}: the classifier's scores are not finite; {ADVICE}")
    return scores.tolist()


def _features(
    model: Classifier, name: str, views: VolumeViews, settings: Settings, spec: DeviceSpec, batch: AutoBatchSize
) -> Tensor:
    """A stream's features of every view, (n, views, features); equal views are cut and seen once."""
    corners = view_corners(name, views.boxes_xyxy, settings.classifier, views.frame)
    distinct, of_view = distinct_views(views.z, corners)
    z, corners = distinct[:, 0].astype(np.int64) - views.first, distinct[:, 1:]
    side, parts = pixels(name, settings.classifier), []
    for span in batch.spans(len(z)):
        some = slice(span.start, span.stop)
        with span, spec.autocast():
            # Crops bear no name here: those of the last span would wait for the next ones.
            parts.append(model.features(name, cut_crops(views.hu_zyx, z[some], corners[some], side, settings.grid)))
    return torch.cat(parts)[torch.from_numpy(of_view).to(spec.device)]


def distinct_views(z: Array, corners: Array) -> tuple[Array, Array]:
    """Rows (m, 5) of slice and corners without repeats, by slice, and which of them each view (n, views) is."""
    views = np.concatenate([z[..., None], corners], axis=-1)
    distinct, which = np.unique(views.reshape(-1, views.shape[-1]), axis=0, return_inverse=True)
    return distinct, which.reshape(z.shape)
