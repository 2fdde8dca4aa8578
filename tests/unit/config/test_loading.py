"""The settings tree: precedence, one-line errors, dump and hash."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from harvester.config.fingerprint import settings_hash
from harvester.config.loading import GONE, dump, resolve, restore
from harvester.config.models import GridSettings
from harvester.config.settings import Settings
from harvester.errors import SettingsError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text("rounds: 5\nmining:\n  clear_iou: 0.2\n")
    return path


def refusal(file: Path | None, *overrides: str) -> str:
    with pytest.raises(SettingsError) as caught:
        resolve(file, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_defaults_then_file_then_set(file: Path) -> None:
    settings = resolve(file, ["mining.clear_iou=0.3", "seed=7"])
    assert settings.rounds == 5
    assert settings.mining.clear_iou == 0.3
    assert settings.seed == 7
    assert settings.folds == Settings().folds
    assert settings.name == "mine"


def test_the_last_set_wins_and_lists_are_yaml() -> None:
    settings = resolve(None, ["seed=1", "seed=2", "grid.spacing_zyx_mm=[5, 1, 1]", "name=night"])
    assert (settings.seed, settings.grid.spacing_zyx_mm, settings.name) == (2, (5.0, 1.0, 1.0), "night")


def test_empty_file_is_the_defaults(tmp_path: Path) -> None:
    empty = tmp_path / "empty.yaml"
    empty.write_text("# nothing\n")
    assert resolve(empty) == Settings()


def test_unknown_key_is_named_with_what_is_allowed(file: Path) -> None:
    message = refusal(file, "mining.claer_iou=0.2")
    assert "mining.claer_iou" in message
    assert "unknown" in message
    assert "clear_iou" in message
    assert "rounds" in refusal(file, "round=3")


def test_a_bare_off_is_a_mode_though_yaml_reads_false(tmp_path: Path) -> None:
    assert resolve(None, ["generator.suppression.mode=off"]).generator.suppression.mode == "off"
    file = tmp_path / "off.yaml"
    file.write_text("generator:\n  suppression:\n    mode: off\n")
    settings = resolve(file)
    assert settings.generator.suppression.mode == "off"
    file.write_text(dump(settings))
    assert resolve(file) == settings
    assert "mode = True" in refusal(None, "generator.suppression.mode=on")


def test_bad_value_is_named_with_what_came_and_what_is_wanted(file: Path) -> None:
    message = refusal(file, "mining.clear_iou=2")
    assert "mining.clear_iou = 2" in message
    assert "less than or equal to 1" in message
    assert "'tiny'" in refusal(file, "generator.backbone=tiny")
    assert "'densenet121'" in refusal(file, "generator.backbone=tiny")


def test_several_bad_values_are_counted() -> None:
    assert "(and 1 more)" in refusal(None, "rounds=0", "folds=1")


@pytest.mark.parametrize("override", ["seed", "=3", "seed=[", "rounds.deep=1"])
def test_malformed_set(file: Path, override: str) -> None:
    assert f"--set {override}" in refusal(file, override)


@pytest.mark.parametrize(("text", "fault"), [("- a\n- b\n", "list"), ("a: [", "not valid YAML")])
def test_malformed_file(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    message = refusal(path)
    assert str(path) in message
    assert fault in message


def test_a_key_that_stands_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("seed: 1\ngenerator:\n  steps: 3\n  width: 8\n  steps: 4\n")
    message = refusal(path)
    assert "'steps' stands here for the second time" in message
    assert "line 5" in message
    path.write_text("base: &b {steps: 3}\ngenerator: {<<: *b, steps: 4}\n")
    assert "setting base: unknown" in refusal(path)  # what is merged in and replaced does not stand twice


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_file_of_another_encoding_is_refused_in_one_line(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes("seed: 1  # für".encode(encoding))
    assert "mine.yaml: no UTF-8 text; save it as UTF-8" in refusal(path)
    path.write_bytes(b"\xef\xbb\xbfseed: 7")
    assert resolve(path).seed == 7


def test_an_empty_set_says_how_to_mean_it() -> None:
    told = "want generator.weights='' for an empty text, generator.weights=null for none"
    assert told in refusal(None, "generator.weights=")
    assert resolve(None, ["generator.weights=''"]).generator.weights == ""


def test_powers_of_ten_are_numbers() -> None:
    own = resolve(None, ["generator.steps=1e3", "generator.learning_rate=5e-4", "classifier.steps=1.5E2"])
    assert (own.generator.steps, own.generator.learning_rate, own.classifier.steps) == (1000, 5e-4, 150)
    assert "generator.steps = 0.001: " in refusal(None, "generator.steps=1e-3")


def test_missing_file(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path / "none.yaml")


def test_dump_reads_back_equal(file: Path, tmp_path: Path) -> None:
    settings = resolve(file, ["grid.windows_hu=[[-1000, 1000]]", "generator.loss.size=0.2"])
    again = tmp_path / "again.yaml"
    again.write_text(dump(settings))
    assert resolve(again) == settings
    assert settings_hash(resolve(again)) == settings_hash(settings)


def test_hash_follows_values_and_nothing_else(file: Path) -> None:
    base = settings_hash(Settings())
    assert len(base) == 12
    assert base == settings_hash(resolve(None))
    assert base != settings_hash(resolve(None, ["generator.loss.size=0.2"]))
    assert settings_hash(Settings().grid) == settings_hash(GridSettings())
    assert settings_hash({"a": 1, "b": 2}) == settings_hash({"b": 2, "a": 1})
    assert settings_hash("a", "b") != settings_hash("b", "a")


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().seed = 3  # type: ignore[misc]


def test_a_crop_that_the_network_cannot_halve_four_times_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"generator.crop_px = 100: .*multiple of 16"):
        resolve(None, ["generator.crop_px=100"])


def test_what_earlier_releases_wrote_is_read_without_the_settings_that_are_gone() -> None:
    gone = "".join(f"  {name}: [0.95, 0.93]\n" for section, name in GONE if section == "operating_point")
    written = dump(Settings(seed=3)).replace("operating_point:\n", "operating_point:\n" + gone)
    assert "early_target_precisions" in written
    assert restore(written) == Settings(seed=3)


def test_settings_that_moved_are_taken_along() -> None:
    old = "data:\n  archive:\n    dicom:\n      min_slices: 5\n      slice_spacing_mm: [1, 4]\n"
    own = restore(old).data.archive
    assert (own.min_slices, own.slice_spacing_mm) == (5, (1.0, 4.0))
    assert restore(old, ["data.archive.min_slices=6"]).data.archive.min_slices == 6
