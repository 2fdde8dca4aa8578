"""Settings of the two stages: the grid they see, their networks and training, linking. The whole tree: settings.py."""

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from harvester.config.data import Section, Window

SHOWN_HU: Final = (-1024, 3071)
"""What a stored volume holds."""


def _shows_something(window: tuple[float, float]) -> tuple[float, float]:
    low, high = window
    if low >= SHOWN_HU[1] or high <= SHOWN_HU[0]:
        raise ValueError(f"want a window that overlaps {SHOWN_HU[0]} to {SHOWN_HU[1]} HU, which a volume holds")
    if min(low, -high) < -1e5 or high - low < 1:
        raise ValueError("want ends within -100000 and 100000 HU, 1 HU apart at least")
    return window


GridSpacing = Annotated[float, Field(ge=0.05, le=50)]
ShownWindow = Annotated[Window, AfterValidator(_shows_something)]
Weights = Annotated[
    str,
    Field(
        description="'' from scratch, 'imagenet', or the path of a state dict: torchvision's published file or a "
        "Backbone's own"
    ),
]
Sha256 = Annotated[
    str, Field(pattern=r"^([0-9a-fA-F]{64})?$", description="digest that the weights' file must have; '' asks none")
]


class GridSettings(Section):
    """The network's grid and its grey values. windows: (low, high) in HU, each one channel per slice."""

    spacing_zyx_mm: tuple[GridSpacing, GridSpacing, GridSpacing] = Field(
        (4.0, 1.6, 1.6), description="voxels of the grid, in mm"
    )
    max_side_px: int = Field(512, ge=32, description="a slice that would have more pixels a side gets a coarser grid")
    windows_hu: tuple[ShownWindow, ...] = Field(
        ((-450.0, 1050.0), (-1350.0, 150.0), (-160.0, 240.0)),
        min_length=1,
        description="each from black to white; bone, lung, soft tissue",
    )


class SuppressionSettings(Section):
    """Hard negative suppression loss (HNSL); `off` is plain CenterNet."""

    mode: Literal["off", "signed", "additive"] = Field(
        "signed",
        description="signed: a known false find turns the target; additive: it adds to the weight; off: CenterNet",
    )
    weight: float = Field(1.0, ge=0, description="of a known false find")

    @field_validator("mode", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML reads a bare off as false


class LossWeights(Section):
    """Weights of the generator's loss terms; the keys are the terms' names."""

    heat: float = Field(1.0, gt=0, description="where lesions are")
    size: float = Field(0.1, ge=0, description="how large they are")
    offset: float = Field(1.0, ge=0, description="where in its cell a centre lies")


FinetuneKeeps = Annotated[
    float,
    Field(
        ge=0,
        lt=1,
        description="share of the weights that a finetuning starts from in those that it ends with: few labels teach, "
        "and what was known of other patients stays",
    ),
]


class GeneratorSettings(Section):
    """LPG: network, training, decoding."""

    backbone: Literal["small", "resnet18", "densenet121"] = Field(
        "small", description="densenet121 is the paper’s; small runs on CPUs"
    )
    weights: Weights = ""
    weights_sha256: Sha256 = ""
    width: int = Field(32, ge=8, description="of the small backbone: its channels at stride 4")
    channels: int = Field(32, ge=8, description="after fusing the slice groups")
    head_channels: int = Field(16, ge=8, description="of each of the three heads")
    stride: Literal[2, 4] = Field(
        2, description="pixels of the grid per cell of the heat map: touching lesions need cells smaller than they are"
    )
    target_iou: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="how far around a lesion's centre a peak is no error: as far as its box, moved there, has this IoU "
        "with itself; 0.7 is published",
    )
    slab_depth: int = Field(8, ge=1, description="slices that a training example holds")
    batch_slabs: int = Field(4, ge=1, description="training examples a step")
    crop_px: int = Field(
        0, ge=0, multiple_of=16, description="side of the training crop on the grid; 0 is the whole slice"
    )
    steps: int = Field(200, ge=1, description="of round 0, where it starts from nothing")
    finetune_steps: int = Field(80, ge=1, description="of later rounds, and of round 0 from starting weights")
    finetune_from: Literal["last", "first"] = Field(
        "last", description="the round whose generator a round starts from; first: round 0's, with all labels since"
    )
    learning_rate: float = Field(2e-3, gt=0, description="at its highest, in round 0")
    finetune_learning_rate: float = Field(5e-4, gt=0, description="the same of later rounds")
    finetune_keeps: FinetuneKeeps = 0.5
    weight_decay: float = Field(1e-4, ge=0, description="of AdamW")
    marked_slab_share: float = Field(
        0.75, ge=0, le=1, description="share of training examples drawn around a label; the rest is drawn anywhere"
    )
    unmarked_slice_weight: float = Field(
        0.0,
        ge=0,
        le=1,
        description="of V_H's slices without a lesion's label: 0 teaches nothing there, 1 takes them for background "
        "as if V_H were completely marked",
    )
    augment: bool = Field(True, description="mirror, scale, noise and a shift of grey values in training")
    paste_lesions: float = Field(0.0, ge=0, le=1, description="share of slabs that get a lesion copied in from vm")
    loss: LossWeights = LossWeights()
    suppression: SuppressionSettings = SuppressionSettings()
    top_k: int = Field(100, ge=1, description="boxes of a slice, best first")
    score_floor: float = Field(0.1, ge=0, lt=1, description="boxes that score less are dropped")
    body_mask: bool = Field(True, description="nothing is proposed outside of the body")


class TeacherSettings(Section):
    """A running mean of the generator that adds what it is sure of to its targets (proposals/teacher.py)."""

    cut: float = Field(0.0, ge=0, lt=1, description="score from which the teacher is sure; 0 is no teacher")
    keeps: float = Field(0.99, ge=0, lt=1, description="of the teacher's weights at each step")


class LinkingSettings(Section):
    """Slice boxes to tubelets."""

    iou_floor: float = Field(0.3, ge=0, le=1, description="overlap of boxes on neighbouring slices that are one lesion")
    max_gap: int = Field(1, ge=0, description="slices without a box that a lesion may have inside")
    min_length: int = Field(1, ge=1, description="fewest boxes of a lesion")
    end_share: float = Field(
        0.4, ge=0, le=1, description="end slices scored below this share of the tubelet's best are cut off"
    )
    suppress_iou: float = Field(0.5, gt=0, le=1, description="of two tubelets that overlap more, the worse goes")


class ClassifierSettings(Section):
    """LPC: views, network, training."""

    backbone: Literal["small", "resnet18"] = Field("small", description="resnet18 is the larger one")
    weights: Weights = ""
    weights_sha256: Sha256 = ""
    channels: int = Field(32, ge=8, description="of the small backbone")
    views: int = Field(5, ge=1, le=9, description="axial ones, spread along the tubelet")
    reformats: bool = Field(True, description="besides, a coronal and a sagittal view through its centre")
    poses: int = Field(
        2,
        ge=1,
        le=4,
        description="in how many a tubelet is scored, mean logit: as it lies, mirrored, upside down, turned by 90 "
        "degrees; each takes the time of the first",
    )
    own_pixels: bool = Field(
        True, description="views are cut from the volume's own pixels; false: from what the generator sees of it"
    )
    local_px: int = Field(48, ge=16, description="pixels a side of the local view")
    local_scale: float = Field(2.0, gt=0, description="side of the local view over the longest side of the box")
    local_mm_min: float = Field(24.0, gt=0, description="the least side of the local view")
    global_px: int = Field(48, ge=16, description="the same of the global view")
    global_mm: float = Field(128.0, gt=0, description="side of the global view")
    max_tubelets: int = Field(40, ge=1, description="best-scored tubelets of a volume that are classified")
    match_iou: float = Field(0.5, gt=0, le=1, description="P3D IoU from which a tubelet is a lesion in training")
    steps: int = Field(200, ge=1, description="of round 0, where it starts from nothing")
    finetune_steps: int = Field(100, ge=1, description="of later rounds, and of round 0 from starting weights")
    batch_size: int = Field(32, ge=2, description="tubelets of a training step")
    tubelets_per_volume: int = Field(
        4, ge=1, description="of a step's tubelets, how many come from one volume, which is decoded once for them"
    )
    learning_rate: float = Field(2e-3, gt=0, description="at its highest, in round 0")
    finetune_learning_rate: float = Field(1e-3, gt=0, description="the same of later rounds")
    finetune_keeps: FinetuneKeeps = 0.5
    weight_decay: float = Field(1e-3, ge=0, description="of AdamW")
    augment: bool = Field(True, description="mirror, turn, shift and scale views in training")

    @property
    def volumes_per_step(self) -> int:
        """From how many volumes a training step's tubelets come."""
        return self.batch_size // self.tubelets_per_volume

    @model_validator(mode="after")
    def _a_step_is_whole_volumes(self) -> "ClassifierSettings":
        if self.batch_size % self.tubelets_per_volume:
            raise ValueError(
                f"batch_size = {self.batch_size} is no multiple of tubelets_per_volume = {self.tubelets_per_volume}"
            )
        return self
