"""YAML as settings want it: a key that stands twice is an error, and 1e3 is the number 1000."""

import re
from typing import Any, Final

import yaml

POWER_OF_TEN: Final = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$")
"""A number to people and to YAML 1.2, text to the 1.1 that PyYAML reads."""


class _Loader(yaml.SafeLoader):
    """The safe loader; of keys that stand twice it would take the last without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: list[Any] = []
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value!r} stands here for the second time", problem_mark=key.start_mark
                )
            seen.append(key.value)
        return node


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", POWER_OF_TEN, list("-+.0123456789"))


def parse(text: str) -> Any:
    """What the text says. Raises yaml.YAMLError."""
    return yaml.load(text, _Loader)  # noqa: S506  a safe loader
