"""What a user would pick instead, timed: a 2D detector slice by slice, and a 3D detector by sliding window.

    pip install -e '.[bench]'
    python benchmarks/peers.py [--slices 32] [--side 512] [--json FILE]

torchvision's Faster R-CNN (ResNet-50, FPN): each slice with its two neighbours as channels, at the slice's own size.
MONAI's RetinaNet (3D ResNet-50, FPN) with the settings of its LUNA16 bundle (lung_nodule_ct_detection, inference.json).
Both as their makers build them, in evaluation and inference mode, in every layout, precision and batch listed in their
function; the fastest counts. They are untrained, which changes their time only by the boxes that reach suppression:
- Faster R-CNN: the region proposals are cut by count, as ever (1,000 a level); about half a softmax of two classes lies
  on a lesion, so that every proposal passes the score threshold of 0.05 and is suppressed, 100 are kept.
- RetinaNet: every untrained score lies below its threshold of 0.02, so the threshold is 0: each level's best 1,000
  anchors, the most that the bundle lets through, are suppressed, 300 are kept.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from harvester.models.device import DeviceSpec

WINDOW_HU = (-1024.0, 300.0)
"""The bundle's; torchvision wants values from 0 to 1 too."""
LUNA16_WINDOW_XYZ = (512, 512, 192)
LUNA16_ANCHORS_XYZ = ((6, 8, 4), (8, 6, 5), (10, 10, 6))
SIZE_MULTIPLE_XYZ = (16, 16, 8)


@dataclass(frozen=True)
class Rate:
    """Slices gone through in so many seconds: of the processor, or of the wall with a GPU; notes: what was fastest."""

    slices: int
    seconds: float
    notes: str

    @property
    def per_second(self) -> float:
        """Slices a second of one core, or of the GPU."""
        return self.slices / self.seconds


def faster_rcnn(volume_hu: NDArray[Any], spec: DeviceSpec, slices: int = 8, batches: Sequence[int] = (1, 4)) -> Rate:
    """The fastest way through `slices` slices, evenly spread, of a volume (z, y, x) of HU on the grid."""
    images = [image.to(spec.device) for image in neighbours(volume_hu, slices)]
    sides = {"min_size": min(volume_hu.shape[1:]), "max_size": max(volume_hu.shape[1:])}
    rates = []
    for (dtype, layout), batch in product(ways(spec, torch.channels_last), batches):
        torch.manual_seed(0)
        model = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2, **sides)
        model.eval().to(spec.device).to(memory_format=layout)
        parts = [images[start : start + batch] for start in range(0, len(images), batch)]
        notes = f"{_setting(dtype, layout)}, batches of {batch}"
        rates.append(timed(model, parts, parts[:1], len(images), spec, dtype, notes))
    return max(rates, key=lambda rate: rate.per_second)


def retinanet3d(volume_hu: NDArray[Any], spec: DeviceSpec, overlap: float = 0.25) -> Rate:
    """The fastest way through a volume (z, y, x) of HU on the grid, in windows as large as it allows.

    Sides must be multiples of 16 and slices of 8, so that nothing is padded; up to 192 slices of 512 x 512 are one
    window, which has no overlap to pay for. The way is chosen on 8 slices, which also warm it up.
    """
    x, y, z = volume_hu.shape[::-1]
    if any(n % multiple for n, multiple in zip((x, y, z), SIZE_MULTIPLE_XYZ, strict=True)):
        raise SystemExit(f"RetinaNet would pad {(x, y, z)}: want x, y, z in multiples of {SIZE_MULTIPLE_XYZ}")
    image = scaled(volume_hu).permute(2, 1, 0)[None].contiguous().to(spec.device)
    thin = image[..., : SIZE_MULTIPLE_XYZ[2]].contiguous()
    detector = luna16_detector().eval().to(spec.device)

    def detect(volume: Tensor) -> None:
        roi = [min(n, most) for n, most in zip(volume.shape[1:], LUNA16_WINDOW_XYZ, strict=True)]
        detector.set_sliding_window_inferer(roi_size=roi, overlap=overlap, sw_batch_size=1, mode="constant")
        detector([volume], use_inferer=True)

    trials = {}
    for dtype, layout in ways(spec, torch.channels_last_3d):
        detector.network.to(memory_format=layout)
        trials[dtype, layout] = timed(detect, [thin], [thin], thin.shape[-1], spec, dtype, "")
    dtype, layout = max(trials, key=lambda way: trials[way].per_second)
    detector.network.to(memory_format=layout)
    return timed(detect, [image], [thin], z, spec, dtype, _setting(dtype, layout))


PEERS: Final = {"Faster R-CNN": faster_rcnn, "MONAI RetinaNet": retinanet3d}


def luna16_detector() -> Any:
    """MONAI's detector as its LUNA16 bundle builds it, untrained."""
    try:
        from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
        from monai.apps.detection.networks.retinanet_network import RetinaNet, resnet_fpn_feature_extractor
        from monai.apps.detection.utils.anchor_utils import AnchorGeneratorWithAnchorShape
        from monai.networks.nets.resnet import resnet50
    except ImportError:
        raise SystemExit("MONAI is not installed: pip install -e '.[bench]'") from None
    torch.manual_seed(0)
    backbone = resnet50(spatial_dims=3, n_input_channels=1, conv1_t_stride=[2, 2, 1], conv1_t_size=[7, 7, 7])
    features = resnet_fpn_feature_extractor(backbone, 3, False, [1, 2], None)
    network = RetinaNet(
        spatial_dims=3, num_classes=1, num_anchors=3, feature_extractor=features, size_divisible=SIZE_MULTIPLE_XYZ
    )  # fmt: skip
    anchors = AnchorGeneratorWithAnchorShape((1, 2, 4), LUNA16_ANCHORS_XYZ)
    detector = RetinaNetDetector(network, anchors, spatial_dims=3, num_classes=1, size_divisible=SIZE_MULTIPLE_XYZ)
    detector.set_box_selector_parameters(
        score_thresh=0.0, topk_candidates_per_level=1000, nms_thresh=0.22, detections_per_img=300
    )
    return detector


def ways(spec: DeviceSpec, channels_last: torch.memory_format) -> list[tuple[torch.dtype, torch.memory_format]]:
    """float32, and bfloat16 where harvester itself would take it, in both layouts."""
    dtypes = dict.fromkeys((torch.float32, spec.dtype))
    return list(product(dtypes, (torch.contiguous_format, channels_last)))


@torch.inference_mode()
def timed(
    detect: Callable[[Any], Any],
    parts: Sequence[Any],
    warm: Sequence[Any],
    slices: int,
    spec: DeviceSpec,
    dtype: torch.dtype,
    notes: str,
) -> Rate:
    """The time of detecting in `parts`, `slices` in all, after `warm`, in a precision."""
    clock = time.perf_counter if spec.device.type == "cuda" else time.process_time
    with DeviceSpec(spec.device, dtype).autocast():
        for part in warm:
            detect(part)
        _wait(spec)
        began = clock()
        for part in parts:
            detect(part)
        _wait(spec)
    return Rate(slices, clock() - began, notes)


def neighbours(volume_hu: NDArray[Any], count: int) -> list[Tensor]:
    """Slices (3, y, x), evenly spread: each one's own in the middle channel; beyond the ends the end slice repeats."""
    depth = len(volume_hu)
    places = np.linspace(0, depth - 1, min(count, depth)).round().astype(int)
    volume = scaled(volume_hu)
    return [volume[np.clip([z - 1, z, z + 1], 0, depth - 1)] for z in places]


def scaled(volume_hu: NDArray[Any]) -> Tensor:
    """HU to float32 in [0, 1]."""
    low, high = WINDOW_HU
    return ((torch.from_numpy(volume_hu).float() - low) / (high - low)).clamp(0, 1)


def _wait(spec: DeviceSpec) -> None:
    if spec.device.type == "cuda":
        torch.cuda.synchronize()


def _setting(dtype: torch.dtype, layout: torch.memory_format) -> str:
    return f"{dtype}, {layout}".replace("torch.", "").replace("contiguous_format", "channels first").replace("_", " ")


def main() -> None:
    """Both peers on one made volume; random HU, which takes an untrained network as long as any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=32)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    spec = DeviceSpec.choose(torch.cuda.is_available(), "auto")
    shape_zyx = (options.slices, options.side, options.side)
    volume_hu = np.random.default_rng(0).integers(-1000, 300, shape_zyx).astype(np.int16)
    rates = {}
    for name, peer in PEERS.items():
        rate = peer(volume_hu, spec)
        rates[name] = asdict(rate) | {"per_second": rate.per_second}
        told_of = f"({rate.slices} in {rate.seconds:.1f} s; {rate.notes})"
        print(f"{name:16s}{rate.per_second:8.3f} slices a second {told_of}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rates, indent=1))


if __name__ == "__main__":
    main()
