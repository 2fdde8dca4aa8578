"""What fails by itself is not tried again; lost workers are, as often as the setting says. No Ray is started."""

import errno
import logging
from typing import Any

import pytest
import torch
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.train import TrainingFailedError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import ControllerError

from harvester.config.settings import Settings
from harvester.distributed import fit_progress, training
from harvester.distributed.fit_progress import FitProgress
from harvester.distributed.training import FitJob, train_folds
from harvester.errors import HarvesterError, NotFiniteError, StepError
from harvester.models.fit import FitStep
from harvester.storage.location import Location

TRACEBACK = """Traceback (most recent call last):
  File "/somewhere/harvester/models/fit.py", line 99, in run
  File "/somewhere/torch/nn/modules/conv.py", line 7, in forward
ZeroDivisionError: float division by zero"""
KILLED = WorkerHealthCheckFailedError("died", ActorDiedError())
FOR_WANT_OF_MEMORY = WorkerHealthCheckFailedError("died", OutOfMemoryError("killed to free memory"))
PEER = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4321")


def failed(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, retries: int = 2) -> tuple[str, int, str]:
    """The error of a fit whose every try ends with this one, how many tries there were, and the kind of the error."""
    tries = []

    def fit_all(job: FitJob) -> None:
        tries.append(job)
        raise error

    monkeypatch.setattr(training, "_fit_all", fit_all)
    out, settings = Location.of(tmp_path), Settings.model_validate({"compute": {"train_retries": retries}})
    with pytest.raises(HarvesterError) as caught:
        train_folds(FitJob("generator", settings, out, out, [], {}, out, None, 0))
    assert "\n" not in str(caught.value)
    return str(caught.value), len(tries), type(caught.value).__name__


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (ZeroDivisionError("float division by zero"), "ZeroDivisionError: float division by zero, conv.py line 7"),
        (KeyError("volume_id"), "KeyError: 'volume_id', conv.py line 7"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried\nmuch"), "take a smaller generator.batch_slabs"),
        (MemoryError(), "take a smaller generator.batch_slabs"),
    ],
)
def test_what_a_worker_raised_ends_the_fit_in_one_line(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any, failure: Exception, told: str
) -> None:
    line, tries, kind = failed(tmp_path, monkeypatch, WorkerGroupError(TRACEBACK, {0: failure}))
    assert (tries, kind) == (1, "StepError")
    assert line.startswith(f"generator: training failed ({type(failure).__name__}: ")
    assert line.endswith("); the same would happen again, so it was not tried again")
    assert told in line
    assert not caplog.records


def test_a_share_that_was_away_is_tried_again_and_a_refused_write_is_not(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for away in (OSError(errno.ESTALE, "Stale file handle"), OSError(errno.EIO, "I/O error"), ConnectionResetError()):
        assert failed(tmp_path, monkeypatch, WorkerGroupError(TRACEBACK, {0: away}))[1] == 3
    for lasting in (OSError("When uploading object: AWS Error ACCESS_DENIED"), FileNotFoundError(2, "no such file")):
        line, tries, _ = failed(tmp_path, monkeypatch, WorkerGroupError(TRACEBACK, {0: lasting}))
        assert tries == 1
        assert line.endswith("see to that, then start the same command again: it goes on from the last checkpoint")


@pytest.mark.parametrize("other", [RuntimeError("stopped"), KILLED, PEER])
def test_an_error_of_ours_stays_itself(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, other: Exception) -> None:
    ours = NotFiniteError("generator fold 1: the loss of step 300 is not finite")
    both = WorkerGroupError("x", {0: other, 1: ours})
    assert failed(tmp_path, monkeypatch, both) == (str(ours), 1, "NotFiniteError")


def test_what_rays_controller_cannot_do_is_not_tried_again(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    line, tries, _ = failed(tmp_path, monkeypatch, ControllerError(ValueError("no such filesystem")))
    assert tries == 1
    assert "ValueError: no such filesystem" in line


@pytest.mark.parametrize(
    "failures",
    [
        {0: KILLED},
        {0: FOR_WANT_OF_MEMORY},
        {0: PEER, 1: KILLED},
        {0: PEER},
        {0: torch.distributed.DistNetworkError("x")},
    ],
    ids=["killed", "memory", "peer and killed", "peer", "network"],
)
def test_lost_workers_are_replaced_as_often_as_the_setting_says(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any, failures: dict[int, Exception]
) -> None:
    with caplog.at_level(logging.WARNING):
        line, tries, kind = failed(tmp_path, monkeypatch, WorkerGroupError("x", failures))
    assert (tries, kind) == (3, "StepError")
    assert line.startswith("generator: training workers were lost 3 times (")
    assert "compute.train_retries = 2" in line
    assert len([each for each in caplog.messages if "going on from the last checkpoint" in each]) == 2


def test_a_cluster_that_fails_otherwise_is_tried_again(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (TrainingFailedError("unknown"), ActorDiedError()):
        assert failed(tmp_path, monkeypatch, error, retries=1)[1] == 2
    assert issubclass(NotFiniteError, StepError)


def test_steps_of_all_fits_are_told_as_workers_write_them(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Fold 0 was fitted by an earlier start; the other two are told together, with the losses of the latest."""
    out = Location.of(tmp_path)
    (out / "fold-0.safetensors").write_text("weights")
    job = FitJob("generator", Settings(folds=3), out, out, [], {}, out, None, 0)
    progress = FitProgress(job)
    monkeypatch.setattr(fit_progress, "SECONDS_BETWEEN_NOTES", 0.0)
    first, second = (fit_progress.telling(out, number, f"generator fold {number}") for number in (1, 2))

    def told() -> list[tuple[int, int, str]]:
        caplog.clear()
        progress.reached()
        return [(each.done, each.total, each.more) for each in (record.progress for record in caplog.records)]

    caplog.set_level(logging.DEBUG, "harvester.run.progress")
    assert told() == []
    progress.began -= 10  # so long ago that look was, the last before a worker began
    first(FitStep(25, 100, {"heat": 0.5}, 5.0))
    assert told() == [(125, 300, "heat 0.500")]
    assert 2 < caplog.records[-1].progress.rate <= 2.5  # type: ignore[attr-defined]
    assert told() == []
    second(FitStep(50, 100, {"heat": 0.25}, 5.0))
    assert told() == [(175, 300, "heat 0.250")]
    again = FitProgress(job)
    assert again.reached() and (again.lines is not None and again.lines.done) == 175
    (out / "begun" / "fit-2").write_text("{")  # what a killed worker was writing
    assert told() == []


def test_fits_of_different_length_are_counted_together(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    out = Location.of(tmp_path)
    progress = FitProgress(FitJob("detectors", Settings(folds=2), out, out, [], {}, out, None, 0))
    monkeypatch.setattr(fit_progress, "SECONDS_BETWEEN_NOTES", 0.0)
    seen = []
    for number, step, steps in [(0, 300, 300), (1, 1, 1500), (1, 1500, 1500)]:
        fit_progress.telling(out, number, "a fit")(FitStep(step, steps, {"heat": 0.5}, 5.0))
        progress.reached()
        assert progress.lines is not None
        seen.append((progress.lines.done, progress.lines.total))
    assert seen == [(300, 600), (301, 1800), (1800, 1800)]


def test_workers_write_at_most_now_and_then_and_at_the_end(tmp_path: Any) -> None:
    out = Location.of(tmp_path)
    tell = fit_progress.telling(out, 0, "generator fold 0")
    for step in (25, 50, 75):
        tell(FitStep(step, 100, {"heat": 0.5}, 5.0))
    assert (out / "begun" / "fit-0").read_json(step=int) == {"step": 25, "steps": 100, "terms": "heat 0.500"}
    tell(FitStep(100, 100, {"heat": 0.5}, 5.0))
    assert (out / "begun" / "fit-0").read_json(step=int) == {"step": 100, "steps": 100, "terms": "heat 0.500"}
