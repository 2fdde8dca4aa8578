"""The YAML files that ship with harvester: in an installed package as harvester/configs, in a checkout as configs."""

from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).parents[1]
NO_SETTINGS: Final = ("backgrounds", "study")
"""Files that ship, but are no settings of a harvest: scans that real_ct inserts lesions into; what a study compares."""


def folder() -> Path:
    """Where they lie."""
    inside = PACKAGE / "configs"
    return inside if inside.is_dir() else PACKAGE.parent / "configs"


def names() -> list[str]:
    """What `--config NAME` takes, sorted."""
    return sorted(file.stem for file in folder().glob("*.yaml") if file.stem not in NO_SETTINGS)


def named(file: Path) -> Path:
    """The file itself, or the one that ships under this name (`quickstart`) where there is no such file.

    Anything else, a path among it, comes back as it is.
    """
    shipped = folder() / f"{file.stem}.yaml"
    bare = len(file.parts) == 1 and file.suffix.lower() in ("", ".yaml")
    return shipped if bare and shipped.is_file() and not file.is_file() else file
