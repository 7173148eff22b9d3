"""YAML as people write it: keys are the words that stand there, and each stands once in its mapping."""

from __future__ import annotations

from typing import Any

import yaml

_STRING = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"


class RepeatedYamlKeyError(yaml.YAMLError):
    """A key stands twice in one mapping: YAML would keep the last, and nobody would be told of the other."""

    def __init__(self, key: str, line: int, first: int) -> None:
        """Lines count from 1."""
        super().__init__(f"line {line}: the key {key[:100]!r} stands in this mapping already, in line {first}")


class _Loader(yaml.SafeLoader):
    # At composition: merges (`<<`) put keys into mappings later, which those of the mapping itself override.
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        mapping: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for number, (key, value) in enumerate(mapping.value):
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                raise RepeatedYamlKeyError(key.value, line, lines[key.value])
            lines[key.value] = line
            # To YAML 1.1, `no` and `on` are booleans, and 2024 is a number; all keys here are names. A node of its own,
            # since the key may be an alias of a value.
            name = yaml.ScalarNode(_STRING, key.value, key.start_mark, key.end_mark, key.style)
            mapping.value[number] = name, value
        return mapping


def load(text: str) -> Any:
    """The document in `text`, of plain values. Raises YAMLError, also where a key stands twice in a mapping."""
    try:
        return yaml.load(text, _Loader)
    except ValueError as error:  # such as a date whose month is 13
        raise yaml.YAMLError(str(error)) from None
