"""The boxes of a volume's slices, found on the device: features once per slice, heads, peaks.

Only the best peaks of each slice leave the device, and where the body is on a coarse grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from harvester.config.settings import Settings
from harvester.errors import NotFiniteError
from harvester.geometry import Array
from harvester.imaging.body_mask import BODY_HU, body_mask, coarse_step
from harvester.models.acceleration import accelerated
from harvester.models.batch_size import AutoBatchSize, Span
from harvester.models.device import DeviceSpec
from harvester.models.finite import ADVICE, not_finite
from harvester.proposals.decoding import above, best_peaks
from harvester.proposals.network import CONTEXT, GROUPS, Generator, group_images
from harvester.store.slab import GridFrame

Carries = Sequence[list[Tensor] | None]

SLICES_ON_CPU: Final = 4
"""More at once leave the processor's cache: 16 take half as long again per slice."""
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


def prepare_for_inference(model: Generator, spec: DeviceSpec, compile_it: bool = False) -> Generator:
    """A fitted generator, made fast and moved to the device."""
    model.eval()
    model.backbone = accelerated(model.backbone, compile_it)
    spec.move_model(model)
    return model


def slices_at_once(spec: DeviceSpec) -> AutoBatchSize:
    """How many slices a device takes at first."""
    if spec.device.type == "cuda":
        return AutoBatchSize("slices", SLICES_ON_GPU, MOST_SLICES, spec.device)
    return AutoBatchSize("slices", SLICES_ON_CPU)


@torch.inference_mode()
def find_boxes(
    models: list[Generator],
    slab_zyx: Tensor,
    frame: GridFrame,
    settings: Settings,
    spec: DeviceSpec,
    batch: AutoBatchSize | None = None,
) -> Boxes:
    """The boxes of every slice between the CONTEXT slices, best peaks first; only they leave the device.

    Raises NotFiniteError where the generator's answer is not finite: a NaN would pass for a place without a peak.
    """
    own, peaks = settings.generator, []
    carries: Carries = [None for _ in models]
    for span in (batch or slices_at_once(spec)).spans(len(slab_zyx) - 2 * CONTEXT):
        with span:
            best, carries = span_peaks(models, slab_zyx, span, carries, settings, spec)
            peaks.append(best)
    scores, boxes = (torch.cat(part) for part in zip(*peaks, strict=True))
    z, kept, scores_kept = above(scores, boxes, own.score_floor)
    if not_finite({"every peak": scores, "boxes": kept}):  # topk takes NaN for the highest score
        raise NotFiniteError(f"volume {frame.volume_id}: the generator's answer is not finite; {ADVICE}")
    body, step = None, coarse_step(frame.spacing_zyx_mm[2])
    if own.body_mask:
        dense = slab_zyx[CONTEXT:-CONTEXT, ::step, ::step] > BODY_HU
        body = body_mask(dense.cpu().numpy())
    return Boxes(z.cpu().numpy(), kept.cpu().double().numpy(), scores_kept.cpu().double().numpy(), body, step)


def span_peaks(
    models: list[Generator], slab_zyx: Tensor, span: Span, carries: Carries, settings: Settings, spec: DeviceSpec
) -> tuple[tuple[Tensor, Tensor], Carries]:
    """The best peaks of a span's slices in place of its maps; else as slice_maps."""
    maps, carried = slice_maps(models, slab_zyx, span, carries, settings, spec)
    return best_peaks(maps, settings.generator.top_k, settings.generator.stride), carried


def slice_maps(
    models: list[Generator], slab_zyx: Tensor, span: Span, carries: Carries, settings: Settings, spec: DeviceSpec
) -> tuple[dict[str, Tensor], Carries]:
    """The heads' maps (n, channels, rows, columns) of a span's slices, and what the next span takes as `carries`.

    The slab has CONTEXT slices more at both ends; spans follow each other, and the first one takes a None per model.
    Each slice group goes through the backbone once: `carries` keeps what later slices need of it. How long a span is
    bounds the memory of a step, not the result.
    """
    known = GROUPS[-1] if span.start else 0
    hu = slab_zyx[span.start + known : span.stop + GROUPS[-1] + 2]
    images = group_images(hu, settings.grid.windows_hu, spec.dtype)
    with spec.autocast():
        fused = [
            model.fuse_incremental(model.features(images), carry) for model, carry in zip(models, carries, strict=True)
        ]
    return _averaged([maps for maps, _ in fused]), [carry for _, carry in fused]


def _averaged(outputs: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    if len(outputs) == 1:
        return outputs[0]
    mean = {name: torch.stack([each[name].float() for each in outputs]).mean(0) for name in ("size", "offset")}
    heat = torch.stack([torch.sigmoid(each["heat"].float()) for each in outputs]).mean(0)
    return {"heat": torch.logit(heat, eps=1e-6), **mean}
