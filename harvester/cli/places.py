"""Where a path leads: in a submitted Ray job, which works in a copy that Ray throws away, to a folder that lasts."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from harvester.errors import SettingsError
from harvester.storage.location import Location

HOME: Final = "HARVESTER_HOME"
"""Names the folder, or its URI, in which a job's relative paths lie; without it, ~/harvester of the head."""
RAY_JOB: Final = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray gives it to the program that was submitted."""
RAYS_COPIES: Final = "runtime_resources"
"""The folder in which Ray unpacks working directories."""


def in_ray_job() -> bool:
    """Whether this program was submitted to Ray, or works in a working directory that Ray copied."""
    return RAY_JOB in os.environ or RAYS_COPIES in Path.cwd().parts


def home() -> Location:
    """Where a job's relative paths lie. Raises SettingsError where there is no home, or one that does not last."""
    named = os.environ.get(HOME)
    try:
        given = os.path.expandvars(named) if named else str(Path.home() / "harvester")
    except RuntimeError:
        raise SettingsError(f"this user has no home folder; set {HOME} to a folder or URI that lasts") from None
    where = os.path.expanduser(given)  # noqa: PTH111  it leaves a URI as it is
    place = Location.of(where) if "://" in where or Path(where).is_absolute() else None
    if place is None or (place.on_disk and RAYS_COPIES in Path(place.base).resolve().parts):
        told = f"{HOME} = {named}" if named else f"{HOME} is not set, and ~/harvester is {where}"
        raise SettingsError(f"{told}: want an absolute folder or a URI: a job's own folder is thrown away")
    return place


def lasting(given: str | Path) -> Location:
    """The place that is meant by a path or URI, for what is written: never in Ray's copy of a working directory."""
    path = Path(given)
    if "://" in str(given) or not in_ray_job():
        return Location.of(given)
    if path.is_absolute() and path.resolve().is_relative_to(Path.cwd()):
        path = path.resolve().relative_to(Path.cwd())
    return Location.of(path) if path.is_absolute() else _at_home(path)


def lasting_path(given: Path) -> Path:
    """The same for what takes a disk. Raises SettingsError where home is none."""
    place = lasting(given)
    if not place.on_disk:
        raise SettingsError(f"{given}: {place} is no folder of a disk; give an absolute path")
    return Path(place.base)


def existing(given: str | Path, file: str) -> Location:
    """The folder that is meant, for what is read: the first with such a file of where it would be written, of where
    the path itself leads, and of where a job would have written it; the first of all where none has it."""
    if "://" in str(given):
        return Location.of(given)
    return next((place for place in _meant(Path(given)) if (place / file).is_file()), lasting(given))


def _meant(path: Path) -> Iterator[Location]:
    yield lasting(path)
    yield Location.of(path)
    if not path.is_absolute():
        yield _at_home(path)  # last: what lies here needs no home


def run_folder(given: str | Path) -> Location:
    """The folder of a run that is there."""
    return existing(given, "settings.yaml")


def store_folder(given: str | Path | None) -> Location | None:
    """The folder of a store that is there; None for none."""
    return existing(given, "manifest.parquet") if given else None


def _at_home(path: Path) -> Location:
    """Below home, whatever the path says of folders above it."""
    inside = os.path.normpath(f"/{path.as_posix()}").strip("/")
    return home() / inside if inside else home()
