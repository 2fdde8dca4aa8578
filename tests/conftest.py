"""Rings: every test carries the name of its folder as a marker, so `-m "unit or model"` picks rings too."""

import gc
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

TESTS = Path(__file__).parent

# A shell that starts these tests in the background, or nohup, lets them and every program they start ignore signals.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)

# The same examples everywhere and at every speed: no test's outcome hangs on chance or on how busy a machine is.
settings.register_profile(
    "rings",
    deadline=None,
    max_examples=40,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("rings")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its ring."""
    for item in items:
        ring = item.path.relative_to(TESTS).parts[0]
        item.add_marker(ring)
        if ring in (
            "cluster",
            "harvest",
        ):  # Ray warns of its own settings; our own code is held to no warnings in the other rings
            item.add_marker(pytest.mark.filterwarnings("default"))


def pytest_collection_finish() -> None:
    """Thousands of collected tests stay to the end: each look for garbage would go through them, half a second long."""
    gc.freeze()
