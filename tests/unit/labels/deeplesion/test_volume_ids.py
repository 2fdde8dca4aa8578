"""DeepLesion's ids: every published form is one id, and nothing else is taken for one."""

import pytest

from harvester.labels.deeplesion.volume_ids import SubVolume, plain_id, split_id

PLAIN = "000001_01_02_103-115"


@pytest.mark.parametrize("before", ["_", "-"])
@pytest.mark.parametrize("after", ["", ".annot", ".nii.gz", ".nii", ".NII.GZ"])
def test_every_form_is_one_id(before: str, after: str) -> None:
    form = f"000001_01_02{before}103-115{after}"
    assert plain_id(form) == PLAIN
    assert split_id(form) == SubVolume("000001_01_02", 103, 115)


@pytest.mark.parametrize("other", ["ph-0012", "in-ab", "", "000001_01_02", "a_000001_01_02_103-115"])
def test_other_ids_stay_and_lose_only_annot(other: str) -> None:
    assert plain_id(other) == plain_id(f"{other}.annot") == other
    assert split_id(other) is None


@pytest.mark.parametrize(
    "path", ["../../x", f"../{PLAIN}", f"{PLAIN}/..", f"{PLAIN}\n", "000001_01_02_103-11٥", "1" * 5000]
)
def test_no_path_is_an_id(path: str) -> None:
    assert split_id(path) is None
