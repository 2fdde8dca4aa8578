"""The job under test, as a user calls it, and its JSON."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harvester.cli.evaluate import main


@pytest.fixture
def evaluate(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """harvester evaluate with the given arguments, which must succeed: what it wrote as JSON."""

    def run(*arguments: object) -> dict[str, Any]:
        file = tmp_path / "figures.json"
        assert main([*map(str, arguments), "--json", str(file)]) == 0
        return json.loads(file.read_text())

    return run
