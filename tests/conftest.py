"""Rings: every test carries the name of its folder as a marker, so `-m "unit or model"` picks rings too."""

from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its ring."""
    for item in items:
        ring = item.path.relative_to(TESTS).parts[0]
        item.add_marker(ring)
        if (
            ring == "cluster"
        ):  # Ray warns of its own settings; our own code is held to no warnings in the other rings
            item.add_marker(pytest.mark.filterwarnings("default"))
