"""Rings: every test carries the name of its folder as a marker, so `-m "unit or model"` picks rings too."""

from pathlib import Path

import hypothesis
import pytest

TESTS = Path(__file__).parent

# The same examples on every machine and in every order of the tests, and no clock that can fail them.
hypothesis.settings.register_profile("harvester", derandomize=True, deadline=None, max_examples=40)
hypothesis.settings.load_profile("harvester")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its ring."""
    for item in items:
        ring = item.path.relative_to(TESTS).parts[0]
        item.add_marker(ring)
        if (
            ring == "cluster"
        ):  # Ray warns of its own settings; our own code is held to no warnings in the other rings
            item.add_marker(pytest.mark.filterwarnings("default"))
