"""Settings from defaults, a YAML file and `--set a.b=c`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel, ValidationError

from harvester.config import shipped
from harvester.config.settings import Settings
from harvester.config.strict_yaml import parse
from harvester.errors import SettingsError, one_line

GONE: Final = tuple(("operating_point", name) for name in ("early_target_precisions", "small_bonuses", "small_mm"))
"""Settings of earlier releases, section and name: the harvests of then are exported and reviewed all the same."""
MOVED: Final = {
    ("data", "archive", "dicom", name): ("data", "archive", name) for name in ("min_slices", "slice_spacing_mm")
}
"""Settings of earlier releases that are called otherwise now."""


def resolve(file: Path | str | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Defaults < YAML `file` < `overrides` ("a.b=c", the value read as YAML). Raises SettingsError, one line.

    `file` may be the bare name of a config that ships with harvester: quickstart.
    """
    return _resolved(_read(shipped.named(Path(file))) if file else {}, overrides)


def restore(text: str, overrides: Sequence[str] = ()) -> Settings:
    """The settings that `dump` wrote, with `overrides`, less what is GONE. Raises SettingsError, one line."""
    tree = _tree(text, "settings.yaml")
    for path in (*GONE, *MOVED):
        *sections, name = path
        section: Any = tree
        for each in sections:
            section = section.get(each) if isinstance(section, dict) else None
        if isinstance(section, dict) and name in section:
            value = section.pop(name)
            if path in MOVED:
                _place(tree, MOVED[path], value)
    return _resolved(tree, overrides)


def dump(settings: Settings) -> str:
    """The resolved tree as YAML that `resolve` reads back to an equal tree."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)


def _resolved(tree: dict[str, Any], overrides: Sequence[str]) -> Settings:
    for override in overrides:
        _put(tree, override)
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise SettingsError(_first_fault(error)) from None


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise SettingsError(f"--config {file}: no UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise SettingsError(
            f"--config {file}: cannot be read ({error.strerror}); give a YAML file, or the name of one that ships "
            f"with harvester: {', '.join(shipped.names())}"
        ) from None
    tree = _tree(text, f"--config {file}")
    return {"name": file.stem, **tree} if tree else {}


def _tree(text: str, where: str) -> dict[str, Any]:
    try:
        tree = parse(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"{where}: not valid YAML: {one_line(error)}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise SettingsError(f"{where}: want a tree of settings, got {type(tree).__name__}")
    return tree


def _put(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise SettingsError(f"--set {override}: want a.b=value")
    if not text.strip():
        raise SettingsError(f"--set {override}: no value; want {path}='' for an empty text, {path}=null for none")
    try:
        value = parse(text)
    except yaml.YAMLError:
        raise SettingsError(f"--set {override}: the value is not valid YAML") from None
    try:
        _place(tree, path.split("."), value)
    except SettingsError as error:
        raise SettingsError(f"--set {override}: {error}") from None


def _place(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    *parents, leaf = path
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise SettingsError(f"{parent} is a value, not a group of settings")
    tree[leaf] = value


def _first_fault(error: ValidationError) -> str:
    first, *others = error.errors()
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"setting {where}: unknown; allowed here: {', '.join(_allowed(first['loc'][:-1]))}"
    # A list lacks what was wrong in it: no fault of its own.
    more = sum(other["loc"] != first["loc"][: len(other["loc"])] for other in others)
    came = "" if isinstance(first["input"], dict) else f" = {first['input']!r}"
    told = first["msg"].removeprefix("Value error, ")
    return f"setting {where}{came}: {told}" + (f" (and {more} more)" if more else "")


def _allowed(loc: tuple[int | str, ...]) -> list[str]:
    section: type[BaseModel] = Settings
    for key in loc:
        annotation = section.model_fields[str(key)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        section = annotation
    return list(section.model_fields)
