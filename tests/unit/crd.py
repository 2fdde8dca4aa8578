"""A Kubernetes custom resource's published schema as a JSON schema that refuses unknown fields, as the API server does.

Rules in CEL (x-kubernetes-validations) are not checked.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft4Validator

BESIDE = Path(__file__).parents[3] / "shared" / "data"
SCHEMAS = Path(
    os.environ.get("HARVESTER_SCHEMAS") or Path(os.environ.get("HARVESTER_DATA") or BESIDE).parent / "schemas"
)
OPEN = "x-kubernetes-preserve-unknown-fields"
INT_OR_STRING = "x-kubernetes-int-or-string"


def published(plural: str, version: str) -> dict[str, Any]:
    """The OpenAPI schema of a kind, as published; skips where the files are absent."""
    file = SCHEMAS / f"ray.io_{plural}.crd.yaml"
    if not file.is_file():
        pytest.skip(f"{file.name} is not here: set HARVESTER_SCHEMAS, or HARVESTER_DATA with schemas/ beside it")
    # The parser in C, where PyYAML has it: 1.4 MB take it a second, the other one half a minute.
    definition = yaml.load(file.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    (schema,) = (v["schema"]["openAPIV3Schema"] for v in definition["spec"]["versions"] if v["name"] == version)
    return dict(schema)


def errors(document: Any, schema: dict[str, Any]) -> list[str]:
    """What the API server would refuse, each as "path: message"."""
    found = Draft4Validator(strict(schema)).iter_errors(document)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with every object closed whose fields it names."""
    closed = dict(schema)
    if INT_OR_STRING in closed:
        closed.pop("type", None)
    if closed.pop("nullable", False):
        closed["type"] = [closed["type"], "null"]
    if "properties" in closed:
        closed["properties"] = {name: strict(part) for name, part in closed["properties"].items()}
        if not closed.get(OPEN):
            closed["additionalProperties"] = False
    for name in ("items", "additionalProperties"):
        if isinstance(closed.get(name), dict):
            closed[name] = strict(closed[name])
    return closed
