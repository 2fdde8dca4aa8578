"""torchvision's Faster R-CNN and FCOS on a ResNet with a feature pyramid, for lesions of 5 to 100 pixels.

What differs from torchvision's defaults is what the images are: they are not resized, the pyramid begins at 4 pixels
per cell, and it has few channels. Weights of ImageNet go into the backbone (setting retrain.weights).
"""

from collections import OrderedDict
from typing import Any, Final

from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

from harvester.config.settings import Settings
from harvester.detectors.detector import CLASSES, Detector
from harvester.models.backbones import build_backbone

STRIDES: Final = (4, 8, 16)
RATIOS: Final = (0.5, 1.0, 2.0)
ROIS_PER_IMAGE: Final = 64
PROPOSALS: Final = 256
MOST_BOXES: Final = 50
HIDDEN: Final = 256
SLICES: Final = 3


class Pyramid(nn.Module):
    """A backbone of models/backbones.py with a feature pyramid, as torchvision's detectors want it."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        own = settings.retrain
        self.body = build_backbone(own.backbone, SLICES, 0, own.weights, own.weights_sha256)
        self.out_channels = own.channels
        self.pyramid = FeaturePyramidNetwork(list(self.body.out_channels[1:]), own.channels)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(n, 3, y, x) to maps of equal channels by their strides."""
        maps: list[Tensor] = self.body(images)[1:]
        named = OrderedDict((str(stride), each) for stride, each in zip(STRIDES, maps, strict=True))
        levels: dict[str, Tensor] = self.pyramid(named)
        return levels


def faster_rcnn(settings: Settings) -> Detector:
    """Faster R-CNN (Ren et al. 2015), two stages."""
    sizes = tuple((2 * stride, 3 * stride) for stride in STRIDES)
    levels = [str(stride) for stride in STRIDES]
    pyramid = Pyramid(settings)
    model = FasterRCNN(
        pyramid,
        rpn_anchor_generator=AnchorGenerator(sizes, (RATIOS,) * len(sizes)),
        rpn_pre_nms_top_n_train=2 * PROPOSALS,
        rpn_pre_nms_top_n_test=2 * PROPOSALS,
        rpn_post_nms_top_n_train=PROPOSALS,
        rpn_post_nms_top_n_test=PROPOSALS,
        rpn_batch_size_per_image=ROIS_PER_IMAGE,
        box_roi_pool=MultiScaleRoIAlign(levels, output_size=7, sampling_ratio=2),
        box_head=_two_layers(7 * 7 * pyramid.out_channels),
        box_predictor=FastRCNNPredictor(HIDDEN, CLASSES),
        box_batch_size_per_image=ROIS_PER_IMAGE,
        box_score_thresh=settings.retrain.score_floor,
        box_detections_per_img=MOST_BOXES,
    )
    return as_they_are(model)


def fcos(settings: Settings) -> Detector:
    """FCOS (Tian et al. 2019), one stage without anchors."""
    anchors = AnchorGenerator(tuple((stride,) for stride in STRIDES), ((1.0,),) * len(STRIDES))
    model = FCOS(
        Pyramid(settings),
        CLASSES,
        anchor_generator=anchors,
        score_thresh=settings.retrain.score_floor,
        detections_per_img=MOST_BOXES,
        topk_candidates=2 * PROPOSALS,
    )
    return as_they_are(model)


class NoResize(GeneralizedRCNNTransform):  # type: ignore[misc]  # torchvision gives no types
    """Images of any side stay as large as they are; grey values are moved to about mean 0 and deviation 1."""

    def __init__(self) -> None:
        super().__init__(0, 0, [0.25] * SLICES, [0.25] * SLICES)

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, Any]:
        """Both as they are. (torchvision's own `_skip_resize` holds in training alone.)"""
        return image, target


def as_they_are(model: nn.Module) -> Detector:
    """A detector of torchvision that resizes nothing."""
    model.transform = NoResize()
    return Detector(model)


def _two_layers(features: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU())
