"""Documents as a report shows them: their beginning, and what is highlighted in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from el4ner_ray.results import AnnotatedDocument, AnnotatedEntity

SHOWN_CHARACTERS = 50_000

Verdict = Literal["", "right", "type", "wrong", "missed"]
"""Empty: not compared. type: in the gold, as another type. wrong: not in the gold. missed: in the gold alone."""


class Mark(msgspec.Struct, frozen=True):
    """What is highlighted: `[start, end)` of the document's code points.

    `entity` is None for what the run missed. `gold_types` are the gold's types of a span whose verdict is `type`.
    """

    start: int
    end: int
    type: str
    entity: AnnotatedEntity | None
    verdict: Verdict = ""
    gold_types: tuple[str, ...] = ()


class Shown(msgspec.Struct, frozen=True):
    """The first code points of a document, of `characters` in all, and the marks in them.

    `status` is that of the run, or `absent`; `compared` says whether the gold has the document.
    """

    doc_id: str
    text: str
    characters: int
    status: str
    error: str | None
    marks: tuple[Mark, ...]
    compared: bool


def show(document: AnnotatedDocument) -> Shown:
    """The document with its entities, compared with nothing."""
    marks = (Mark(entity.start, entity.end, entity.type, entity) for entity in document.entities)
    return cut_off(document.doc_id, document.text, document.status, document.error, marks)


def cut_off(
    doc_id: str, text: str, status: str, error: str | None, marks: Iterable[Mark], *, compared: bool = False
) -> Shown:
    """The document up to `SHOWN_CHARACTERS`; marks that end beyond are left out."""
    within = tuple(mark for mark in marks if mark.end <= SHOWN_CHARACTERS)
    return Shown(doc_id, text[:SHOWN_CHARACTERS], len(text), status, error, within, compared)
