"""Settings: one frozen tree that refuses unknown keys. Defaults < YAML file < `--set a.b=c`.

Every number that the paper leaves open is a field here. `resolve` builds the tree, `dump` writes it, `settings_hash`
names it (and any part of it), so that a step's output can be named by its inputs.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from harvester.config.data import DataSettings, Section, Window

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


class OperatingPointSettings(Section):
    """The precision target and what Ray Tune searches for the most recall under it."""

    certificate: Literal["calibration", "audit", "both"] = Field(
        "calibration",
        description="what proves the precision. calibration: completely marked patients (V_M). audit: people who look "
        "at a random part of what was found (harvester audit); needs no V_M, and the run itself harvests nothing. "
        "both: either, each at half of the chance to be wrong",
    )
    target_precision: float = Field(0.90, gt=0, lt=1, description="what is promised of the harvest")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="of the promise")
    match_iou: float = Field(0.5, gt=0, le=1, description="P3D IoU from which a find is right")
    min_patients: int = Field(
        3,
        ge=1,
        description="refuse to certify on accepted tubelets of fewer patients; at 0.90 fewer than 13 prove nothing",
    )
    lpg_floors: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = Field(
        (0.1,), min_length=1, description="lowest generator scores to try"
    )
    lpg_weights: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (0.5,), min_length=1, description="shares of the generator's logit in the score that is selected by"
    )
    min_slices: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (1, 2), min_length=1, description="fewest slices of a find to try"
    )

    @property
    def level(self) -> float:
        """The chance that a certificate is wrong: of each of two, half."""
        return (1 - self.confidence) * (0.5 if self.certificate == "both" else 1.0)


class MiningSettings(Section):
    """Hard negatives, sure (vm) and possible (vh)."""

    hard_negatives_per_volume: int = Field(10, ge=0, description="sure ones, of V_M")
    possible_lpg_above: float = Field(
        0.3, ge=0, le=1, description="a possible one of V_H: the generator scores it at least so"
    )
    possible_lpc_below: float = Field(0.05, ge=0, le=1, description="and the classifier at most so")
    possible_max_per_volume: int = Field(10, ge=0, description="possible ones, of V_H")
    learn_likely: bool = Field(
        True,
        description="whether a round learns, weighed by its probability, from what of V_H the point estimate alone "
        "would have harvested in the round before, as the paper's loop does; no part of the harvest",
    )
    clear_iou: float = Field(0.1, gt=0, le=1, description="overlap from which a tubelet is no hard negative")
    known_iou: float = Field(
        0.3, gt=0, le=1, description="overlap from which a tubelet is the lesion that is known there, not one beside it"
    )


class ComputeSettings(Section):
    """How the steps run on Ray. Threads follow num_cpus."""

    replicas: int = Field(2, ge=1, description="at most so many actors propose or score at the same time")
    min_replicas: int | None = Field(
        None, ge=1, description="work begins with so many, more join as the cluster has room; null: all"
    )
    cpus_per_replica: float = Field(0.9, gt=0, description="of an actor that proposes or scores")
    gpus_per_replica: float = Field(0.0, ge=0, description="a fraction shares a GPU")
    memory_gib_per_replica: float = Field(
        0.0, ge=0, description="asked of Ray, which then puts no more on a node than it has; 0 asks for none"
    )
    readers: int | None = Field(
        None,
        ge=1,
        description="threads that read and decode volumes ahead of a replica's device; null: 3 on a GPU, else 1. A "
        "replica holds so many volumes and three more: one waits, one is on the device, one is being linked",
    )
    wait_for_nodes_minutes: float = Field(
        0, ge=0, description="an autoscaling cluster has no nodes at first: how long the start waits for them"
    )
    train_workers: int = Field(
        1,
        ge=1,
        description="up to `folds` of them fit whole folds, more share a fold's batches; the models are the same",
    )
    cpus_per_train_worker: float = Field(2.0, gt=0, description="of a training worker")
    train_gpu: bool = Field(False, description="a GPU for each training worker")
    train_retries: int = Field(
        8, ge=0, description="how often a fit goes on from its last checkpoint after its workers were lost"
    )
    no_progress_minutes: float = Field(
        60,
        gt=0,
        description="proposing and scoring give up where no volume is begun or done for so long, training where no "
        "checkpoint is written; preparation refuses a scan whose reader takes longer, twice",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of inference; auto takes what all nodes are fast in, at the first start"
    )
    compile: bool = Field(
        False, description="torch.compile for inference: a minute per actor at first, then faster; for long runs"
    )

    @property
    def least_replicas(self) -> int:
        """With how many the work begins."""
        return self.replicas if self.min_replicas is None else self.min_replicas

    @field_validator("gpus_per_replica")
    @classmethod
    def _shares_one_or_takes_whole_ones(cls, gpus: float) -> float:
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(f"want a share of one GPU or whole ones, got {gpus:g}")
        return gpus

    @model_validator(mode="after")
    def _least_is_not_most(self) -> "ComputeSettings":
        if self.least_replicas > self.replicas:
            raise ValueError(f"min_replicas = {self.min_replicas} is more than replicas = {self.replicas}")
        return self


class RetrainSettings(Section):
    """Detectors that are trained on the archive with and without its harvest: harvester retrain."""

    detectors: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        ("faster_rcnn", "fcos", "generator"),
        min_length=1,
        description="faster_rcnn, fcos, generator, or one of your own: file.py:function (detectors/detector.py)",
    )
    backbone: Literal["resnet18", "resnet50"] = Field("resnet18", description="of the first two; resnet50 wants a GPU")
    weights: Weights = ""
    weights_sha256: Sha256 = ""
    channels: int = Field(64, ge=32, multiple_of=32, description="of the feature pyramid; torchvision's default is 256")
    window_hu: ShownWindow = Field((-600.0, 500.0), description="black and white of the three slices of an image")
    seeds: int = Field(3, ge=1, description="how often each detector is trained on each label set")
    steps: int = Field(300, ge=1, description="of each fit")
    batch_images: int = Field(8, ge=1, description="images a step")
    crop_px: int = Field(128, ge=32, multiple_of=32, description="side of a training image on the grid")
    learning_rate: float = Field(1e-3, gt=0, description="at its highest")
    weight_decay: float = Field(1e-2, ge=0, description="of AdamW")
    score_floor: float = Field(0.05, ge=0, lt=1, description="boxes that score less are no detections")
    exchange_rate: bool = Field(
        True,
        description="train the first detector on the full truth with false labels and with missing ones, too: what "
        "precision and recall of a harvest are worth",
    )
    resamples: int = Field(1000, ge=0, description="of patients, for the intervals")


class ReportSettings(Section):
    """Pictures of the report."""

    gallery: int = Field(24, ge=0, description="found lesions that are shown; half as many of each other kind")
    slices_per_picture: int = Field(3, ge=1, description="of each lesion")


class Settings(Section):
    """The whole tree."""

    name: str = Field(
        "run", pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", description="of the run; the config’s by default"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="of every random choice")
    rounds: int = Field(2, ge=1, description="at most")
    min_gain: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="stop when no more than this share of V_H's best candidates is new; after two rounds in a row that "
        "harvest nothing, too",
    )
    folds: int = Field(2, ge=2, description="models never score a patient they saw: folds by patient")
    starting_weights: str = Field(
        "shipped",
        description="what both stages are finetuned from in round 0: shipped (with harvester, for the small networks "
        "on the grid of 4 x 1.6 mm), a folder of `harvester pretrain`, or '' for none",
    )
    whole_model: bool = Field(
        False, description="fit one more model of each stage, on all patients: for weights (`harvester pretrain`)"
    )
    data: DataSettings = DataSettings()
    grid: GridSettings = GridSettings()
    generator: GeneratorSettings = GeneratorSettings()
    teacher: TeacherSettings = TeacherSettings()
    linking: LinkingSettings = LinkingSettings()
    classifier: ClassifierSettings = ClassifierSettings()
    operating_point: OperatingPointSettings = OperatingPointSettings()
    mining: MiningSettings = MiningSettings()
    compute: ComputeSettings = ComputeSettings()
    retrain: RetrainSettings = RetrainSettings()
    report: ReportSettings = ReportSettings()

    @property
    def models(self) -> int:
        """Of each stage: one a fold, and one of all patients where it is asked for."""
        return self.folds + self.whole_model

    @model_validator(mode="after")
    def _every_worker_has_an_item(self) -> "Settings":
        sharing = -(-self.compute.train_workers // self.folds)
        batches = {
            "generator.batch_slabs": self.generator.batch_slabs,
            "classifier.batch_size / tubelets_per_volume": self.classifier.volumes_per_step,
        }
        name, least = min(batches.items(), key=lambda item: item[1])
        if sharing > least:
            raise ValueError(
                f"compute.train_workers = {self.compute.train_workers} puts {sharing} workers on a fold (of folds = "
                f"{self.folds}), but {name} = {least} gives so many of them an item; want at most {least * self.folds}"
            )
        return self
