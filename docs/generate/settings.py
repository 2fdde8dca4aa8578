"""Writes docs/settings.md from the models of the settings: python docs/generate/settings.py (make pages)."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from harvester.config.data import Section
from harvester.config.settings import Settings

PAGE = Path(__file__).parents[1] / "settings.md"
HEAD = """# Settings

Generated from the code (`make pages`). Defaults come first, then the YAML file (`--config`), then each `--set`:

    harvester harvest --config deeplesion --store STORE --set rounds=3 --set "operating_point.lpg_floors=[0.1,0.2]"

A key that does not exist, or a value that is not allowed, is refused with what is allowed. `RUN/settings.yaml` has the
settings of a run as resolved; `harvester plan` tells which steps a changed setting makes anew.
"""


def page() -> str:
    """The whole page."""
    return HEAD + "".join(f"\n{part}\n" for part in sections(Settings, ""))


def sections(model: type[Section], prefix: str) -> Iterator[str]:
    """A heading and a table per section, the parent before its children."""
    fields = {name: field for name, field in model.model_fields.items() if not is_section(field)}
    title = f"## {prefix}" if prefix else "## At the top"
    yield "\n".join([title, "", first_sentence(model), "", *table(fields, prefix)])
    for name, field in model.model_fields.items():
        if is_section(field):
            yield from sections(field.annotation, f"{prefix}.{name}".lstrip("."))  # type: ignore[arg-type]


def table(fields: dict[str, FieldInfo], prefix: str) -> list[str]:
    """A row per setting."""
    rows = [f"| `{name}` | {default(field)} | {meaning(field)} |" for name, field in fields.items()]
    return ["| setting | default | meaning |", "|---|---|---|", *rows] if rows else []


def is_section(field: FieldInfo) -> bool:
    """Whether a field is a group of settings."""
    return isinstance(field.annotation, type) and issubclass(field.annotation, Section)


def default(field: FieldInfo) -> str:
    """As a YAML file would say it; long lists are cut."""
    text = as_yaml(field.default)
    return f"`{text}`" if len(text) <= 60 else f"`{text[:56]} …`".replace("|", "\\|")


def as_yaml(value: Any) -> str:
    """A value in YAML's words, on one line."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(as_yaml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {as_yaml(each)}' for key, each in value.items())}}}"
    return "''" if value == "" else str(value)


def meaning(field: FieldInfo) -> str:
    """Its description, and what is allowed where that is a few words."""
    words = (field.description or "").replace("|", "\\|")
    allowed = choices(field.annotation)
    told = f"one of {', '.join(f'`{each}`' for each in allowed)}" if allowed else bounds(field)
    return "; ".join(filter(None, (words, told)))


def choices(annotation: Any) -> list[str]:
    """Of a Literal of words or numbers; none of anything else."""
    return [str(each) for each in get_args(annotation)] if "Literal" in str(get_origin(annotation)) else []


def bounds(field: FieldInfo) -> str:
    """at least 1, below 1 ..."""
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    found = [
        f"{word} {getattr(each, name):g}"
        for each in field.metadata
        for name, word in words.items()
        if getattr(each, name, None) is not None
    ]
    return ", ".join(found)


def first_sentence(model: type[Section]) -> str:
    """Of its docstring."""
    text = " ".join((model.__doc__ or "").split())
    return re.split(r"(?<=\.) (?=[A-Z])", text)[0].replace("`", "`")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
