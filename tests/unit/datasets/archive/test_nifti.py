"""An archive of NIfTI files: scans are kept from masks, bad files refused one by one, no scan in two splits."""

import gzip
import json
import logging
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from harvester.config.data import ArchiveSettings
from harvester.datasets.archive.archive import discover, read
from harvester.datasets.discovery import Discovery, salted_hash
from harvester.errors import LabelError, VolumeError
from harvester.records import Mark, Reject, Volume

LPS = np.diag([-0.8, -0.8, 5, 1.0])
SHAPE_IJK = (12, 10, 8)
BOX_MARK = (6, 2.0, 3.0, 5.0, 4.0)
MARKS = "file,z,x1,y1,x2,y2\n"


def put(path: Path, values_ijk: Any = None, affine: Any = LPS, seed: int | None = None) -> Path:
    """A NIfTI file; without values, noise that hangs on the file's name or the seed."""
    if values_ijk is None:
        rng = np.random.default_rng(zlib.crc32(path.name.encode()) if seed is None else seed)
        values_ijk = rng.integers(-99, 99, SHAPE_IJK).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values_ijk, affine), path)
    return path


def mask_values(dtype: Any = np.uint8) -> Any:
    """One lesion: i 2..5, j 3..4 on slice 6, and less of it on slice 5."""
    values = np.zeros(SHAPE_IJK, dtype)
    values[2:6, 3:5, 6] = 1
    values[3, 3, 5] = 1
    return values


def look(root: Path, seed: int = 0, **settings: Any) -> Discovery:
    return discover(root, ArchiveSettings(**settings), seed, "s")


def files(found: Discovery) -> list[str]:
    return sorted(case.files[0] for case in found.cases)


def reasons(found: Discovery) -> dict[str, str]:
    """Reason by the file's hash, made readable again."""
    return {row.source_hash: row.reason for row in found.rejects}


def of(name: str) -> str:
    return salted_hash(name, "s")


def read_one(root: Path, **settings: Any) -> tuple[Volume, list[Mark]]:
    chosen = ArchiveSettings(**settings)
    return read(discover(root, chosen, 0, "s").cases[0], root, chosen)


def box_of(mark: Mark) -> tuple[float, ...]:
    return mark.z, mark.x1, mark.y1, mark.x2, mark.y2


@pytest.mark.parametrize(
    ("scan_name", "mask_name", "settings"),
    [
        ("a.nii.gz", "a.mask.nii.gz", {}),
        ("deep/a.nii", "deep/a.mask.nii.gz", {}),
        ("a.nii.gz", "masks/a.nii.gz", {}),
        ("deep/a.nii.gz", "deep/masks/a.nii.gz", {}),
        ("deep/a.nii.gz", "masks/deep/a.mask.nii.gz", {}),
        ("images/a.nii.gz", "masks/a.nii.gz", {}),
        ("a.nii.gz", "a_seg.nii.gz", {"mask_suffix": "_seg"}),
        ("a.nii.gz", "labels/a.nii", {"mask_folder": "labels"}),
    ],
)
def test_masks_are_found_by_suffix_or_folder(
    tmp_path: Path, scan_name: str, mask_name: str, settings: dict[str, str]
) -> None:
    put(tmp_path / scan_name, seed=1)
    put(tmp_path / mask_name, mask_values())
    found = look(tmp_path, **settings)
    assert files(found) == [scan_name]
    assert not found.rejects
    _, marks = read_one(tmp_path, **settings)
    assert [box_of(mark) for mark in marks] == [BOX_MARK]
    assert (marks[0].clinical, marks[0].kind) == (True, "")


@pytest.mark.parametrize("channel", ["", "_0000"], ids=["Medical Decathlon", "nnU-Net"])
@pytest.mark.parametrize("mask_folder", ["masks", "labelsTr"])
def test_published_layouts_are_read_as_they_are(
    tmp_path: Path, channel: str, mask_folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Label 1 is an organ, label 2 a lesion; further channels show the same anatomy."""
    labels = 2 * mask_values()
    labels[1:8, 2:7, 2:7] |= 1
    labels[labels == 3] = 2
    deep = tmp_path / "Task03_Liver"
    for folder, label_folder, case in (("imagesTr", "labelsTr", "liver_1"), ("imagesTs", "labelsTs", "liver_2")):
        put(deep / folder / f"{case}{channel}.nii.gz")
        put(deep / label_folder / f"{case}.nii.gz", labels)
        if channel:
            put(deep / folder / f"{case}_0001.nii.gz")
    put(deep / "imagesTs" / f"liver_3{channel}.nii.gz")
    (deep / "dataset.json").write_text("{}")
    found = look(tmp_path, mask_folder=mask_folder, mask_labels=(2,), format="nifti")
    assert [row.reason for row in found.rejects] == ["other_channel", "other_channel"] * bool(channel)
    settings = ArchiveSettings(mask_labels=(2,))
    marks = {case.files[0]: [box_of(mark) for mark in read(case, tmp_path, settings)[1]] for case in found.cases}
    assert marks == {
        f"Task03_Liver/imagesTr/liver_1{channel}.nii.gz": [BOX_MARK],
        f"Task03_Liver/imagesTs/liver_2{channel}.nii.gz": [BOX_MARK],
        f"Task03_Liver/imagesTs/liver_3{channel}.nii.gz": [],
    }
    assert "data.archive.mask_labels" not in caplog.text
    look(tmp_path)
    assert "2 label maps in labelsTr or labelsTs: every label but 0 counts as lesions" in caplog.text


def test_scans_that_are_numbered_are_no_channels(tmp_path: Path) -> None:
    names = [f"imagesTr/liver_000{number}.nii.gz" for number in range(3)]
    for name in names:
        put(tmp_path / name)
        put(tmp_path / name.replace("images", "labels"), mask_values())
    found = look(tmp_path)
    assert files(found) == names
    assert not found.rejects


def test_endings_in_capitals_are_read_as_the_others(tmp_path: Path) -> None:
    put(tmp_path / "a.nii.gz").rename(tmp_path / "A.NII.GZ")
    put(tmp_path / "m.nii.gz", mask_values()).rename(tmp_path / "A.MASK.NII.GZ")
    put(tmp_path / "masks" / "c.mask.nii", mask_values()).rename(tmp_path / "masks" / "C.Mask.NII")
    for name in ("b.nii", "c.nii"):
        put(tmp_path / name).rename(tmp_path / name.upper())
    (tmp_path / "MARKS.CSV").write_text(f"{MARKS}B.nii,0,0,0,1,1\n")
    (tmp_path / "Volumes.csv").write_text("file,patient,complete\nA.NII.GZ,p,1\nC,q,1\n")
    found = look(tmp_path)
    assert not found.rejects
    cases = {case.files[0]: case for case in found.cases}
    marks = {name: [box_of(mark) for mark in read(case, tmp_path)[1]] for name, case in cases.items()}
    assert marks == {"A.NII.GZ": [BOX_MARK], "B.NII": [(0, 0, 0, 1, 1)], "C.NII": [BOX_MARK]}
    assert {name: case.split for name, case in cases.items()} == {"A.NII.GZ": "vm", "B.NII": "vh", "C.NII": "vm"}
    (tmp_path / "marks.csv").write_text(MARKS)
    with pytest.raises(LabelError, match=r"2 files of the archive are called marks\.csv, but for capitals"):
        look(tmp_path)
    for name in ("MARKS.CSV", "marks.csv"):
        (tmp_path / name).unlink()
    write_coco(tmp_path / "Annotations.JSON", [("B.nii#1", [0, 0, 3, 3])])
    assert {case.files[0]: len(case.marks) for case in look(tmp_path).cases}["B.NII"] == 1


def test_a_mask_without_its_scan_is_refused_and_not_taken_for_a_scan(tmp_path: Path) -> None:
    put(tmp_path / "a.nii.gz")
    put(tmp_path / "b.mask.nii.gz", mask_values())
    found = look(tmp_path)
    assert files(found) == ["a.nii.gz"]
    assert reasons(found) == {of("b.mask.nii.gz"): "mask_without_scan"}
    assert not look(tmp_path, marks="csv").rejects


def test_two_kinds_of_marks_refuse_the_scan_until_one_is_chosen(tmp_path: Path) -> None:
    put(tmp_path / "a.nii.gz")
    put(tmp_path / "b.nii.gz")
    put(tmp_path / "a.mask.nii.gz", mask_values())
    (tmp_path / "marks.csv").write_text(f"{MARKS}a,0,0,0,1,1\nb,0,0,0,1,1\n")
    write_coco(tmp_path / "marks.json", [("b.nii.gz#1", [0, 0, 3, 3])])
    found = look(tmp_path)
    assert reasons(found) == {of("a.nii.gz"): "two_sources", of("b.nii.gz"): "two_sources"}
    assert "marks.csv and in a label mask" in found.rejects[0].message + found.rejects[1].message
    for marks, boxes in {
        "csv": [(0, 0, 0, 1, 1), (0, 0, 0, 1, 1)],
        "coco": [(1, 0, 0, 2, 2)],
        "mask": [BOX_MARK],
    }.items():
        settings = ArchiveSettings(marks=marks)
        chosen = discover(tmp_path, settings, 0, "s")
        assert not chosen.rejects
        assert [box_of(mark) for case in chosen.cases for mark in read(case, tmp_path, settings)[1]] == boxes


def write_coco(path: Path, boxes: list[tuple[str, list[float]]]) -> None:
    images = [{"id": number, "file_name": name} for number, (name, _) in enumerate(boxes)]
    annotations = [{"id": n, "image_id": n, "bbox": box} for n, (_, box) in enumerate(boxes)]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))


def test_another_mask_makes_another_case(tmp_path: Path) -> None:
    """A case names what it is made from: shards whose case did not change are kept."""
    put(tmp_path / "a.nii.gz")
    put(tmp_path / "a.mask.nii.gz", mask_values())
    before = look(tmp_path).cases
    assert before == look(tmp_path).cases
    put(tmp_path / "a.mask.nii.gz", mask_values() + np.eye(12, 10, dtype=np.uint8)[..., None])
    assert before != look(tmp_path).cases


def test_two_masks_refuse_the_scan(tmp_path: Path) -> None:
    put(tmp_path / "a.nii.gz")
    put(tmp_path / "a.mask.nii.gz", mask_values())
    put(tmp_path / "masks" / "a.nii.gz", mask_values())
    assert reasons(look(tmp_path)) == {of("a.nii.gz"): "two_masks"}
    assert not look(tmp_path, marks="csv").rejects


MASKS: dict[str, tuple[Any, Any, str, str]] = {
    "another shape": (np.zeros((12, 10, 7), np.uint8), LPS, "mask_differs", "(12, 10, 7)"),
    "another place": (mask_values(), LPS + np.eye(4, k=3) * 4, "mask_differs", "-0.8 0 0 4"),
    "other voxels": (mask_values(), np.diag([-0.9, -0.8, 5, 1.0]), "mask_differs", "-0.9 0 0"),
    "another way": (mask_values(), np.diag([0.8, -0.8, 5, 1.0]), "mask_differs", "affine"),
    "four dimensions": (np.zeros((12, 10, 8, 3), np.uint8), LPS, "bad_mask", "label mask"),
}


@pytest.mark.parametrize("case", MASKS)
def test_a_mask_that_does_not_fit_refuses_its_scan_before_a_voxel_is_read(tmp_path: Path, case: str) -> None:
    values, affine, reason, message = MASKS[case]
    put(tmp_path / "a.nii.gz")
    put(tmp_path / "a.mask.nii.gz", values, affine)
    (row,) = look(tmp_path).rejects
    assert (row.source_hash, row.reason) == (of("a.nii.gz"), reason)
    assert message in row.message


def test_a_mask_saved_with_rounded_affine_fits(tmp_path: Path) -> None:
    put(tmp_path / "a.nii.gz")
    put(tmp_path / "a.mask.nii.gz", mask_values(), LPS + np.random.default_rng(0).normal(0, 1e-4, (4, 4)))
    assert not look(tmp_path).rejects


@pytest.mark.parametrize("values", [mask_values(np.float32) * 0.5, mask_values(np.int16) * -1])
def test_a_mask_whose_values_are_no_labels_refuses_its_scan(tmp_path: Path, values: Any) -> None:
    put(tmp_path / "a.nii.gz")
    put(tmp_path / "a.mask.nii.gz", values)
    with pytest.raises(VolumeError) as caught:
        read_one(tmp_path)
    assert caught.value.reason == "bad_mask"


def test_a_mask_cut_short_refuses_its_scan(tmp_path: Path) -> None:
    put(tmp_path / "a.nii.gz")
    noise = np.random.default_rng(0).integers(0, 2, SHAPE_IJK).astype(np.uint8)
    mask = put(tmp_path / "a.mask.nii.gz", noise)
    mask.write_bytes(mask.read_bytes()[:-60])
    with pytest.raises(VolumeError, match="label mask") as caught:
        read_one(tmp_path)
    assert caught.value.reason == "bad_mask"


def test_one_bad_file_stops_nothing(tmp_path: Path) -> None:
    put(tmp_path / "good.nii.gz")
    put(tmp_path / "empty.nii").write_bytes(b"")
    put(tmp_path / "junk.nii.gz").write_bytes(b"junk")
    put(tmp_path / "cut.nii.gz").write_bytes(put(tmp_path / "cut.nii.gz").read_bytes()[:40])
    put(tmp_path / "time.nii", np.zeros((3, 4, 5, 2), np.int16))
    put(tmp_path / "lean.nii", affine=LPS + np.eye(4, k=1))
    put(tmp_path / "big.nii.gz", np.zeros((100, 100, 2), np.int16))
    found = look(tmp_path, max_voxels=19_999)
    assert files(found) == ["good.nii.gz"]
    assert reasons(found) == {
        of("empty.nii"): "unreadable",
        of("junk.nii.gz"): "unreadable",
        of("cut.nii.gz"): "unreadable",
        of("time.nii"): "not_3d",
        of("lean.nii"): "sheared",
        of("big.nii.gz"): "too_large",
    }
    assert not any(name in row.message for row in found.rejects for name in ("junk", "cut", "big", str(tmp_path)))


def test_what_grows_after_the_search_is_refused_when_read(tmp_path: Path) -> None:
    """The limit holds for the file that is read, whatever it was when it was found."""
    settings = ArchiveSettings(max_voxels=1000)
    put(tmp_path / "a.nii.gz")
    (case,) = discover(tmp_path, settings, 0, "s").cases
    put(tmp_path / "a.nii.gz", np.zeros((11, 10, 10), np.int16))
    with pytest.raises(VolumeError) as caught:
        read(case, tmp_path, settings)
    assert caught.value.reason == "too_large"


def test_links_end_nowhere_and_lead_nowhere(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    put(root / "deep" / "a.nii.gz")
    put(outside / "b.nii.gz")
    (root / "deep" / "loop").symlink_to(root, target_is_directory=True)
    (root / "out").symlink_to(outside, target_is_directory=True)
    (root / "c.nii.gz").symlink_to(outside / "b.nii.gz")
    (root / "d.nii").symlink_to(root / "d.nii")
    found = look(root)
    assert files(found) == ["deep/a.nii.gz"]
    links = {of(name): "link" for name in ("c.nii.gz", "d.nii", "deep/loop", "out")}
    assert reasons(found) == reasons(look(root, format="nifti")) == links


def test_folders_without_rights_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a.nii.gz")
    put(tmp_path / "shut" / "b.nii.gz")
    listed = os.scandir

    def scandir(folder: Any) -> Any:
        if str(folder).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    found = look(tmp_path)
    assert files(found) == ["a.nii.gz"]
    assert reasons(found) == {of("shut"): "no_permission"}


def test_hidden_files_and_pipes_are_left_alone(tmp_path: Path) -> None:
    put(tmp_path / ".git" / "a.nii.gz")
    put(tmp_path / "._b.nii.gz")
    os.mkfifo(tmp_path / "c.nii.gz")
    assert look(tmp_path) == Discovery([], [])


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "deep/../../x", "..\\..\\x", ""])
@pytest.mark.parametrize("table", ["volumes.csv", "marks.csv", "marks.json"])
def test_a_table_leads_out_of_the_archive_nowhere(tmp_path: Path, name: str, table: str) -> None:
    root = tmp_path / "root"
    put(root / "a.nii.gz")
    put(tmp_path / "x.nii.gz")
    if table == "marks.json":
        write_coco(root / table, [(f"{name}#1", [0, 0, 1, 1])])
    else:
        head, rest = ("file,split", ",vh") if table == "volumes.csv" else (MARKS.strip(), ",0,0,0,1,1")
        (root / table).write_text(f"{head}\n{name}{rest}\n")
    with pytest.raises(LabelError, match="names no scan") as caught:
        look(root)
    assert "passwd" not in str(caught.value)


def test_a_name_of_two_scans_is_no_name(tmp_path: Path) -> None:
    put(tmp_path / "a.nii", seed=1)
    put(tmp_path / "a.nii.gz", seed=2)
    (tmp_path / "volumes.csv").write_text("file,complete\na,1\n")
    with pytest.raises(LabelError, match="names several scans"):
        look(tmp_path)
    (tmp_path / "volumes.csv").write_text("file,complete\na.nii,1\n")
    assert files(look(tmp_path)) == ["a.nii", "a.nii.gz"]


def test_a_scan_listed_twice_is_one_scan_and_a_mark_told_twice_one_mark(tmp_path: Path) -> None:
    put(tmp_path / "a.nii.gz")
    (tmp_path / "volumes.csv").write_text("file,patient,complete\na.nii.gz,p,1\na,p,1\na,p,\n")
    (tmp_path / "marks.csv").write_text(f"{MARKS}a,1,2,3,4,5\na.nii.gz,1,2,3,4,5\na,1,2,3,4,6\n")
    (case,) = look(tmp_path).cases
    assert (case.split, case.split_origin) == ("vm", "drawn")
    assert len(read(case, tmp_path)[1]) == 2
    (tmp_path / "volumes.csv").write_text("file,complete\na,1\na,0\n")
    with pytest.raises(LabelError, match=r"volumes.csv line 3: an earlier row says otherwise"):
        look(tmp_path)


def test_rows_of_one_lesion_are_one_mark_on_its_largest_slice(tmp_path: Path) -> None:
    put(tmp_path / "a.nii.gz")
    (tmp_path / "marks.csv").write_text(
        "file,z,x1,y1,x2,y2,lesion,clinical\na,1,2,3,4,5,x,0\na,2,1,2,5,6,x,1\na,3,2,3,4,5,x,0\na,3,2,3,4,5,,0\n"
    )
    _, marks = read_one(tmp_path)
    assert [(box_of(mark), mark.clinical) for mark in marks] == [((2, 1, 2, 5, 6), True), ((3, 2, 3, 4, 5), False)]
    assert len({mark.mark_id for mark in marks}) == 2


def twin_root(root: Path) -> Path:
    """One scan under three names: as it is, packed with another header text, and turned about by its affine."""
    values = np.random.default_rng(5).integers(0, 99, SHAPE_IJK).astype(np.int16)
    put(root / "a.nii", values)
    image = nibabel.Nifti1Image(values, LPS)
    image.header["descrip"] = "export of last year"
    nibabel.save(image, root / "b.nii.gz")
    with (root / "b.nii.gz").open("ab") as file:
        file.write(gzip.compress(b"what follows the voxels is nobody's"))
    put(root / "c.nii.gz", values, np.diag([0.8, -0.8, 5, 1.0]))
    values = values.copy()
    values[-1, -1, -1] += 1
    put(root / "d.nii", values)
    return root


def test_the_same_voxels_under_several_names_are_taken_once(tmp_path: Path) -> None:
    found = look(twin_root(tmp_path))
    assert files(found) == ["a.nii", "d.nii"]
    assert reasons(found) == {of("b.nii.gz"): "duplicate", of("c.nii.gz"): "duplicate"}
    assert "3 files" in found.rejects[0].message


def test_of_twins_the_one_that_the_tables_know_is_taken(tmp_path: Path) -> None:
    (twin_root(tmp_path) / "volumes.csv").write_text("file,patient,complete\nb,p,1\n")
    assert files(look(tmp_path)) == ["b.nii.gz", "d.nii"]


def test_twins_told_to_be_in_two_splits_are_all_refused(tmp_path: Path) -> None:
    (twin_root(tmp_path) / "volumes.csv").write_text("file,split\nb,vm\nc,vh_test\n")
    found = look(tmp_path)
    assert files(found) == ["d.nii"]
    assert set(reasons(found).values()) == {"duplicate"}
    assert len(found.rejects) == 3


def test_an_archive_without_twins_is_not_read_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        put(tmp_path / f"{number}.nii.gz")
    monkeypatch.setattr("harvester.imaging.nifti.duplicates._whole", lambda _: pytest.fail("read whole"))
    assert len(look(tmp_path).cases) == 3


def test_every_split_has_patients_of_its_own_and_tells_where_it_is_from(tmp_path: Path) -> None:
    for number in range(12):
        put(tmp_path / f"{number}.nii")
    rows = [f"{n},p{n // 2},{'vd_test' if n < 2 else ''},{int(n < 10)}" for n in range(12)]
    (tmp_path / "volumes.csv").write_text("file,patient,split,complete\n" + "\n".join(rows) + "\n")
    cases = look(tmp_path, vh_test_share=0.5).cases
    of_patient: dict[str, set[tuple[str, str]]] = {}
    for case in cases:
        of_patient.setdefault(case.patient_id, set()).add((case.split, case.split_origin))
    assert len(of_patient) == 6
    assert all(len(splits) == 1 for splits in of_patient.values())
    drawn = sorted(next(iter(splits)) for splits in of_patient.values())
    assert drawn.count(("vd_test", "given")) == 1
    assert drawn.count(("vh", "drawn")) == 1
    assert {split for split, _ in drawn} == {"vd_test", "vh", "vh_test", "vm"}


def test_scans_whose_patient_nobody_told_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path / "doe.nii")
    put(tmp_path / "roe.nii")
    look(tmp_path)
    assert "2 NIfTI scans have no patient in volumes.csv" in caplog.text


def test_names_in_files_and_paths_come_out_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Names in paths, header texts and tables; scans that are taken, and scans refused at each step."""
    caplog.set_level(logging.DEBUG)
    spelled = "Doe_Jane_19500101"
    for name, shape in (("good", SHAPE_IJK), ("bad", (3, 4, 5, 2)), ("out", SHAPE_IJK)):
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        image = nibabel.Nifti1Image(rng.integers(1, 9, shape).astype(np.int16), LPS)
        for field, size in (("descrip", 80), ("aux_file", 24), ("intent_name", 16), ("db_name", 18)):
            image.header[field] = spelled[: size - 1]
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", spelled.encode()))
        (tmp_path / spelled).mkdir(exist_ok=True)
        nibabel.save(image, tmp_path / spelled / f"{name}.nii.gz")
    put(tmp_path / f"{spelled}.mask.nii.gz", mask_values())
    shutil.copy(tmp_path / spelled / "good.nii.gz", tmp_path / spelled / "twin.nii.gz")
    (tmp_path / "volumes.csv").write_text(f"file,patient,\n{spelled}/good,{spelled},{spelled}\n")
    (tmp_path / "marks.csv").write_text(
        f"file,z,x1,y1,x2,y2,lesion,\n{spelled}/good,1,2,3,4,5,{spelled},{spelled}\n{spelled}/out,99,2,3,4,5,,\n"
    )
    found = look(tmp_path)
    texts = [caplog.text, *map(str, found.rejects)]
    for case in found.cases:
        texts += [case.volume_id, case.patient_id, case.split]
        try:
            volume, marks = read(case, tmp_path)
            texts += [volume.volume_id, volume.patient_id, *map(str, marks)]
        except VolumeError as error:
            texts += [str(error), error.reason]
    assert {row.reason for row in found.rejects} == {"not_3d", "duplicate", "mask_without_scan"}
    assert any("bad_mark" in text for text in texts)
    assert not any("Doe" in text or "1950" in text for text in texts)


def test_a_gzip_bomb_is_read_no_further_than_its_header(tmp_path: Path) -> None:
    """A header that tells of an extension of 24 MiB, zeros in a file of 24 KiB: nothing of it is unpacked."""
    header = nibabel.Nifti1Header()
    header.set_data_shape((8, 8, 8))
    header.set_data_dtype(np.int16)
    header.set_sform(LPS, 1)
    header.set_zooms((0.8, 0.8, 5))
    header["magic"], header["vox_offset"] = b"n+1", 352 + (24 << 20)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(header.binaryblock + b"\1\0\0\0" + bytes(24 << 20), 9))
    (row,) = look(tmp_path).rejects
    assert row.reason == "unreadable"


def test_refusals_are_plain_rows(tmp_path: Path) -> None:
    put(tmp_path / "a.nii", np.zeros((3, 4, 5, 2), np.int16))
    (row,) = look(tmp_path).rejects
    assert isinstance(row, Reject)
    assert f"volume v{row.source_hash}: want a 3D NIfTI" in row.message


@pytest.mark.parametrize(
    ("codes", "moved_mm", "warned"), [((2, 1), 26, True), ((2, 1), 0.5, False), ((0, 1), 26, False)]
)
def test_scans_whose_two_forms_differ_are_told(
    tmp_path: Path, codes: tuple[int, int], moved_mm: float, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    image = nibabel.Nifti1Image(np.zeros((3, 4, 9), np.int16), np.diag([1.0, 1, 2, 1]))
    moved = image.affine.copy()
    moved[1, 3] += moved_mm
    image.header.set_sform(image.affine, codes[0])
    image.header.set_qform(moved, codes[1])
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), None, image.header), tmp_path / "a.nii")
    assert look(tmp_path).rejects == []
    assert ("sform and a qform that differ" in caplog.text) == warned


def saved(path: Path, shape: tuple[int, ...] = (12, 10, 9), zooms: tuple[float, ...] = (0.8, 0.8, 5)) -> Any:
    """A NIfTI whose affine and pixdim agree."""
    image = nibabel.Nifti1Image(np.full(shape, -100, np.int16), np.diag([*zooms, 1.0]))
    nibabel.save(image, path)
    return image


@pytest.mark.parametrize(
    ("shape", "zooms", "reason"),
    [
        ((12, 10, 7), (0.8, 0.8, 5), "few_slices"),
        ((12, 10, 9), (0.8, 0.8, 0.2), "bad_spacing"),
        ((12, 10, 9), (0.8, 0.8, 12), "bad_spacing"),
        ((12, 9, 40), (0.8, 5, 0.8), "not_axial"),
        ((9, 12, 40), (5, 0.8, 0.8), "not_axial"),
    ],
)
def test_slices_are_asked_of_a_nifti_as_of_dicom(
    tmp_path: Path, shape: tuple[int, ...], zooms: tuple[float, ...], reason: str
) -> None:
    saved(tmp_path / "a.nii", shape, zooms)
    assert [row.reason for row in look(tmp_path).rejects] == [reason]


@pytest.mark.parametrize("qform", [True, False])
def test_spacings_that_disagree_are_refused_unless_it_is_said_which_counts(tmp_path: Path, qform: bool) -> None:
    """dcm2niix's sform took SliceThickness, its qform and pixdim the places of the slices."""
    image = saved(tmp_path / "b.nii", zooms=(0.75, 0.75, 0.6))
    image.header.set_sform(np.diag([0.75, 0.75, 0.8, 1]), 1)
    image.header.set_qform(image.affine, int(qform))
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), None, image.header), tmp_path / "b.nii")
    (row,) = look(tmp_path).rejects
    assert row.reason == "two_spacings"
    assert "0.75 x 0.75 x 0.8 mm by the NIfTI's affine, 0.75 x 0.75 x 0.6 mm by its pixdim" in row.message
    for form, gap in (("sform", 0.8), ("qform", 0.6)):
        settings = ArchiveSettings(nifti_form=form, any_values=True)
        result = discover(tmp_path, settings, 0, "salt")
        if form == "qform" and not qform:
            assert [row.reason for row in result.rejects] == ["no_orientation"]
        else:
            volume, _ = read(result.cases[0], tmp_path, settings)
            assert volume.spacing_zyx_mm == pytest.approx((gap, 0.75, 0.75))


def test_a_file_is_packed_by_its_bytes_not_by_its_name(tmp_path: Path) -> None:
    saved(tmp_path / "plain.nii")
    content = (tmp_path / "plain.nii").read_bytes()
    (tmp_path / "packed.nii").write_bytes(gzip.compress(content + b"1"))
    (tmp_path / "called.nii.gz").write_bytes(content + b"22")
    (tmp_path / "plain.nii").unlink()
    result = discover(tmp_path, ArchiveSettings(any_values=True), 0, "salt")
    # Both hold the same voxels: one of them is left out, as ever.
    assert (len(result.cases), [row.reason for row in result.rejects]) == (1, ["duplicate"])
    assert read(result.cases[0], tmp_path, ArchiveSettings(any_values=True))[0].hu_zyx.shape == (9, 10, 12)


def test_totalsegmentators_structures_are_no_scans(tmp_path: Path) -> None:
    for case in ("s0000", "s0001"):
        (tmp_path / case / "segmentations").mkdir(parents=True)
        saved(tmp_path / case / "ct.nii.gz", zooms=(0.8, 0.8, 4 + (case == "s0001")))
        for structure in ("liver", "spleen"):
            saved(tmp_path / case / "segmentations" / f"{structure}.nii.gz")
    result = discover(tmp_path, ArchiveSettings(any_values=True, mask_folder=""), 0, "salt")
    assert [row.reason for row in result.rejects if row.reason != "duplicate"] == ["structures"]
    (row,) = [row for row in result.rejects if row.reason == "structures"]
    assert (row.message.startswith("4 files"), len(row.files)) == (True, 4)
    # Where somebody says that they are masks of lesions they are.
    own = ArchiveSettings(any_values=True, mask_folder="segmentations")
    assert {row.reason for row in discover(tmp_path, own, 0, "salt").rejects} >= {"mask_without_scan"}
    # A folder that is only called so holds scans.
    (tmp_path / "s0000" / "ct.nii.gz").unlink()
    (tmp_path / "s0001" / "ct.nii.gz").unlink()
    assert not any(row.reason == "structures" for row in look(tmp_path).rejects)
