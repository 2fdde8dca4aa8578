"""YAML as settings want it: a key that stands twice is an error, 1e3 is the number 1000, 010 is ten, 1:30 a text."""

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

    def construct_document(self, node: yaml.Node) -> Any:
        self.deep_construct = True  # an alias within what it names is an error then
        return super().construct_document(node)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> Any:
        text = str(self.construct_scalar(node)).replace("_", "")
        return text if ":" in text else int(text, 0 if text.lstrip("+-")[:2] in ("0x", "0b") else 10)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> Any:
        text = str(self.construct_scalar(node))
        return text if ":" in text else super().construct_yaml_float(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", POWER_OF_TEN, list("-+.0123456789"))


def parse(text: str) -> Any:
    """What the text says. Raises yaml.YAMLError."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506  a safe loader
    except (ValueError, AttributeError, RecursionError) as error:  # of values as 2026-13-45, or too deep
        raise yaml.YAMLError(str(error)) from None
