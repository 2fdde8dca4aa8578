"""Starting weights: the folder and its card, and that no patient is judged by weights that have seen it."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from harvester.config import shipped
from harvester.config.loading import dump
from harvester.config.settings import Settings
from harvester.config.strict_yaml import parse
from harvester.datasets.insertion.backgrounds import Background
from harvester.errors import SettingsError
from harvester.run.first_start import decided
from harvester.storage.location import Location
from harvester.weights import starting
from harvester.weights.starting import (
    CARD,
    STAGES,
    StartingWeights,
    folds_by_patient,
    in_sample,
    require_in_folds,
    starting_weights,
)
from tests.builders import starting_weights_in

PATIENTS = {"a": 0, "b": 1, "c": 2, "d": 2}


def row(patient: str, split: str = "vm", voxels: str = "") -> dict[str, Any]:
    return {
        "volume_id": f"v-{patient}",
        "patient_id": patient,
        "split": split,
        "voxel_hash": voxels or f"hash-{patient}",
    }


def weights(folder: Path, folds: int = 3, **changed: Any) -> Path:
    return starting_weights_in(folder, folds, **{"patients": PATIENTS, "scans": {"hash-lidc": "b"}} | changed)


def starting_from(folder: Path | str, **more: Any) -> Settings:
    return Settings(starting_weights=str(folder), **more)


def test_each_fold_starts_from_weights_that_have_not_seen_its_patients(tmp_path: Path) -> None:
    settings = starting_from(weights(tmp_path / "w"), folds=3)
    rows = [*map(row, "abcd"), *(row(f"new-{i}") for i in range(5)), row("x", "vh")]
    folds = folds_by_patient(rows, settings)
    assert {patient: folds[patient] for patient in "abcd"} == PATIENTS
    assert set(folds) == {each["patient_id"] for each in rows}
    assert in_sample(rows, settings) == frozenset()
    start = starting_weights(settings)
    assert start is not None
    start.publish(Location.of(tmp_path / "out"), settings)
    for stage in STAGES:
        for fold in range(3):
            assert (tmp_path / "out" / stage / f"fold-{fold}.safetensors").read_text() == f"{stage}-{fold}"


@pytest.mark.parametrize("folds", [2, 5])
def test_with_other_folds_all_start_from_the_whole_and_who_was_seen_is_in_sample(tmp_path: Path, folds: int) -> None:
    settings = starting_from(weights(tmp_path / "w"), folds=folds)
    rows = [*map(row, "abe"), row("x", "vh")]
    assert in_sample(rows, settings) == {"a", "b"}
    start = starting_weights(settings)
    assert start is not None
    start.publish(Location.of(tmp_path / "out"), settings)
    published = [(tmp_path / "out" / "classifier" / f"fold-{fold}.safetensors").read_text() for fold in range(folds)]
    assert published == ["classifier"] * folds


def test_a_scan_is_known_by_its_voxels_whatever_its_patient_is_called(tmp_path: Path) -> None:
    rows = [row("salted-1", voxels="hash-lidc"), row("salted-2")]
    apart = starting_from(weights(tmp_path / "w"), folds=3)
    assert folds_by_patient(rows, apart)["salted-1"] == PATIENTS["b"]
    assert in_sample(rows, starting_from(tmp_path / "w", folds=2)) == {"salted-1"}


def test_a_patient_is_known_by_any_of_the_scans(tmp_path: Path) -> None:
    new, known = row("salted-1", voxels="new"), row("salted-1", voxels="hash-lidc")
    apart, together = starting_from(weights(tmp_path / "w"), folds=3), starting_from(tmp_path / "w", folds=2)
    for rows in ([new, known], [known, new]):
        assert folds_by_patient(rows, apart) == {"salted-1": PATIENTS["b"]}
        assert in_sample(rows, together) == {"salted-1"}


def test_nothing_is_in_sample_where_nothing_is_started_from() -> None:
    rows = list(map(row, "abcd"))
    settings = starting_from("")
    assert starting_weights(settings) is None
    assert in_sample(rows, settings) == frozenset()


def test_what_ships_is_for_the_small_networks_without_weights_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "SHIPPED_FOLDER", weights(tmp_path / "small", folds=0))
    assert starting_weights(Settings()) is not None
    assert starting_weights(Settings(generator={"width": 16})) is None
    assert starting_weights(Settings(generator={"weights": "imagenet"})) is None
    assert starting_weights(Settings(grid={"spacing_zyx_mm": (2.0, 0.8, 0.8)})) is None
    monkeypatch.setattr(starting, "SHIPPED_FOLDER", tmp_path / "nowhere")
    assert starting_weights(Settings()) is None


def test_a_run_keeps_to_the_weights_that_shipped_when_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "SHIPPED_FOLDER", weights(tmp_path / "small", folds=0))
    folder = Location.of(tmp_path / "run")
    began = decided(Settings(), folder, lambda _: "float32")
    start = starting_weights(began)
    assert start is not None and began.starting_weights == f"shipped:{start.digest}"
    (folder / "settings.yaml").write_text(dump(began))
    monkeypatch.setattr(starting, "SHIPPED_FOLDER", weights(tmp_path / "later", folds=1))
    later = decided(Settings(), folder, lambda _: "float32")
    assert later == began
    with pytest.raises(SettingsError, match=r"came with another release.*install that release to go on"):
        starting_weights(later)
    assert starting_weights(decided(Settings(), Location.of(tmp_path / "new"), lambda _: "float32")) is not None
    assert decided(starting_from(""), folder, lambda _: "float32").starting_weights == ""


def test_a_named_folder_of_other_networks_is_refused_with_the_difference(tmp_path: Path) -> None:
    folder = weights(tmp_path / "w")
    with pytest.raises(SettingsError, match=r"made for other networks.*width"):
        starting_weights(starting_from(folder, generator={"width": 16}))


@pytest.mark.parametrize("text", [None, "", "{}", '{"harvester": 1'])
def test_a_folder_without_a_whole_card_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / CARD).write_text(text)
    with pytest.raises(SettingsError, match=r"starting_weights: .*no card\.json that can be read"):
        starting_weights(starting_from(tmp_path))


def test_weights_that_ship_are_mended_by_another_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    StartingWeights.open(Location.of(weights(tmp_path / "w"))).write_whole(Location.of(tmp_path / "small"))
    (tmp_path / "small" / "classifier.safetensors").unlink()
    start = StartingWeights.open(Location.of(tmp_path / "small"))
    for said in ("make it again, or start from nothing with starting_weights=''", "install harvester again, or"):
        with pytest.raises(SettingsError) as caught:
            start.require_whole(starting_from(tmp_path / "small"))
        assert said in str(caught.value)
        monkeypatch.setattr(starting, "SHIPPED_FOLDER", tmp_path / "small")


def test_a_file_that_the_card_does_not_name_is_refused(tmp_path: Path) -> None:
    folder = weights(tmp_path / "w")
    (folder / "generator-1.safetensors").write_bytes(b"another")
    start = starting_weights(starting_from(folder, folds=3))
    assert start is not None
    for work in (start.require_whole, partial(start.publish, Location.of(tmp_path / "out"))):
        with pytest.raises(SettingsError, match=r"generator-1\.safetensors: not the file that card\.json names"):
            work(starting_from(folder, folds=3))
    start.require_whole(starting_from(folder, folds=2))  # all start from the one of all patients


def test_pretraining_goes_on_fold_by_fold_and_the_whole_from_the_whole(tmp_path: Path) -> None:
    settings = starting_from(weights(tmp_path / "w"), folds=3, whole_model=True)
    start = starting_weights(settings)
    assert start is not None
    start.publish(Location.of(tmp_path / "out"), settings)
    names = [(tmp_path / "out" / "generator" / f"fold-{model}.safetensors").read_text() for model in range(4)]
    assert names == ["generator-0", "generator-1", "generator-2", "generator"]


def test_weights_are_named_by_their_bytes_not_by_their_place(tmp_path: Path) -> None:
    first, second = (StartingWeights.open(Location.of(weights(tmp_path / name))) for name in "ab")
    other = StartingWeights.open(Location.of(weights(tmp_path / "c", folds=2)))
    assert first.digest == second.digest != other.digest


def test_what_ships_of_a_pretraining_is_the_models_of_all_patients(tmp_path: Path) -> None:
    made = StartingWeights.open(Location.of(weights(tmp_path / "made")))
    made.write_whole(Location.of(tmp_path / "small"))
    assert {file.name for file in (tmp_path / "small").iterdir()} == {
        CARD,
        *(f"{stage}.safetensors" for stage in STAGES),
    }
    small = StartingWeights.open(Location.of(tmp_path / "small"))
    assert (small.card.patients, small.card.scans) == (made.card.patients, made.card.scans)
    assert not small.in_folds(3)
    settings = starting_from(tmp_path / "small", folds=3)
    small.require_whole(settings)
    assert in_sample([row("a"), row("new")], settings) == {"a"}


def test_a_pretraining_goes_on_only_from_weights_whose_folds_are_apart(tmp_path: Path) -> None:
    made = StartingWeights.open(Location.of(weights(tmp_path / "made")))
    made.write_whole(Location.of(tmp_path / "small"))
    require_in_folds(starting_from(tmp_path / "made", folds=3))
    require_in_folds(Settings(starting_weights=""))
    for folder, folds in (("small", 3), ("made", 2)):
        with pytest.raises(SettingsError, match=f"no weights for each of {folds} folds"):
            require_in_folds(starting_from(tmp_path / folder, folds=folds))


def test_what_ships_is_whole() -> None:
    """The files in the package are those of their card, for the default networks; no patient of V_H^test was seen."""
    start = starting_weights(Settings())
    assert start is not None and start.folder == Location.of(starting.SHIPPED_FOLDER)
    start.require_whole(Settings())
    folder = starting.SHIPPED_FOLDER
    assert {file.name for file in folder.iterdir()} == {CARD, "README.md", *start.card.files}
    assert sum(file.stat().st_size for file in folder.iterdir()) < 12 << 20
    listed = parse(shipped.named(Path("backgrounds")).read_text())
    ids = {each["patient"]: Background.model_validate(each).patient_id for each in listed}
    seen = {each["patient"] for each in listed if ids[each["patient"]] in start.card.patients}
    assert seen == {each["patient"] for each in listed if each["role"] == "vm"}
