"""What can be known before Ray starts is said before."""

from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch

from harvester.cli import run_harvest
from harvester.cli.harvest import main


@pytest.mark.parametrize("model", ["generator", "classifier"])
def test_imagenet_without_a_network_is_one_line_before_ray_starts(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def away(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "urlopen", away)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    monkeypatch.setattr(run_harvest, "start_ray", lambda: pytest.fail("Ray was started"))
    given = [f"--set={model}.weights=imagenet", f"--set={model}.backbone=resnet18", "--run", str(tmp_path / "run")]
    assert main(given) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "weights 'imagenet': resnet18-f37072fd.pth cannot be downloaded from here (<urlopen error no"
    )
    assert f"put it into {tmp_path}/cache/checkpoints on every node, or give the file's path as weights" in line


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (None, "no such file"),
        ({"stages.0.0.weight": torch.tensor([float("nan")])}, "hold NaN or infinity"),
        ({"stages.0.0.weight": torch.ones(1)}, "do not fit this backbone"),
    ],
)
def test_weights_that_cannot_be_used_are_one_line_before_ray_starts(
    state: Any, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_harvest, "start_ray", lambda: pytest.fail("Ray was started"))
    if state:
        torch.save(state, tmp_path / "w.pt")
    assert main([f"--set=generator.weights={tmp_path}/w.pt", "--run", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


@pytest.mark.parametrize("below", ["x", ""])
def test_a_run_folder_that_cannot_be_made_is_one_line(
    below: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["--run", str(tmp_path / "file" / below)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{tmp_path}/file") and line.endswith("see to that, or give another folder")
