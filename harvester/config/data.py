"""Settings of the data: what is made, what is read of somebody's archive, and how. The other sections: settings.py."""

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator


class Section(BaseModel):
    """Base of every section of the tree: frozen, unknown keys refused, defaults checked too, numbers all finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _yes_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        if _holds_bool(value) and _is_numeric(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError("want a number, not yes or no")
        return value


def _holds_bool(value: Any) -> bool:
    held = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return isinstance(value, bool) or any(map(_holds_bool, held))


def _is_numeric(annotation: Any) -> bool:
    return annotation in (int, float) or any(map(_is_numeric, get_args(annotation)))


def _in_order(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"want the lower end first, got {pair[0]:g} and {pair[1]:g}")
    return pair


def _apart(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] == pair[1]:
        raise ValueError(f"want two ends that differ, got {pair[0]:g} twice")
    return _in_order(pair)


Positive = Annotated[float, Field(gt=0)]
Spacing = tuple[Positive, Positive, Positive]
Window = Annotated[tuple[float, float], AfterValidator(_apart)]
PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(_in_order)]
_Slices = Annotated[int, Field(ge=6)]
SliceRange = Annotated[tuple[_Slices, _Slices], AfterValidator(_in_order)]


class PhantomSettings(Section):
    """Made torsos with lesions of known truth (datasets/phantom)."""

    vm_volumes: int = Field(90, ge=0, description="completely marked ones")
    vh_test_volumes: int = Field(90, ge=0, description="partly marked ones, their truth hidden")
    vd_test_volumes: int = Field(0, ge=0, description="for detectors retrained on the harvest (harvester retrain)")
    volumes_per_patient: int = Field(2, ge=1, description="scans of one patient")
    depth: int = Field(20, ge=6, description="slices of a volume")
    lesions_per_volume: float = Field(4.0, gt=0, description="mean count")
    marked_share: float = Field(0.37, gt=0, le=1, description="of lesions that the clinic marks, at least one a volume")
    distractors_per_volume: float = Field(
        10.0, ge=0, description="mean count of things that look like lesions; more cost precision first"
    )
    lesion_contrast: float = Field(
        1.0, gt=0, description="scales lesions' HU contrast against organs; below 1 is harder, costs recall first"
    )
    lesion_size: float = Field(
        1.0, gt=0, description="scales lesions' median diameters within their kinds' limits; below 1 is harder"
    )
    lesion_texture: float = Field(
        1.0, ge=0, description="scales lesions' dark core and grain, which vessels and gut lack; 0 is hardest"
    )
    noise_hu: float = Field(14.0, ge=0, description="mean standard deviation of the noise")


LesionKind = Literal[
    "nodule", "part_solid", "ground_glass", "cavitary", "calcified",
    "hypodense", "hyperdense", "cystic", "rim_enhancing", "node", "node_chain", "bone_lytic", "bone_sclerotic", "mass",
]  # fmt: skip
"""What is inserted: in lung, organs, fat and bone, and masses; see datasets/insertion/kinds.py."""


class InsertionSettings(Section):
    """Lesions of known truth inserted into real CT (datasets/insertion)."""

    source: str = Field("$HARVESTER_DATA/ct", description="folder of the scans")
    backgrounds: str = Field("backgrounds", description="list of scans: a file, or one that ships")
    vm_volumes: int = Field(150, ge=0, description="completely marked ones")
    vh_test_volumes: int = Field(90, ge=0, description="partly marked ones, their truth hidden")
    vd_test_volumes: int = Field(0, ge=0, description="for detectors retrained on the harvest (harvester retrain)")
    vm_backgrounds: tuple[str, ...] = Field((), description="ids of the list, whatever their role; none: role vm")
    vh_test_backgrounds: tuple[str, ...] = Field((), description="the same for vh_test")
    vd_test_backgrounds: tuple[str, ...] = Field((), description="the same for vd_test, which no role stands for")
    depth: SliceRange = Field((30, 80), description="fewest and most of the scan's own slices in a volume")
    max_mm: float = Field(160.0, gt=0, description="no volume is longer; goes before the fewest slices")
    lesions_per_volume: float = Field(5.0, gt=0, description="mean count")
    marked_share: float = Field(0.37, gt=0, le=1, description="of lesions that the clinic marks, at least one a volume")
    nodule_mm: PositiveRange = Field((5.0, 30.0), description="least and largest diameter of all kinds in lung")
    organ_mm: PositiveRange = Field((10.0, 60.0), description="least and largest diameter in organs")
    node_mm: PositiveRange = Field((10.0, 28.0), description="of lymph nodes")
    bone_mm: PositiveRange = Field((8.0, 40.0), description="of bone lesions")
    mass_mm: PositiveRange = Field((40.0, 80.0), description="of masses")
    contrast_hu: PositiveRange = Field(
        (25.0, 80.0), description="of organ lesions, both ways; the smallest take theirs from the upper half"
    )
    kind_weights: dict[LesionKind, Positive] = Field(
        {
            "nodule": 0.2,
            "part_solid": 0.05,
            "ground_glass": 0.05,
            "cavitary": 0.04,
            "calcified": 0.06,
            "hypodense": 0.1,
            "hyperdense": 0.07,
            "cystic": 0.05,
            "rim_enhancing": 0.05,
            "node": 0.14,
            "node_chain": 0.06,
            "bone_lytic": 0.04,
            "bone_sclerotic": 0.04,
            "mass": 0.05,
        },
        min_length=1,
        description="shares of what is tried; what finds no place makes way for others",
    )
    scale_jitter: float = Field(0.05, ge=0, lt=0.5, description="in-plane, so that no two volumes are equal")
    shift_mm: float = Field(6.0, ge=0, description="in-plane, so that no two volumes are equal")
    noise_jitter: float = Field(0.5, ge=0, description="most added noise as a share of the scan's own")


class DicomSettings(Section):
    """Which DICOM series are taken, and which objects' marks (datasets/archive/dicom.py)."""

    refused_image_types: tuple[str, ...] = Field(
        (
            "3D", "AVERAGE", "COR", "CORONAL", "CPR", "CURVED", "DOSE", "DOSE_INFO", "FUSED", "FUSION", "MINIP",
            "MIP", "OBLIQUE", "PERFUSION", "PROJECTION IMAGE", "REPORT", "SAG", "SAGITTAL", "SCREEN SAVE",
            "SCREENSAVE", "SSD", "SUMMARY", "VOLREN", "VRT",
        ),
        description="words of ImageType that mark an image which no scanner took; LOCALIZER is always refused",
    )  # fmt: skip
    reconstructions: Literal["one", "all"] = Field(
        "one", description="of several reconstructions of one acquisition; all counts a lesion once in each"
    )
    soft_kernels: str = Field(
        r"[BDHIJQ][A-Z]?[1-4]\d.*|STAND.*|STND|SOFT.*|BODY.*|FC[01]\d.*|[SY]?[ABC]",
        description="pattern of a whole ConvolutionKernel that shows soft tissue, in capitals; these are taken first",
    )
    marks: tuple[Literal["sr", "seg", "rtstruct"], ...] = Field(
        ("sr", "seg", "rtstruct"), description="objects whose lesions are read as marks"
    )
    machine_marks: bool = Field(
        False, description="take marks that a program made and nobody verified as the clinic's own"
    )
    lesion_names: str = Field(
        r"[ipn]?gtv\w*|l(?:e|é|ä|ae)si[oó]\w*|tumou?r\w{0,2}|tumeurs?|n[oó]dul\w*|mass|masses|metast\w*|mets?|"
        r"neopl\w*|cancers?|carcinom\w*|sarcom\w*|lymphom\w*|malign\w*|(?:rund)?herde?|recist",
        description="pattern of words in the name of a region (RTSTRUCT) or segment (SEG) that is a lesion, where no "
        "code or type says so; digits and signs part words",
    )
    other_names: str = Field(
        "lungs?|liver|hearts?|kidneys?|spleen|pancreas|stomach|bowel|colon|rectum|bladder|prostate|uterus|oesophagus|"
        "esophagus|trachea|bronch[a-z]*|aorta|vein|veins|artery|arteries|vessels?|cord|spinal|spine|vertebra[a-z]*|"
        "ribs?|bones?|skeleton|muscles?|fat|skin|body|external|outline|patient|couch|table|brain|brainstem|eyes?|lens|"
        "parotids?|mandible|larynx|thyroid|femurs?|femoral|hips?|pelvis|sternum|breasts?|chest|abdomen|head|oral|"
        "cavity|optic|chiasm|pituitary|cochlea|plexus|skull|sacrum|duodenum|gallbladder|adrenals?|iso|isocentre|"
        "isocenter|marker|markers|poi|bolus|artifacts?|artefacts?|background|air|lumen|thorax|mediastinum|carina",
        description="the same of what is surely none: other names leave in doubt whether a lesion was marked, and "
        "their scan does not count as completely marked",
    )
    lesion_codes: tuple[str, ...] = Field(
        (), description="code values (SNOMED CT and others) of segments that are lesions, besides the known ones"
    )

    @field_validator("lesion_names", "other_names")
    @classmethod
    def _are_patterns(cls, text: str) -> str:
        return cls._is_pattern(text)

    @field_validator("soft_kernels")
    @classmethod
    def _is_pattern(cls, text: str) -> str:
        try:
            re.compile(text)
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from None
        return text


class ArchiveSettings(Section):
    """Somebody's own scans (datasets/archive)."""

    format: Literal["auto", "nifti", "dicom"] = Field("auto", description="auto takes both")
    marks: Literal["auto", "csv", "coco", "mask", "objects"] = Field(
        "auto", description="auto takes whichever there is (objects are DICOM's); a scan with two kinds is refused"
    )
    clinical_marks: Literal["auto", "given", "largest"] = Field(
        "auto",
        description="which lesions of completely marked scans the clinic had marked: as the tables say (given), or the "
        "largest ones, as many per volume as V_H has (largest); auto draws where marks cannot say it: masks, DICOM "
        "objects, tables without `clinical`",
    )
    min_slices: int = Field(8, ge=1, description="thinner scans are refused")
    slice_spacing_mm: PositiveRange = Field((0.3, 10.0), description="least and most, by positions or affine")
    nifti_form: Literal["auto", "sform", "qform"] = Field(
        "auto",
        description="which affine of a NIfTI counts; auto takes the sform, else the qform, and refuses a scan whose "
        "spacings they, or they and pixdim, give otherwise",
    )
    max_voxels: int = Field(
        1000 * 1024 * 1024,
        ge=1,
        description="a scan that claims more, or more than two bytes for each of these, is refused before room is made",
    )
    missing_is_air: bool = Field(
        False, description="NaN in a NIfTI is padding and becomes air; otherwise the scan is refused"
    )
    any_values: bool = Field(
        False, description="take scans whose values do not look like a CT in HU; otherwise they are refused"
    )
    mask_suffix: str = Field(".mask", min_length=1, description="a.mask.nii.gz is the mask of a.nii.gz")
    mask_folder: str = Field(
        "masks",
        pattern=r"^[^/\\]*$",
        description="masks/a.nii.gz is the mask of a.nii.gz or images/a.nii.gz; '' for no such folder. labelsTr and "
        "labelsTs are known besides",
    )
    mask_labels: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="labels that are lesions; none given: all but 0"
    )
    mask_split_labels: bool = Field(
        False, description="labels number lesions: two that touch are two; else labels that touch are one lesion"
    )
    mask_min_mm: float = Field(
        2.0, ge=0, description="a mask's components whose box is shorter than this both ways are strays, dropped"
    )
    dicom: DicomSettings = DicomSettings()
    vh_test_share: float = Field(
        0.0, ge=0, le=1, description="share of the completely marked patients kept to measure on (vh_test)"
    )


class DeepLesionSettings(Section):
    """DeepLesion as it is published (datasets/deeplesion). Files: under the source folder, else as the path says."""

    info: str = Field("DL_info.csv", min_length=1, description="table of the clinical marks and the official split")
    mining_marks: str = Field("", description="full annotation of V_M: published pickle, .parquet or .csv")
    harvest_test_marks: str = Field("", description="the same of V_H^test, hidden from the harvest")
    detector_test_marks: str = Field("", description="the same of V_D^test, never seen while harvesting")
    marks: tuple[str, ...] = Field(
        (), description="clinical marks (RECIST-Box-*.pkl) to take for the volumes they name, not info's"
    )
    keep_noisy: bool = Field(False, description="take the marks flagged Possibly_noisy too")
    match_iou: float = Field(0.5, gt=0, le=1, description="overlap from which an annotated box is a clinical mark's")


class DataSettings(Section):
    """Where the volumes come from. `store` reads what `harvester prepare` (or --store) made; the others are made."""

    kind: Literal["store", "phantom", "insertion", "made", "archive", "deeplesion"] = Field(
        "store", description="made: insertion and phantom in one store"
    )
    store: str = Field("", description="folder or URI of a store")
    unlike_marks: Literal["refuse", "accept"] = Field(
        "refuse",
        description="of a store whose V_M has clinical marks unlike V_H's; accept: harvested all the same, more of the "
        "harvest may be wrong than the certificate says",
    )
    max_reject_share: float = Field(0.1, ge=0, le=1, description="a step fails where more of its volumes fail")
    phantom: PhantomSettings = PhantomSettings()
    insertion: InsertionSettings = InsertionSettings()
    archive: ArchiveSettings = ArchiveSettings()
    deeplesion: DeepLesionSettings = DeepLesionSettings()
