"""A study's config: what is allowed, and what its arms come to."""

from pathlib import Path

import pytest

from harvester.cli.study import parser, piece, typed
from harvester.errors import SettingsError
from harvester.study.settings import FULL, StudySettings, read_study

REPO = Path(__file__).parents[3]
STUDY = """
archives:
  easy: {config: quickstart, set: [data.phantom.vm_volumes=6]}
  turned:
    config: quickstart
    rotate: [[data.phantom.depth=8], [data.phantom.depth=9]]
seeds: [4, 5, 6]
arms:
  one_round: {set: [rounds=1]}
  only_there: {set: [rounds=3], archives: [turned]}
retrain: [easy]
"""


def study_of(tmp_path: Path, text: str = STUDY) -> StudySettings:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    return read_study(file)


def test_settings_of_an_arm_are_the_archives_the_roles_and_its_own(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    assert study.name == "mine" and list(study.arms_of("easy")) == [FULL, "one_round"]
    assert list(study.arms_of("turned")) == [FULL, "one_round", "only_there"]
    one = study.settings("easy", 5, study.arms["one_round"].set)
    assert (one.rounds, one.seed, one.data.phantom.vm_volumes) == (1, 5, 6)
    assert [study.settings("turned", seed).data.phantom.depth for seed in study.seeds] == [8, 9, 8]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("retrain: [easy]", "retrain: [hard]", "hard: no archive of the study; there are easy, turned"),
        ("one_round:", "full_loop:", "full_loop is the archive's own config"),
        ("seeds: [4, 5, 6]", "seeds: []", "seeds: "),
        ("set: [rounds=1]", "set: [rounds]", "arms.one_round.set.0"),
        ("retrain: [easy]", "rivals: [easy]", "rivals: "),
        ("retrain: [easy]", "retrain: [easy", "cannot be read as YAML"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        study_of(tmp_path, STUDY.replace(old, new))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_config_that_is_not_there_is_said_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"cannot be read \(No such file or directory\); give a YAML file, or: study"
    ):
        read_study(tmp_path / "none.yaml")


def test_a_piece_of_a_study_keeps_what_belongs_to_it(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    part = piece(study, ["easy"], [5])
    assert list(part.archives) == ["easy"] and part.seeds == (5,) and list(part.arms) == ["one_round"]
    # The roles of a seed must not hang on which seeds are asked for.
    assert piece(study, ["turned"], [5]).settings("turned", 5).data.phantom.depth == 9
    assert piece(study, [], []) == study
    assert list(piece(study, [], [], ["only_there"]).arms) == ["only_there"]
    assert piece(study, [], [], [FULL]).arms == {}
    with pytest.raises(SettingsError, match="--arms nobody: the study has full_loop, one_round, only_there"):
        piece(study, [], [], ["nobody"])
    with pytest.raises(SettingsError, match="--only hard: the study has easy, turned"):
        piece(study, ["hard"], [])
    with pytest.raises(SettingsError, match="--seeds 7"):
        piece(study, [], [7])


def test_the_study_that_ships_resolves_for_every_arm_and_seed() -> None:
    study = read_study(REPO / "configs" / "study.yaml")
    for archive in study.archives:
        for seed in study.seeds:
            for arm in study.arms_of(archive).values():
                settings = study.settings(archive, seed, [*arm.set, *study.retrain_set])
                assert settings.seed == seed
            vh, vd = (getattr(settings.data.insertion, f"{split}_backgrounds") for split in ("vh_test", "vd_test"))
            assert not set(vh) & set(vd)
    assert sum(arm.rival for arm in study.arms.values()) >= 3


def test_the_command_that_is_written_down_names_no_folder_of_this_machine() -> None:
    given = [
        "--config",
        "study",
        "--only",
        "phantoms",
        "--seeds",
        "1",
        "2",
        "--out",
        "/home/me/x",
        "--write",
        "/home/me/y",
    ]
    assert typed(parser.parse_args(given)) == "harvester study --config study --only phantoms --seeds 1 2"
