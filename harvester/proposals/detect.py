"""The boxes of a volume's slices, found on the device: features once a slice, heads, peaks.

Only the best peaks of each slice leave the device, and where the body is on a coarse grid.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from harvester.config.settings import Settings
from harvester.imaging.body_mask import BODY_HU, body_mask, coarse_step
from harvester.models.acceleration import accelerated
from harvester.models.batch_size import BatchSize, in_batches
from harvester.models.device import Place
from harvester.proposals.decoding import above, best_peaks
from harvester.proposals.network import CONTEXT, GROUPS, Generator, group_images
from harvester.store.slab import GridFrame

Array = NDArray[Any]
R = TypeVar("R")

SLICES_ON_CPU: Final = 4
"""More at once leave the processor's cache: 16 take half as long again a slice."""
SLICES_ON_GPU: Final = 8
MOST_SLICES: Final = 128


@dataclass(frozen=True)
class Boxes:
    """What a generator finds in a volume, on its grid: m boxes by slice, and where the body is.

    z, boxes_xyxy, scores  (m,), (m, 4) inclusive ends, (m,)
    body_zyx               its mask on every step-th row and column, or None where nobody asked
    """

    z: Array
    boxes_xyxy: Array
    scores: Array
    body_zyx: Array | None
    step: int


def ready(model: Generator, place: Place, compile_it: bool = False) -> Generator:
    """A fitted generator for inference on a place."""
    model.eval()
    model.backbone = accelerated(model.backbone, compile_it)
    place.settle(model)
    return model


def slices_at_once(place: Place) -> BatchSize:
    """How many slices a place takes at first."""
    if place.device.type == "cuda":
        return BatchSize("slices", SLICES_ON_GPU, MOST_SLICES)
    return BatchSize("slices", SLICES_ON_CPU)


@torch.inference_mode()
def find_boxes(
    models: list[Generator],
    slab_zyx: Tensor,
    frame: GridFrame,
    settings: Settings,
    place: Place,
    batch: BatchSize | None = None,
) -> Boxes:
    """The boxes of every slice between the CONTEXT slices, best peaks first; only they leave the device."""
    own = settings.generator
    parts = over_slices(
        models,
        slab_zyx,
        settings,
        place,
        batch or slices_at_once(place),
        lambda maps: best_peaks(maps, own.top_k),
    )
    scores, boxes = (torch.cat(part) for part in zip(*parts, strict=True))
    z, boxes, scores = above(scores, boxes, own.score_floor)
    body, step = None, coarse_step(frame.spacing_zyx_mm[2])
    if own.body_mask:
        dense = slab_zyx[CONTEXT:-CONTEXT, ::step, ::step] > BODY_HU
        body = body_mask(dense.cpu().numpy())
    return Boxes(z.cpu().numpy(), boxes.cpu().double().numpy(), scores.cpu().double().numpy(), body, step)


def over_slices(
    models: list[Generator],
    slab_zyx: Tensor,
    settings: Settings,
    place: Place,
    batch: BatchSize,
    answer: Callable[[dict[str, Tensor]], R],
) -> Iterator[R]:
    """`answer` to the heads' maps (n, channels, rows, columns), batch by batch, of HU with CONTEXT slices at both ends.

    Each slice group goes through the backbone once: a batch keeps what the next one needs of it. How many
    slices go through at once bounds the memory of a step, not the result.
    """
    pending: list[list[Tensor] | None] = [None for _ in models]

    def work(start: int, stop: int) -> R:
        known = GROUPS[-1] if start else 0
        hu = slab_zyx[start + known : stop + GROUPS[-1] + 2]
        images = group_images(hu, settings.grid.windows_hu, place.dtype)
        with place.autocast():
            fused = [
                model.fuse_on(model.features(images), own) for model, own in zip(models, pending, strict=True)
            ]
        answered = answer(_averaged([maps for maps, _ in fused]))
        pending[:] = [own for _, own in fused]
        batch.learn(place, stop - start)
        return answered

    return in_batches(len(slab_zyx) - 2 * CONTEXT, batch, work)


def _averaged(outputs: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    if len(outputs) == 1:
        return outputs[0]
    mean = {
        name: torch.stack([each[name].float() for each in outputs]).mean(0) for name in ("size", "offset")
    }
    heat = torch.stack([torch.sigmoid(each["heat"].float()) for each in outputs]).mean(0)
    return {"heat": torch.logit(heat, eps=1e-6), **mean}
