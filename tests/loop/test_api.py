"""What `import harvester` gives to programs of others: these names, and nothing loaded before it is used."""

import inspect
import subprocess
import sys
import tomllib
from operator import attrgetter
from pathlib import Path

import pytest

import harvester

REPO = Path(__file__).parents[2]
API = {
    "HarvesterError": None,
    "Location": None,
    "Settings": None,
    "Store.open": ["where"],
    "evaluate": ["run", "truth", "rules", "baseline", "by", "accept", "resamples", "seed"],
    "prepare": ["settings", "source", "store", "shard_bytes"],
    "protocol": ["boxes3d", "metric", "threshold"],
    "read_annotations": ["marks", "volumes", "boxes3d"],
    "read_detections": ["file", "volume_ids", "boxes3d", "score", "annotated_only"],
    "resolve": ["file", "overrides"],
    "run_harvest": ["settings", "store", "run", "say"],
}
"""Each public name, and the parameters that programs of others give by name."""


def test_the_public_names_are_these() -> None:
    assert set(harvester.__all__) == {*(name.partition(".")[0] for name in API), "__version__"}
    assert set(harvester.__all__) <= set(dir(harvester))


@pytest.mark.parametrize("name", API)
def test_each_is_there_and_takes_what_it_took(name: str) -> None:
    public = attrgetter(name)(harvester)
    assert public.__name__ == name.rpartition(".")[2] and public.__doc__
    if wanted := API[name]:
        assert list(inspect.signature(public).parameters) == wanted


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'harvset'"):
        _ = harvester.harvset


def test_importing_it_loads_nothing_else() -> None:
    program = "import harvester, sys; print([n for n in ('numpy', 'pyarrow', 'ray', 'torch') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=REPO, check=True)
    assert done.stdout == "[]\n"


def test_versions_agree() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    assert project["version"] == harvester.__version__
    assert f"\n## [{harvester.__version__}] - " in (REPO / "CHANGELOG.md").read_text()
    assert f"\nversion: {harvester.__version__}\n" in (REPO / "CITATION.cff").read_text()
