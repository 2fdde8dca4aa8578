"""infra/'s files before Ray's own validators. No Ray is started, no cloud is asked. Their commands: test_texts.py."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config

REPO = Path(__file__).parents[2]
INFRA = REPO / "infra"


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
