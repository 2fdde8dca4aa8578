"""infra/'s files before Ray's own validators and the jobs' parsers. No Ray is started, no cloud is asked."""

import re
import shlex
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config

from harvester.config.loading import resolve

REPO = Path(__file__).parents[2]
INFRA = REPO / "infra"
FILES = sorted(
    path for path in INFRA.rglob("*") if path.suffix in {".yaml", ".md"} or path.name == "Dockerfile"
)


def load(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((INFRA / name).read_text()))


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_the_launchers_files_pass_rays_validator(name: str) -> None:
    checked = prepare_config(load(name))
    validate_config(checked)
    assert checked["docker"]["container_name"] == "harvester"
    assert checked["setup_commands"] == []  # else Ray's own default would install another Ray
    assert "boto3" in str(checked["head_setup_commands"]) or "google" in str(checked["head_setup_commands"])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("max_worker",), 1),
        (("docker", "imagee"), "x"),
        (("available_node_types", "gpu", "resources", "GPU"), "1"),
        (("head_start_ray_commands",), "ray start --head"),
    ],
)
def test_rays_validator_finds_what_is_wrong(path: tuple[str, ...], value: Any) -> None:
    config: Any = load("aws.yaml")
    part = config
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = value
    with pytest.raises(ValidationError):
        validate_config(prepare_config(deepcopy(config)))


def test_rays_autoscaler_reads_the_same_workers_from_kuberay_as_from_the_launcher() -> None:
    cluster = load("kuberay/raycluster.yaml")
    cluster["metadata"]["namespace"] = "default"
    derived = _derive_autoscaling_config_from_ray_cr(cluster)
    validate_config(derived)
    types = derived["available_node_types"]
    (head,) = (node for name, node in types.items() if name == derived["head_node_type"])
    assert head["resources"]["CPU"] == 0
    gpu = types["gpu"]
    for name in ("aws.yaml", "gcp.yaml"):
        node = load(name)["available_node_types"]["gpu"]
        assert (gpu["resources"]["CPU"], gpu["resources"]["GPU"]) == (
            node["resources"]["CPU"],
            node["resources"]["GPU"],
        )
        assert (gpu["min_workers"], gpu["max_workers"]) == (0, node["max_workers"])
    assert gpu["resources"]["memory"] == 54 * 2**30
    assert types["cpu"]["resources"]["CPU"] == 7 and "GPU" not in types["cpu"]["resources"]


def commands() -> list[tuple[str, str, list[str]]]:
    """Every `python jobs/X.py ...` of infra/: file, job, arguments. Lines that go on are one command."""
    found = []
    for file in FILES:
        text = re.sub(r"\\\n\s*", "", file.read_text())
        text = re.sub(r"(jobs/\w+\.py[^\n`]*)\n\s+(?=--)", r"\1 ", text)
        text = re.sub(r"(jobs/\w+\.py[^\n`]*)\n\s+(?=--)", r"\1 ", text)
        for job, rest in re.findall(r"python jobs/(\w+)\.py((?: [^\s`#;&|\"\\]+)*)", text):
            found.append((file.name, job, shlex.split(rest)))
    return found


def test_every_command_names_a_job_that_takes_its_options() -> None:
    asked = commands()
    assert {file for file, _, _ in asked} >= {"README.md", "rayjob.yaml"}
    for file, job, arguments in asked:
        assert (REPO / "jobs" / f"{job}.py").is_file(), f"{file}: jobs/{job}.py"
        options = import_module(f"harvester.cli.{job}").parse(arguments)
        if getattr(options, "config", None):
            assert resolve(REPO / options.config, options.set).name == options.config.stem
    (entry,) = (arguments for file, _, arguments in asked if file == "rayjob.yaml")
    assert [part for part in entry if part.startswith("--")] == ["--config", "--store", "--run", "--set"]


def test_an_option_that_a_job_does_not_take_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        import_module("harvester.cli.harvest").parse(["--store", "s3://b/store", "--runs", "s3://b/night1"])
    assert "--runs" in capsys.readouterr().err
