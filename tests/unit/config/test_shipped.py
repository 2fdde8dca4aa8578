"""Configs that ship with harvester, by their names; a path, and a file of the same name, go before."""

from pathlib import Path

import pytest

from harvester.config import shipped
from harvester.config.loading import resolve
from harvester.config.settings import Settings
from harvester.datasets.insertion.backgrounds import load_backgrounds
from harvester.errors import SettingsError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["deeplesion", "few_labels", "pretrain", "quickstart", "real_ct"])
def test_each_is_found_by_its_name_from_anywhere(name: str) -> None:
    settings = resolve(name)
    assert settings.name == name and settings != Settings(name=name)
    assert resolve(Path(f"{name}.yaml")) == settings == resolve(shipped.folder() / f"{name}.yaml")


def test_these_are_all_of_them() -> None:
    assert shipped.names() == ["deeplesion", "few_labels", "pretrain", "quickstart", "real_ct"]


def test_a_file_goes_before_a_name_and_a_folder_does_not(elsewhere: Path) -> None:
    (elsewhere / "quickstart").mkdir()
    assert resolve("quickstart").rounds == 2
    (elsewhere / "quickstart.yaml").write_text("rounds: 7")
    assert resolve("quickstart.yaml").rounds == 7
    assert resolve("quickstart").rounds == 2


@pytest.mark.parametrize("given", ["nonesuch", "configs/quickstart.yaml", "quickstart.json"])
def test_what_is_not_there_is_told_with_the_names_there_are(given: str) -> None:
    with pytest.raises(
        SettingsError,
        match=rf"--config {given}: cannot be read .*: deeplesion, few_labels, pretrain, quickstart, real_ct$",
    ):
        resolve(given)


def test_the_list_of_backgrounds_is_found_from_anywhere(elsewhere: Path) -> None:
    settings = resolve("real_ct").data.insertion
    assert shipped.named(Path(settings.backgrounds)).is_file()
    with pytest.raises(SettingsError, match=r"background lung_2 wants .*/ct/lung_2.nii.gz"):
        load_backgrounds(settings, elsewhere)
