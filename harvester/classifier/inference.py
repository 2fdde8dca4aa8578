"""Tubelets of stored volumes to probabilities: slices are read ahead of the device, crops are sampled there."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import cache, partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from harvester.classifier.crops import VolumeViews, cut, in_windows, load_views
from harvester.classifier.network import Classifier
from harvester.classifier.views import STREAMS, pixels
from harvester.config.settings import Settings
from harvester.errors import NotFiniteError
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
        rows, own = self.rows_of(task[0].volume_id), self.settings.classifier
        return load_views(self.store, task[0], rows, own, self.spec.device) if rows else None

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
    """The probability of being a lesion of each tubelet: its mean logit over the poses that were loaded.

    Raises NotFiniteError where one is NaN.
    """
    batch = batch or crops_at_once(spec)
    local, wide = (_features(model, name, views, settings, spec, batch) for name in STREAMS)
    profile = torch.from_numpy(views.profile).to(spec.device)
    with spec.autocast():
        logits = model.logits(local, wide, profile)
    scores = torch.sigmoid(logits.float().reshape(-1, len(views.rows)).mean(0)).cpu()
    if not_finite({"scores": scores}):
        raise NotFiniteError(f"volume {views.frame.volume_id}: the classifier's scores are not finite; {ADVICE}")
    return scores.tolist()


def _features(
    model: Classifier, name: str, views: VolumeViews, settings: Settings, spec: DeviceSpec, batch: AutoBatchSize
) -> Tensor:
    """A stream's features of every view, (n, views, features)."""
    squares, side, parts = views.squares[name], pixels(name, settings.classifier), []
    for span in batch.spans(len(squares)):
        with span, spec.autocast():
            # Crops bear no name here: those of the last span would wait for the next ones.
            parts.append(
                model.features(
                    name, in_windows(cut(views.hu_zyx, squares[span.start : span.stop], side), settings.grid.windows_hu)
                )
            )
    return torch.unflatten(torch.cat(parts), 0, (len(views.profile), -1))
