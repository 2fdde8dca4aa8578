"""Where a label is said to lie: its key slice, and the file of a slice."""

from harvester.export.coco import build
from harvester.export.file_grid import stored_grid
from harvester.export.selection import ORIGIN, LabelledVolume, key_box
from tests.builders import label

LARGE, SMALL = (0.0, 0.0, 40.0, 40.0), (0.0, 0.0, 10.0, 10.0)


def test_the_key_slice_is_the_largest_box_and_not_at_the_ends_of_a_find() -> None:
    middle = (0.0, 0.0, 12.0, 12.0)
    assert key_box([(0, LARGE), (1, SMALL), (2, middle), (3, SMALL), (4, LARGE)]) == (2, middle)
    assert key_box([(3, SMALL), (4, LARGE), (5, SMALL)]) == (4, LARGE)
    assert key_box([(3, SMALL), (4, LARGE)]) == (4, LARGE)
    assert key_box([(7, SMALL)]) == (7, SMALL)


def test_coco_names_the_files_of_deeplesion_and_no_others() -> None:
    assert file_of("000013_03_01_022-070", 45) == "000013_03_01/067.png"
    assert file_of("v0dcf5559eb53", 45) == "v0dcf5559eb53/0045.png"


def file_of(volume_id: str, z: int) -> str:
    spacing = {f"spacing_{axis}_mm": 1.0 for axis in "zyx"}
    shape = {"depth": 60, "height": 64, "width": 64}
    volume = {"volume_id": volume_id, "patient_id": "p", "split": "vh"} | spacing | shape
    row = dict.fromkeys(ORIGIN) | label(volume_id, (1, 2, 10, 12), "lesion", z=(z,))
    (image,) = build([LabelledVolume(volume, [row], stored_grid(volume))], {})["images"]
    return str(image["file_name"])
