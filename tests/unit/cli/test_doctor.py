"""What harvester doctor tells of a machine that has something, lacks it, or has it out of reach."""

import socket
from pathlib import Path

import pytest

from harvester.cli import doctor
from harvester.imaging.dicom.pixels import COMPRESSED


def test_this_machine_is_told_a_line_per_check(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "accelerator", lambda: (doctor.NONE, "on the CPU"))
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", *doctor.KEYS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HARVESTER_DATA", str(tmp_path))
    monkeypatch.setattr(doctor, "ray_cluster", lambda address: (doctor.OK, "starts its own"))
    assert doctor.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} <= {"ok", "none"}
    assert sum("DICOM codec" in line for line in lines) == len(COMPRESSED) == 9
    assert f"ok    data root       {tmp_path}" in lines
    assert not any("reach" in line for line in lines)


def test_what_is_missing_is_told_and_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "accelerator", lambda: (doctor.NONE, "on the CPU"))
    monkeypatch.setenv("HARVESTER_DATA", str(tmp_path / "gone"))
    assert doctor.main(["--reach", str(tmp_path / "new")]) == 1
    shown = capsys.readouterr().out
    assert f"missing  data root       HARVESTER_DATA={tmp_path}/gone: no folder" in shown
    assert "empty, or new" in shown


def test_packages_that_are_not_installed() -> None:
    found = doctor.packages(["pydicom", "no-such-package", "nor-this"])
    assert found == ("missing", "no no-such-package, nor-this; install harvester again")


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text("max\n")
    assert doctor.memory(limit) == doctor.memory(tmp_path / "none")
    limit.write_text(f"{3 * doctor.GIB}\n")
    assert doctor.memory(limit) == ("missing", "3.0 GiB; the quickstart takes 4")


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert f"GiB free in {tmp_path}" in doctor.disk(tmp_path)[1]
    monkeypatch.setattr(doctor, "NEEDED_DISK_GIB", 10**9)
    assert doctor.disk(tmp_path)[0] == "missing"


def test_a_codec_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harvester.imaging.dicom.pixels.plugin_of", lambda syntax: "nothing")
    found = list(doctor.codecs())
    assert {state for state, _ in found} == {"missing"}
    assert found[-1] == ("missing", "RLE Lossless: install nothing")


def test_a_cluster_is_joined_where_one_answers(tmp_path: Path) -> None:
    current = tmp_path / "ray_current_cluster"
    for nowhere in (None, "", "auto", "local"):
        assert "starts its own" in doctor.ray_cluster(nowhere, current)[1]
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        current.write_text(f"{address}\n")
        assert doctor.ray_cluster(None, current) == ("ok", f"joins the cluster at {address}")
    gone = doctor.ray_cluster(address, current)
    assert gone[0] == "missing" and "unset RAY_ADDRESS" in gone[1]


def test_where_mlflow_goes() -> None:
    assert "mlflow.db" in doctor.mlflow(None)[1]
    assert doctor.mlflow("sqlite:///secret/place.db")[1] == "sqlite"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert doctor.mlflow(f"http://name:word@127.0.0.1:{port}") == ("ok", "127.0.0.1 answers")
    assert doctor.mlflow(f"http://127.0.0.1:{port}")[0] == "none"


def test_weights_that_were_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    assert doctor.torch_cache() == folder
    folder.mkdir(parents=True)
    (folder / "resnet18-f37072fd.pth").touch()
    assert [state for state, _ in doctor.weights(folder)] == ["none", "ok"]


def test_keys_are_found_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in doctor.KEYS:
        monkeypatch.delenv(name, raising=False)
    assert doctor.object_store_keys(tmp_path)[0] == "none"
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text("hush")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "hush")
    assert doctor.object_store_keys(tmp_path)[1] == "keys by AWS_ACCESS_KEY_ID, .aws/credentials"


def test_a_folder_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").touch()
    assert doctor.reached(str(tmp_path))[1].endswith("settings.yaml")
    assert doctor.reached("ftp://somewhere/else")[0] == "missing"
