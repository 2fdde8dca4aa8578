"""No user, password or key of a URI comes out: not in errors, on the terminal, in a log, nor by a URI that is taken."""

import logging
from pathlib import Path

import pytest

from harvester.cli.harvest import main as harvest
from harvester.cli.track import main as track
from harvester.errors import SettingsError, StoreError, one_line, without_secrets
from harvester.run.log import logged_to, read_log
from harvester.run.tracking import require_plain
from harvester.storage.location import Location
from tests.commands import exit_code_of

SECRETS = [
    "http://alice:S3CRETPW@127.0.0.1:9",
    "https://S3CRETPW@mlflow.example.org/path",
    "http://alice:S3CRET/S3CRETPW@127.0.0.1:9/api",
    "http://alice:S3CRET@S3CRETPW@127.0.0.1:9/api",
    "http://alice:1S3CRETPW@127.0.0.1:9/api",
    "postgresql+psycopg2://alice:S3CRETPW@db:5432/mlflow",
    "https://host/path?token=S3CRETPW&x=1",
    "s3://bucket/run?region=x&Secret_Key=S3CRETPW",
]
PLAIN = [
    "http://127.0.0.1:9/api/runs/a@b?x=1",
    "sqlite:////data/runs/night@home/mlflow.db",
    "s3://bucket/night@home?region=x&endpoint_override=127.0.0.1:9000",
    "mail alice@example.org about http://host:8080",
    "no secret at all: 3 @ 4",
    "file:/data/a:b@c, C:/night@home and file:///data/x:y@z",
]


@pytest.mark.parametrize("uri", SECRETS)
def test_a_text_that_quotes_one_leaves_it_out(uri: str) -> None:
    for text in (
        uri,
        uri.replace("://", ":/"),
        f"API request to '{uri}/v1' failed",
        f"one\n{uri}\ntwo {uri}",
        f"({uri})",
    ):
        for said in (without_secrets(text), one_line(ValueError(text))):
            assert "S3CRET" not in said and "alice" not in said
    assert without_secrets(f"at {uri} x").endswith(" x")


@pytest.mark.parametrize("text", PLAIN)
def test_what_holds_none_stays_as_it_is(text: str) -> None:
    assert without_secrets(text) == text


@pytest.mark.parametrize("uri", SECRETS)
def test_it_reaches_neither_log_nor_terminal(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Location.of(tmp_path)

    def work() -> None:
        with logged_to(folder):
            logging.getLogger("harvester.test").warning("tracking failed (%s)", f"API request to {uri}/api failed")
            raise StoreError(f"{uri} does not answer")

    root = logging.getLogger()
    before, root.handlers = root.handlers, []  # as in a program: the console's own
    try:
        assert exit_code_of(work) == 1
    finally:
        root.handlers = before
    told = capsys.readouterr()
    assert "tracking failed" in told.out and "does not answer" in told.err
    assert [line["message"][:8] for line in read_log(folder)] == ["tracking", "StoreErr"]
    for text in (told.out, told.err, (tmp_path / "log.jsonl").read_text()):
        assert "S3CRET" not in text and "alice" not in text


@pytest.mark.parametrize("uri", SECRETS)
def test_a_tracking_uri_with_one_is_refused_before_anything_begins(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert harvest(["--run", str(tmp_path / "run")]) == 2
    assert track(["--run", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.count("set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD") == 2
    assert "S3CRET" not in said and "alice" not in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("uri", [None, "http://127.0.0.1:5000", "postgresql://alice@db/mlflow", "sqlite:///a@b.db"])
def test_a_tracking_uri_without_one_is_taken(uri: str | None) -> None:
    require_plain(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://AKIAX:hush@bucket/store",
        "s3://AKIAX:hu/sh@bucket/store",
        "s3://AKIAX:12/hush@bucket/store",
        "s3://bucket/store?endpoint_override=alice:hush@minio:9000",
        "s3://bucket/store?proxy_options=http%3A%2F%2Falice%3Ahush%40proxy",
        "gs://bucket/store?access%5Ftoken=hush",
        "http://alice:hush@host/store",
    ],
)
def test_a_stores_uri_with_one_is_refused(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(SettingsError, match="AWS_ACCESS_KEY_ID") as caught:
        Location.of(uri)
    assert "hush" not in str(caught.value)
    # One in the settings is not written down, though another store is given.
    config = tmp_path / "c.yaml"
    config.write_text(f"data: {{store: '{uri}'}}")
    given = ["--config", str(config), "--run", str(tmp_path / "run"), "--store", str(tmp_path / "store"), "--plan"]
    assert harvest(given) == 2
    assert "hush" not in "".join(capsys.readouterr())
