"""Settings: one frozen tree that refuses unknown keys. Defaults < YAML file < `--set a.b=c`.

Every number that the paper leaves open is a field here. `resolve` builds the tree, `dump` writes it, `settings_hash`
names it (and any part of it), so that a step's output can be named by its inputs.
"""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from harvester.config.data import DataSettings, Section
from harvester.config.models import (
    ClassifierSettings,
    GeneratorSettings,
    GridSettings,
    LinkingSettings,
    Sha256,
    ShownWindow,
    TeacherSettings,
    Weights,
)


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
    steps: int = Field(300, ge=1, description="of each fit; of the generator ten times as many, which are shorter")
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
