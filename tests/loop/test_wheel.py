"""The wheel: built, put into a folder of its own, and used from an empty one, where no checkout helps."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
CONFIGS = ("backgrounds", "deeplesion", "quickstart", "real_ct")
START = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "Editable" not in getattr(finder, "__name__", "")]
sys.path[:] = [sys.argv.pop(1), *(path for path in sys.path if path != sys.argv[0])]
from harvester.cli.main import main
import harvester
print(harvester.__file__)
sys.exit(main())
"""
"""An installed harvester's script, without the checkout that this environment may have installed as editable."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, as a fresh clone would be, by the environment's own setuptools: no network."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("harvester", "configs", "docs"):
        shutil.copytree(REPO / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(REPO / name, source)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--quiet",
        "--disable-pip-version-check",
    ]
    built = subprocess.run([*pip, "-w", out, source], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (file,) = out.glob("harvester-*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where its packages lie: a wheel of pure Python is installed by unpacking it."""
    folder = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def harvester(installed: Path, empty: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", START, str(installed), *arguments],
        capture_output=True,
        text=True,
        cwd=empty,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    where, _, shown = done.stdout.partition("\n")
    assert Path(where).is_relative_to(installed)
    return shown


def test_it_holds_the_configs_the_types_the_license_and_nothing_beside(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    own = [name for name in names if not name.startswith("harvester-")]
    assert {f"harvester/configs/{name}.yaml" for name in CONFIGS} | {"harvester/py.typed"} <= set(own)
    assert all(name.startswith("harvester/") for name in own)
    modules = {str(file.relative_to(REPO)) for file in (REPO / "harvester").rglob("*.py")}
    assert {name for name in own if name.endswith(".py")} == modules
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_its_metadata_says_what_it_is(installed: Path) -> None:
    (folder,) = installed.glob("harvester-*.dist-info")
    text = (folder / "METADATA").read_text()
    assert "\nLicense-Expression: Apache-2.0\n" in text and "\nLicense-File: LICENSE\n" in text
    assert "harvester = harvester.cli.main:main" in (folder / "entry_points.txt").read_text()


def test_the_command_works_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    assert "harvester harvest --config quickstart" in harvester(installed, tmp_path, "--help")
    printed = harvester(installed, tmp_path, "harvest", "--config", "quickstart", "--plan")
    assert printed == f"to make  the volumes (phantom), into {tmp_path}/runs/quickstart/store; then every step\n"
    assert not any(tmp_path.iterdir())
