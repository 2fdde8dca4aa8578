"""harvester track: which run goes to which server. What is sent, and that it is sent once: tests of run/tracking.py."""

import pytest

from harvester.cli.track import main
from harvester.errors import StoreError
from harvester.storage.location import Location


@pytest.mark.parametrize(
    ("given", "environment", "asked"),
    [((), None, None), ((), "http://one", "http://one"), (("--uri", "http://two"), "http://one", "http://two")],
)
def test_the_uri_is_the_options_or_the_environments(
    given: tuple[str, ...],
    environment: str | None,
    asked: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls = []

    def sync(run: Location, uri: str | None) -> str:
        calls.append((run, uri))
        return "2 rounds"

    monkeypatch.setattr("harvester.run.tracking.sync", sync, raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if environment:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", environment)
    assert main(["--run", "runs/a", *given]) == 0
    assert calls == [(Location.of("runs/a"), asked)]
    assert capsys.readouterr().out == "sent to MLflow: 2 rounds\n"


def test_a_folder_that_is_no_run_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def sync(run: Location, uri: str | None) -> str:
        raise StoreError(f"{run}: no settings.yaml")

    monkeypatch.setattr("harvester.run.tracking.sync", sync, raising=False)
    assert main(["--run", "/none"]) == 1
    assert capsys.readouterr().err == "/none: no settings.yaml\n"
