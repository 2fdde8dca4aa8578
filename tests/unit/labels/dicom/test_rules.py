"""What of an object is a lesion by its name, and that nothing is passed over without a row."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    BasicTextSRStorage,
    ChestCADSRStorage,
    ExtensibleSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    SegmentationStorage,
)

from harvester.config.data import ArchiveSettings, DicomSettings
from harvester.datasets.archive.archive import discover, read
from harvester.datasets.discovery import Discovery
from harvester.labels.dicom.rules import MarkRules
from tests.dicom_files import put
from tests.dicom_objects import code, content, group, put_segmentation, referred, report, scoord, scoord3d, structures
from tests.unit.labels.dicom.test_read import SIDE, in_mm, put_ct, rectangle

RULES = MarkRules.of(DicomSettings())
BOX = rectangle(5, 6, 14, 12)
EXPECTED = [(4, 5, 6, 14, 12)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A series of 12 slices of 40 x 40 in the folder ct that a table says is completely marked."""
    put_ct(tmp_path / "ct", [f"{n:02d}.dcm" for n in range(12)])
    (tmp_path / "volumes.csv").write_text("file,complete\nct,1\n")
    return tmp_path


def found(root: Path, **settings: Any) -> Discovery:
    return discover(root, ArchiveSettings(dicom=DicomSettings(**settings)), 0, "salt")


def outcome(root: Path, **settings: Any) -> tuple[str, list[tuple[float, ...]], str]:
    """The scan's split, its boxes, and what the row says of what is passed over."""
    own = ArchiveSettings(dicom=DicomSettings(**settings))
    result = found(root, **settings)
    (case,) = result.cases
    assert {row.reason for row in result.rejects} <= {"marks_passed_over"}
    marks = read(case, root, own)[1]
    boxes = [(mark.z, *(round(side, 2) for side in (mark.x1, mark.y1, mark.x2, mark.y2))) for mark in marks]
    return case.split, boxes, "".join(row.message.partition(":")[0] for row in result.rejects)


LESIONS = (
    "GTV", "gtv_1", "GTVp", "GTVnodes", "iGTV 2", "Left lung tumor", "Neoplasm, Primary", "Lung Nodule 1", "nodule",
    "Tumour", "lesion_3", "Metastasis liver", "mets", "Liver lesion (cyst?)", "MASS", "breast cancer", "Tumeur",
    "GTV-1", "Target lesion 2", "Non-target lesion 1", "RECIST_3", "Rundherd S6", "Läsion", "lésion foie", "nódulo",
)  # fmt: skip
OTHERS = ("Lung L", "lungs", "Heart", "Spinal_Cord", "BODY", "Liver", "Bowel bag", "External", "Left kidney")
UNCLEAR = (
    "ROI 1", "Segment_2", "", "Lungs-GTV", "Lungs - GTV", "Liver minus GTV", "lung without tumour", "PTV tumour",
    "tumour bed", "PancreasHead", "no lesion", "planning target volume of tumour",
    "ITV", "CTV_nodule", "massive", "dose 20 Gy", "GTV+5mm margin",
)  # fmt: skip


@pytest.mark.parametrize("name", LESIONS)
def test_names_of_lesions(name: str) -> None:
    assert RULES.tell(name) is True


@pytest.mark.parametrize("name", OTHERS)
def test_names_of_organs(name: str) -> None:
    assert RULES.tell(name) is False


@pytest.mark.parametrize("name", UNCLEAR)
def test_names_that_leave_it_open(name: str) -> None:
    assert RULES.tell(name) is None


def test_patterns_are_settings() -> None:
    own = MarkRules.of(DicomSettings(lesion_names="herde?", other_names="roi"))
    assert [own.tell(name) for name in ("Herd 1", "ROI 1", "GTV", "Heart")] == [True, False, None, None]
    with pytest.raises(ValueError, match="no regular expression"):
        DicomSettings(lesion_names="(")


@pytest.mark.parametrize(
    ("name", "kind", "marked", "told"),
    [
        ("Left lung tumor", "", True, ""),
        ("GTV-1", "ORGAN", True, ""),
        ("whatever", "GTV", True, ""),
        ("Heart", "", False, ""),
        ("Lungs-GTV", "ORGAN", False, ""),
        ("BODY", "EXTERNAL", False, ""),
        ("ROI 1", "", False, "1 of a name that tells nothing"),
        ("Lungs-GTV", "", False, "1 of a name that tells nothing"),
        ("tumour", "AVOIDANCE", False, "1 of a type that its name denies"),
        ("PTV1", "PTV", False, "1 targets of radiation"),
    ],
)
def test_a_region_is_a_lesion_by_type_or_name_or_a_row(
    root: Path, name: str, kind: str, marked: bool, told: str
) -> None:
    put(root / "rt.dcm", structures({name: (kind, [in_mm(4, BOX)])}))
    assert outcome(root) == ("vh" if told else "vm", EXPECTED if marked else [], told)


def test_a_target_round_a_lesion_that_is_marked_is_no_doubt(root: Path) -> None:
    put(
        root / "rt.dcm",
        structures({"GTV": ("GTV", [in_mm(4, BOX)]), "PTV": ("PTV", [in_mm(4, rectangle(2, 3, 18, 16))])}),
    )
    assert outcome(root) == ("vm", EXPECTED, "")


def test_a_lesion_without_contours_or_of_a_program_is_a_row(root: Path) -> None:
    item = structures({"GTV 1": ("GTV", []), "GTV 2": ("GTV", [in_mm(4, BOX)]), "GTV 3": ("GTV", [in_mm(8, BOX)])})
    item.StructureSetROISequence[2].ROIGenerationAlgorithm = "AUTOMATIC"
    put(root / "rt.dcm", item)
    assert outcome(root) == ("vh", EXPECTED, "1 made by a program, 1 without a region")
    assert outcome(root, machine_marks=True)[1:] == ([*EXPECTED, (8, 5, 6, 14, 12)], "1 without a region")


def test_slices_that_a_contour_names_count_before_its_frame(root: Path) -> None:
    item = structures({"GTV": ("GTV", [in_mm(4, BOX)])})
    item.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "7.7"
    item.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = "7.7"
    put(root / "rt.dcm", item)
    assert outcome(root) == ("vh", [], "1 in another frame of reference")
    image = Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = pydicom.uid.CTImageStorage, "1.2.3.4"
    item.ROIContourSequence[0].ContourSequence[0].ContourImageSequence = [image]
    put(root / "rt.dcm", item)
    assert outcome(root) == ("vm", EXPECTED, "")


def test_regions_in_space_are_believed_by_the_slices_of_their_group(root: Path) -> None:
    region = scoord3d("POLYGON", in_mm(4, BOX), frame="7.7")
    put(root / "sr.dcm", report(group(region)))
    assert outcome(root) == ("vh", [], "1 in another frame of reference")
    put(root / "sr.dcm", report(group(region, scoord("1.2.3.4", "POINT", [7, 7]))))
    split, boxes, told = outcome(root)
    assert (split, told) == ("vm", "")
    np.testing.assert_allclose(boxes, EXPECTED, atol=1e-2)


@pytest.mark.parametrize("kind", ["sr", "rtstruct"])
def test_what_an_object_marks_on_another_series_is_no_doubt_here(root: Path, kind: str) -> None:
    """Two acquisitions of two frames of reference, marked by one object that has a region in each."""
    put_ct(root / "later", [f"{n:02d}.dcm" for n in range(12)], "4.5.6", FrameOfReferenceUID="7.7")
    (root / "volumes.csv").write_text("file,complete\nct,1\nlater,1\n")
    if kind == "sr":
        regions = [scoord3d("POLYGON", in_mm(4, BOX)), scoord3d("POLYGON", in_mm(4, BOX), frame="7.7")]
        item = report(*(group(each) for each in regions))
        item.CurrentRequestedProcedureEvidenceSequence.append(referred("4.5.6"))
    else:
        item = structures({"GTV a": ("GTV", [in_mm(4, BOX)]), "GTV b": ("GTV", [in_mm(4, BOX)])})
        item.StructureSetROISequence[1].ReferencedFrameOfReferenceUID = "7.7"
        later = structures({}, uid="4.5.6").ReferencedFrameOfReferenceSequence[0]
        later.FrameOfReferenceUID = "7.7"
        item.ReferencedFrameOfReferenceSequence.append(later)
    put(root / "object.dcm", item)
    result = found(root)
    assert (sorted(case.split for case in result.cases), list(result.rejects)) == (["vm", "vm"], [])
    for case in result.cases:
        (mark,) = read(case, root, ArchiveSettings())[1]
        np.testing.assert_allclose((mark.z, mark.x1, mark.y1, mark.x2, mark.y2), EXPECTED[0], atol=1e-2)
    (root / "volumes.csv").write_text("file,complete\nct,1\n")
    shutil.rmtree(root / "later")  # nothing tells that the other region is not here
    assert outcome(root)[::2] == ("vh", "1 in another frame of reference")


def test_what_a_segmentation_holds_is_a_doubt_unless_it_is_there(root: Path) -> None:
    slicers(root, "tumor")
    segmentation = pydicom.dcmread(root / "seg.dcm").SOPInstanceUID
    put(root / "sr.dcm", report(group(held_by(segmentation))))
    assert outcome(root) == ("vm", EXPECTED, "")
    put(root / "sr.dcm", report(group(held_by("9.9.9"))))  # another segmentation is there, not this one
    assert outcome(root) == ("vh", EXPECTED, "1 held by a segmentation")


def held_by(segmentation: str) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = SegmentationStorage, segmentation
    reference.ReferencedSegmentNumber = 1
    return content("IMAGE", "121191", ReferencedSOPSequence=[reference])


def test_a_report_of_points_or_words_alone_is_a_row(root: Path) -> None:
    put(root / "sr.dcm", report(group(scoord("1.2.3.4", "POINT", [7, 7])), group()))
    assert outcome(root) == ("vh", [], "2 without a region")


def test_a_report_in_the_newest_class_is_read(root: Path) -> None:
    put(root / "sr.dcm", report(group(scoord("1.2.3.4", "POLYLINE", BOX)), SOPClassUID=ExtensibleSRStorage))
    assert outcome(root) == ("vm", EXPECTED, "")


def slicers(root: Path, label: str, kind: tuple[str, str] = ("85756007", "SCT")) -> None:
    """A segment as 3D Slicer writes it where nobody chose what it is, or of some type."""
    mask = np.zeros((12, SIDE, SIDE), bool)
    mask[4, 6:13, 5:15] = True
    item = pydicom.dcmread(put_segmentation(root / "seg.dcm", root / "ct", [mask]))
    segment = item.SegmentSequence[0]
    segment.SegmentLabel = label
    segment.SegmentedPropertyCategoryCodeSequence = [code("85756007", "SCT")]
    segment.SegmentedPropertyTypeCodeSequence = [code(*kind)]
    put(root / "seg.dcm", item)


def test_a_segment_without_a_telling_code_goes_by_its_name(root: Path) -> None:
    slicers(root, "tumor")
    assert outcome(root) == ("vm", EXPECTED, "")
    slicers(root, "Segment_1")
    assert outcome(root) == ("vh", [], "1 of a code that tells nothing")
    assert outcome(root, lesion_codes=("85756007",)) == ("vm", EXPECTED, "")
    slicers(root, "Liver")
    assert outcome(root) == ("vm", [], "")
    slicers(root, "autochthon_left", ("44947003", "SCT"))  # a muscle, by a public code
    assert outcome(root) == ("vm", [], "")
    slicers(root, "Segment_1", ("44947003", "99LOCAL"))
    assert outcome(root) == ("vh", [], "1 of a code that tells nothing")


def test_a_segmentation_that_names_no_series_goes_by_slices_or_frame(root: Path) -> None:
    slicers(root, "tumor")
    item = pydicom.dcmread(root / "seg.dcm")
    del item.ReferencedSeriesSequence
    put(root / "seg.dcm", item)
    assert outcome(root) == ("vm", EXPECTED, "")
    for functional in item.PerFrameFunctionalGroupsSequence:
        del functional.DerivationImageSequence
    del item.SourceImageSequence
    put(root / "seg.dcm", item)
    assert outcome(root) == ("vm", EXPECTED, "")
    item.FrameOfReferenceUID = "7.7"
    put(root / "seg.dcm", item)
    assert [row.reason for row in found(root).rejects] == ["no_series"]


def unread(kind: str, **changes: Any) -> Dataset:
    item = Dataset()
    item.SOPClassUID, item.SOPInstanceUID = kind, "1.8.1"
    item.StudyInstanceUID, item.SeriesInstanceUID, item.Modality = "1.2.10", "1.8", "PR"
    item.ReferencedSeriesSequence = referred().ReferencedSeriesSequence
    for tag, value in changes.items():
        setattr(item, tag, value)
    return item


def test_marks_of_kinds_that_are_not_read_are_told(root: Path) -> None:
    layer = Dataset()
    layer.GraphicObjectSequence = [Dataset(), Dataset()]
    put(root / "pr.dcm", unread(GrayscaleSoftcopyPresentationStateStorage, GraphicAnnotationSequence=[layer]))
    assert outcome(root) == ("vh", [], "2 of a kind of object that is not read")
    put(root / "pr.dcm", unread(ChestCADSRStorage, Modality="SR"))
    assert outcome(root) == ("vh", [], "1 of a kind of object that is not read")
    # A window that somebody chose marks nothing; nor does a text.
    put(root / "pr.dcm", unread(GrayscaleSoftcopyPresentationStateStorage))
    assert [row.reason for row in found(root).rejects] == ["no_image"]
    put(root / "pr.dcm", unread(BasicTextSRStorage, Modality="SR"))
    assert [row.reason for row in found(root).rejects] == ["no_image"]
    assert found(root).cases[0].split == "vm"


def test_a_scan_that_a_table_gives_to_v_m_in_spite_of_it_is_refused(root: Path) -> None:
    (root / "volumes.csv").write_text("file,split\nct,vm\n")
    put(root / "rt.dcm", structures({"ROI 1": ("", [in_mm(4, BOX)])}))
    result = found(root)
    assert result.cases == []
    assert sorted(row.reason for row in result.rejects) == ["marks_passed_over", "not_complete"]
    (root / "volumes.csv").write_text("file,split\nct,vh\n")
    assert [case.split for case in found(root).cases] == ["vh"]


def test_where_objects_count_for_nothing_none_is_told(root: Path) -> None:
    put(root / "rt.dcm", structures({"ROI 1": ("", [in_mm(4, BOX)])}))
    result = discover(root, ArchiveSettings(marks="csv"), 0, "salt")
    assert (result.rejects, [case.split for case in result.cases]) == ([], ["vm"])
