"""JSON objects whose keys stand once: of two, Python keeps the last, and nobody is told that there was another."""

from __future__ import annotations

from collections import Counter
from typing import Any


class RepeatedKeyError(ValueError):
    """A key stands several times in one object. `key` is cut to 100 characters, since it is shown."""

    def __init__(self, key: str, times: int) -> None:
        """Of the most frequent one."""
        super().__init__(f"the key {key[:100]!r} stands twice in an object")
        self.key, self.times = key[:100], times


def keys_once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """The `object_pairs_hook` of `json`. Raises RepeatedKeyError."""
    found = dict(members)
    if len(found) < len(members):
        raise RepeatedKeyError(*Counter(key for key, _ in members).most_common(1)[0])
    return found
