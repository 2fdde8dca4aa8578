"""DL_info.csv: read as published, a bad line set aside with its reason, no age or gender kept."""

from dataclasses import astuple
from pathlib import Path

import pytest

from harvester.errors import LabelError
from harvester.labels.deeplesion.dl_info import InfoRow, read_dl_info

HEADER = (
    "File_name,Patient_index,Study_index,Series_ID,Key_slice_index,Measurement_coordinates,Bounding_boxes,"
    "Lesion_diameters_Pixel_,Normalized_lesion_location,Coarse_lesion_type,Possibly_noisy,Slice_range,"
    "Spacing_mm_px_,Image_size,DICOM_windows,Patient_gender,Patient_age,Train_Val_Test\n"
)
LINE = (
    '000001_02_03_109.png,1,2,3,109,"1, 2, 3, 4, 5, 6, 7, 8","99.31604, 90.0204, 241.252, 111.977","11.9, 5.1",'
    '"0.4, 0.2, 0.4",3,0,"103, 115","0.488281, 0.5, 5","512, 512","-175, 275",F,62.0,3\n'
)


def put(folder: Path, *lines: str) -> Path:
    file = folder / "DL_info.csv"
    file.write_text(HEADER + "".join(lines))
    return file


def test_a_row_is_read_as_published(tmp_path: Path) -> None:
    rows, bad = read_dl_info(put(tmp_path, LINE))
    assert rows == [
        InfoRow(
            volume_id="000001_02_03_103-115",
            patient_id="000001",
            z=6,
            box_xyxy=(99.316, 90.02, 241.252, 111.977),
            kind="mediastinum",
            noisy=False,
            spacing_zyx_mm=(5.0, 0.5, 0.488281),
            size_px=(512, 512),
            split="test",
        )
    ]
    assert bad == {}
    assert not {"F", 62, "62.0"} & set(astuple(rows[0]))


def test_unknown_kind_noise_and_the_other_splits(tmp_path: Path) -> None:
    lines = LINE.replace(',3,0,"103', ',-1,1,"103').replace("62.0,3", ",1"), LINE.replace("62.0,3", "62,2.0")
    first, second = read_dl_info(put(tmp_path, *lines))[0]
    assert (first.kind, first.noisy, first.split, second.split) == ("", True, "train", "val")


def test_no_rows(tmp_path: Path) -> None:
    assert read_dl_info(put(tmp_path)) == ([], {})


BAD = {
    "another file": ("000001_02_03_109.png", "000001_02_03_110.png", "File_name"),
    "a path": ("000001_02_03_109.png", "../../etc/passwd", "File_name"),
    "no number": (",1,2,3,109,", ",smith,2,3,109,", "Patient_index"),
    "a fraction": (",1,2,3,109,", ",1,2.5,3,109,", "Study_index"),
    "infinite": (",1,2,3,109,", ",1,2,inf,109,", "Series_ID"),
    "a huge index": (",1,2,3,109,", ",1e300,2,3,109,", "Patient_index"),
    "a short box": ("99.31604, 90.0204, 241.252, 111.977", "99.3, 90.0", "Bounding_boxes"),
    "ends out of order": ("99.31604, 90", "299.31604, 90", "Bounding_boxes"),
    "no range": ("103, 115", "115, 103", "Slice_range"),
    "an endless range": ("103, 115", "103, 100000000", "Slice_range"),
    "no spacing": ("0.488281, 0.5, 5", "0.488281, 0.5, nan", "Spacing_mm_px_"),
    "no split": ("62.0,3", "62.0,4", "Train_Val_Test"),
    "cut short": (LINE[30:], "\n", "Slice_range"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_line_is_set_aside(tmp_path: Path, case: str) -> None:
    old, new, column = BAD[case]
    rows, bad = read_dl_info(put(tmp_path, LINE, LINE.replace(old, new), LINE))
    assert len(rows) == 2
    ((line, message),) = bad.items()
    assert line == 3
    assert column in message
    assert not any(word in message for word in ("smith", "passwd", "62"))


def test_a_table_that_is_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="cannot be read"):
        read_dl_info(tmp_path / "DL_info.csv")
    (tmp_path / "DL_info.csv").write_text("File_name,Patient_index\n")
    with pytest.raises(LabelError, match="lacks the columns Study_index"):
        read_dl_info(tmp_path / "DL_info.csv")
    (tmp_path / "DL_info.csv").write_bytes(HEADER.encode() + b"\xff\xfe\n")
    with pytest.raises(LabelError, match="not in UTF-8"):
        read_dl_info(tmp_path / "DL_info.csv")
