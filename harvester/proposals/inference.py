"""A stored volume to tubelets: one pass, features once a slice, then peaks, boxes and links."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harvester.config import GridSettings, Settings
from harvester.fitting import Place
from harvester.linking import Tubelet, link, suppress, trim
from harvester.proposals.decoding import decode
from harvester.proposals.network import CONTEXT, GROUPS, Generator, slice_groups, stack_groups
from harvester.volumes.body import body_mask
from harvester.volumes.locations import Where
from harvester.volumes.slab import GridFrame, read_slab
from harvester.volumes.window import windowed

Array = NDArray[Any]


def load_generators(weights: list[Path], settings: Settings, place: Place) -> list[Generator]:
    """Fitted generators from their safetensors files, ready to propose."""
    from safetensors.torch import load_file

    models = []
    for file in weights:
        bare = settings.generator.model_copy(update={"weights": ""})
        model = Generator(bare, settings.grid)
        model.load_state_dict(load_file(file))
        place.settle(model).eval()
        models.append(model)
    return models


def propose_volume(
    models: list[Generator], store: Where, frame: GridFrame, settings: Settings, place: Place
) -> list[dict[str, Any]]:
    """Rows of records.TUBELETS without ids of the patient: boxes in the volume's own pixels, best first.

    With several models their answers are averaged: for volumes that none of them has seen.
    """
    depth = frame.shape_zyx[0]
    hu = read_slab(store, frame, -CONTEXT, depth + CONTEXT)
    maps = [volume_maps(model, hu, settings.grid, place) for model in models]
    z, boxes, scores = decode(_averaged(maps), settings.generator.top_k, settings.generator.score_floor)
    slices, found, best = z.cpu().numpy(), boxes.cpu().double().numpy(), scores.cpu().double().numpy()
    inside = _inside_image(found, frame)
    if settings.generator.body_mask:
        inside = np.logical_and(inside, _inside_body(hu[CONTEXT:-CONTEXT], slices, found))
    tubelets = link(slices[inside], found[inside], best[inside], settings.linking)
    trimmed = [trim(tubelet, settings.linking.end_share) for tubelet in tubelets]
    kept = suppress(trimmed, settings.linking.suppress_iou)
    rows = sorted((_row(tubelet, frame) for tubelet in kept), key=lambda row: -row["lpg_score"])
    return [row | {"tubelet_id": index} for index, row in enumerate(rows)]


@torch.inference_mode()
def volume_maps(
    model: Generator, hu_zyx: Array, grid: GridSettings, place: Place, chunk: int = 16
) -> dict[str, Tensor]:
    """The heads' maps of every slice, (depth, channels, rows, columns), for HU with CONTEXT slices at both ends.

    Each slice group goes through the backbone once; `chunk` bounds the memory of a step, not the result.
    """
    slab = torch.from_numpy(windowed(hu_zyx, grid.windows_hu))[None]
    groups = slice_groups(slab)[0]
    with place.autocast():
        parts = [
            model.features(part.to(place.device).contiguous(memory_format=torch.channels_last))
            for part in torch.split(groups, chunk)
        ]
        maps = [torch.cat(level) for level in zip(*parts, strict=True)]
        depth = len(groups) - GROUPS[-1]
        outputs = []
        for start in range(0, depth, chunk):
            slices = range(start, min(depth, start + chunk))
            places = [[z + step for z in slices] for step in GROUPS]
            outputs.append(model.fuse([stack_groups(level[None], places)[0] for level in maps]))
    return {name: torch.cat([part[name].float() for part in outputs]) for name in outputs[0]}


def _averaged(maps: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    if len(maps) == 1:
        return maps[0]
    mean = {name: torch.stack([part[name] for part in maps]).mean(0) for name in ("size", "offset")}
    heat = torch.stack([torch.sigmoid(part["heat"]) for part in maps]).mean(0)
    return {"heat": torch.logit(heat, eps=1e-6), **mean}


def _inside_image(boxes_xyxy: Array, frame: GridFrame) -> Array:
    """Whether each box's centre lies in the volume's slices: the grid is padded beyond them."""
    centre = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:] + 1) / 2
    _, rows, columns = frame.shape_zyx
    inside: Array = np.all((centre >= 0) & (centre <= (columns, rows)), axis=1)
    return inside


def _inside_body(hu_zyx: Array, z: Array, boxes_xyxy: Array) -> Array:
    """Whether each box's centre lies in the body: leads, wires and the table are not tissue."""
    mask = body_mask(hu_zyx)
    column = np.clip((boxes_xyxy[:, 0] + boxes_xyxy[:, 2]) / 2, 0, mask.shape[2] - 1).astype(np.int64)
    row = np.clip((boxes_xyxy[:, 1] + boxes_xyxy[:, 3]) / 2, 0, mask.shape[1] - 1).astype(np.int64)
    inside: Array = mask[z, row, column]
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
        **{side: boxes[:, i].tolist() for i, side in enumerate(("x1", "y1", "x2", "y2"))},
        "slice_score": scores.tolist(),
    }
