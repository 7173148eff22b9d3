"""Consecutive items, as many together as bounds allow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def grouped(
    items: Iterable[T], size: Callable[[T], int], most_size: int, most_items: int | None = None
) -> Iterator[list[T]]:
    """The items in order, in groups of at most `most_items` whose sizes sum up to at most `most_size`.

    An item that is larger by itself is alone. No group is empty.
    """
    group: list[T] = []
    total = 0
    for item in items:
        of_item = size(item)
        if group and (len(group) == most_items or total + of_item > most_size):
            yield group
            group, total = [], 0
        group.append(item)
        total += of_item
    if group:
        yield group
