"""What harvester harvest --plan tells; the steps are made by stand-ins for what runs on Ray (which is not started)."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from harvester.cli.harvest import main, plan_main
from harvester.cli.plan import format_plan, plan
from harvester.config.settings import Settings
from harvester.errors import StoreError
from harvester.results.history import History
from harvester.run.folder import STEP_VERSION, Run
from harvester.store.store import Store
from tests.loop.test_round_without_examples import SETTINGS, harvested, store

__all__ = ["harvested", "store"]


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def changed(part: str, **settings: object) -> Settings:
    tree = SETTINGS.model_dump(mode="json")
    tree[part] |= settings
    return Settings.model_validate(tree)


@pytest.fixture
def finished(harvested: Callable[..., History], tmp_path: Path) -> Path:
    harvested("generator", 99)
    return tmp_path / "run"


def test_of_a_finished_run_nothing_is_left_and_nothing_is_written(finished: Path, store: Store) -> None:
    before = content(finished), content(Path(store.path.base))
    planned = plan(finished, SETTINGS, store)
    assert planned.next is None
    done = [(step["round"], step["step"]) for step in planned.done]
    assert done == [(k, step) for k in range(len(done) // len(STEP_VERSION)) for step in STEP_VERSION] and done
    assert list(format_plan(planned))[-1] == "nothing to do but the report: every step is made"
    # How it is computed changes nothing.
    assert plan(finished, changed("compute", replicas=7, train_workers=3), store).next is None
    # With other settings it is not the same run, but to plan it is no look at V_M.
    assert plan(finished, SETTINGS.model_copy(update={"min_gain": 0.011}), store).next is None
    assert (content(finished), content(Path(store.path.base))) == before


def test_a_changed_setting_redoes_what_depends_on_it_and_is_named(finished: Path, store: Store) -> None:
    planned = plan(finished, changed("generator", steps=210, width=40), store)
    assert (planned.done, planned.next) == ([], (0, "generator"))
    # The weights that ship are for the default network.
    weights = "the weights that it starts from changed"
    assert planned.reasons == ["generator.steps 200 -> 210", "generator.width 32 -> 40", weights]
    assert planned.after == [(k, step) for k in range(3) for step in STEP_VERSION][1:]
    (line,) = [line for line in format_plan(planned) if "round 0 generator" in line]
    assert f"generator.steps 200 -> 210; generator.width 32 -> 40; {weights} (took 0.0 s last time)" in line
    planned = plan(finished, changed("linking", max_gap=2), store)
    assert [step["step"] for step in planned.done] == ["generator"]
    assert (planned.next, planned.reasons) == ((0, "tubelets"), ["linking.max_gap 1 -> 2"])
    planned = plan(finished, changed("operating_point", target_precision=0.6), store)
    assert (planned.next, planned.reasons) == ((0, "operating-point"), ["operating_point.target_precision 0.5 -> 0.6"])


def test_what_an_older_release_made_is_made_anew_and_said_so(
    finished: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        newer.setitem(STEP_VERSION, "tubelets", STEP_VERSION["tubelets"] + 1)
        planned = plan(finished, SETTINGS, store)
        assert (planned.next, planned.reasons) == ((0, "tubelets"), ["made by an older release"])
        both = plan(finished, changed("linking", max_gap=2), store)
        assert both.reasons == ["linking.max_gap 1 -> 2", "made by an older release"]
    monkeypatch.setitem(STEP_VERSION, "classifier", 0)
    planned = plan(finished, SETTINGS, store)
    assert (planned.next, planned.reasons) == ((0, "classifier"), ["made by a newer release"])
    # Before there were versions, a note said made_of.
    (note,) = (finished / "round-0").glob("generator-*.step.json")
    tree = json.loads(note.read_text())
    tree["made_of"] = {name: value for name, value in tree.pop("inputs").items() if name != "step_version"}
    note.with_name("generator-0123456789ab.step.json").write_text(json.dumps(tree))
    note.unlink()
    planned = plan(finished, SETTINGS, store)
    assert (planned.next, planned.reasons) == ((0, "generator"), ["made by an older release"])


def test_a_newer_releases_folder_is_not_planned_in(finished: Path, store: Store) -> None:
    (finished / "run.json").write_text('{"format": 99}')
    with pytest.raises(StoreError, match="a run folder of format 99"):
        plan(finished, SETTINGS, store)


def test_a_stopped_step_tells_what_is_there(finished: Path, store: Store) -> None:
    (note,) = (finished / "round-0").glob("tubelets-*.step.json")
    partials = note.with_name(note.name.replace(".step.json", ".partials"))
    note.unlink()
    shutil.rmtree(partials)
    partials.mkdir()
    (partials / "plan.json").write_text('{"volumes": 16, "at": 0.0}')
    for i in range(3):
        (partials / f"00000{i}-abc.json").write_text('{"crc32": 1, "published": 16, "ended": 0.0}')
    planned = plan(finished, SETTINGS, store)
    assert (planned.next, planned.reasons) == ((0, "tubelets"), [])
    assert planned.begun == "3 parts of 16 volumes are published"


def test_what_is_gone_is_made_anew_and_said_so(finished: Path, store: Store) -> None:
    weights = sorted((finished / "round-0").glob("generator-*/fold-*.safetensors"))
    weights[0].unlink()
    told = plan(finished, SETTINGS, store)
    assert told.next == (0, "generator")
    assert told.reasons == [
        "fold-0.safetensors is gone or not as written (what was made from it stays if it comes out the same)"
    ]
    assert told.begun == f"{len(weights) - 1} of its folds are fitted, 0 go on from checkpoints"
    (line, *_) = format_plan(told)
    assert line.startswith("to make  round 0 generator        fold-0.safetensors is gone")


def test_a_run_that_was_never_started(tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    planned = plan(tmp_path / "new", SETTINGS, store)
    assert (planned.done, planned.next, planned.reasons) == ([], (0, "generator"), [])
    assert not (tmp_path / "new").exists()
    config = tmp_path / "c.yaml"
    config.write_text("rounds: 2")
    arguments = ["--config", str(config), "--run", str(tmp_path / "new"), "--plan"]
    assert main([*arguments, "--store", str(store.path)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert plan_main([*arguments[:-1], "--store", str(store.path)]) == 0
    assert capsys.readouterr().out.splitlines() == shown
    assert shown[0].split() == ["to", "make", "round", "0", "generator", "never", "made", "here"]
    assert main(arguments) == 2  # no phantoms by surprise
    assert "no store is named: give --store STORE" in capsys.readouterr().err
    assert main([*arguments, "--set", "data.kind=phantom"]) == 0
    assert "the volumes (phantom)" in capsys.readouterr().out
    assert not (tmp_path / "new").exists()


def test_a_step_writes_down_what_it_depends_on(tmp_path: Path, store: Store) -> None:
    run = Run.open(tmp_path / "run", SETTINGS, store)
    key = run.key("tubelets", linking=SETTINGS.linking, generator_weights="abc")
    run.values("point", 0, key, dict)
    note = json.loads((run.of_round(0) / f"point-{key}.step.json").read_text())
    assert note["inputs"] == {
        "step_version": STEP_VERSION["tubelets"],
        "linking": SETTINGS.linking.model_dump(mode="json"),
        "generator_weights": "abc",
    }
