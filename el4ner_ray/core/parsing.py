"""Reading models' answers. Answers are hostile input: nothing in them is trusted to be there, short or meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import regex

from el4ner_ray.core.prompting import NO_ENTITY, SEPARATOR

_WRAPPERS = "\"'`*“”‘’«»"
_MAX_SURFACES = 64
_BULLET = regex.compile(r"^\s*(?:[-•–]+|\*+(?=\s|$))?\s*")
_NUMBER = regex.compile(r"^\s*(\d{1,3})[.)](?!\d)\s*")
_MARK = regex.compile(rf"(?<!\w)[{_WRAPPERS}]|[{_WRAPPERS}](?!\w)")  # no apostrophe within a word
_ENUMERATION = regex.compile(r"[,;:،、，；：]\s*|\s-\s")


@dataclass(frozen=True)
class Extraction:
    """The surfaces that an answer names, without repetition, in its order; `problem` when it is not clean."""

    surfaces: tuple[str, ...]
    problem: str = ""


def said_in_full(answer: str) -> str:
    """An answer that was stopped because it repeats itself, without its last item: that may have been cut anywhere.

    Items end at separators and line breaks. What is repeated stands whole before, so nothing is lost.
    """
    end = max(answer.rfind(SEPARATOR.strip()), answer.rfind("\n"))
    return answer if end < 0 else answer[:end]


def parse_extraction(answer: str, finished: bool = True) -> Extraction:
    """Surfaces from an answer `a | b | c` or `none`, as far as the first line break; `Entities:` may stand before it.

    An answer that was cut off (`finished` false) keeps its complete items. An answer without any item, with far more
    items than a sentence holds, or that goes on in the prompt's own format has a `problem`, and keeps what is usable.
    """
    line = answer.strip().split("\n", 1)[0].removeprefix("Entities:")
    items = [item.strip() for item in line.split(SEPARATOR.strip())]
    problem = ""
    if not finished:
        items, problem = items[:-1], "cut off at the token limit"
    if line.startswith(("Sentence:", "Type of ")):
        return Extraction((), "repeats the prompt")
    surfaces = list(dict.fromkeys(filter(None, map(_unwrapped, items))))
    # "none" beside names is a name's list gone wrong; the names still count.
    names = [surface for surface in surfaces if _NUMBER.sub("", surface).casefold() != NO_ENTITY]
    if surfaces and not names:
        return Extraction((), problem)
    if len(names) > _MAX_SURFACES:
        names, problem = names[:_MAX_SURFACES], f"names more than {_MAX_SURFACES} entities"
    if not names and not problem:
        problem = "empty"
    return Extraction(tuple(names), problem)


def parse_list(answer: str, finished: bool = True) -> Extraction:
    """Surfaces from a list, one a line, with or without a bullet; otherwise as `parse_extraction`.

    Numbers go where lines are numbered 1, 2, 3. Others may belong to names: "3. Oktober 1990", "1. FC Köln".
    """
    lines = answer.splitlines()
    if _are_numbered(lines):
        lines = [_NUMBER.sub("", line) for line in lines]
    lines = [_BULLET.sub("", line) for line in lines]
    extraction = parse_extraction(SEPARATOR.join(filter(None, lines)), finished)
    if not finished and extraction.surfaces:
        # Small models fill the whole length with repetitions; the cut costs nothing then.
        return Extraction(extraction.surfaces)
    return extraction


def _are_numbered(lines: Sequence[str]) -> bool:
    """Whether the numbers before lines count up from 1, as far as 2 at least; small models begin again."""
    numbers = [int(found[1]) for found in map(_NUMBER.match, lines) if found]
    in_order = all(number in (1, before + 1) for before, number in pairwise([0, *numbers]))
    return in_order and max(numbers, default=0) > 1


def pieces(surface: str) -> tuple[str, ...]:
    """What a surface may hold, for one that is not in the sentence as a whole.

    The items of a list: "Anna, Oslo". The item after its number: "2. Oslo".
    """
    if number := _NUMBER.match(surface):
        return tuple(filter(None, [_unwrapped(surface[number.end() :])]))
    found = tuple(piece for piece in map(str.strip, _ENUMERATION.split(surface)) if piece)
    return found if len(found) > 1 else ()


def _unwrapped(item: str) -> str:
    """An item without quotes or emphasis around it; they stay when only one side has them, or each around a part."""
    while len(item) > 1 and item[0] in _WRAPPERS and item[-1] in _WRAPPERS and not _ends_inside(item):
        item = item[1:-1].strip()
    return item


def _ends_inside(item: str) -> bool:
    """Whether what opens the item is closed before its end, as in `"Anna" and "Bob"`, not in `"Ana "Nita" Silva"`."""
    marks = item[0] + item[-1]
    inside = item[1:-1].strip(_WRAPPERS)
    first = next((found for found in _MARK.finditer(inside) if found[0] in marks), None)
    return first is not None and not inside[first.start() - 1].isspace() and not inside[first.end()].isalnum()


def parse_choice(answer: str, choices: tuple[str, ...]) -> str | None:
    """The choice that the answer is, or None: anything else is an abstention, never a guess."""
    given = answer.strip()
    return given if given in choices else None
