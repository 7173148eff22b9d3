"""The texts of a report as the page's script gets them: compact JSON that is safe inside a script element."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from markupsafe import Markup

from el4ner_ray.html import embeddable
from el4ner_ray.report.passages import Segment, lanes, passages, segments
from el4ner_ray.report.shown import Mark, Shown


class PageMark(msgspec.Struct, frozen=True, array_like=True):
    """A mark; types and models are numbers into the lists of `PageData`. `score` is None for what was missed."""

    type: int
    lane: int
    score: float | None
    votes: list[tuple[int, int | None]]
    extracted_by: list[int]
    verified: bool
    verdict: str
    gold_types: list[int]


class PagePassage(msgspec.Struct, frozen=True, array_like=True):
    """A piece of a document: the document's number, the text in segments, the marks that these count."""

    document: int
    segments: list[Segment]
    marks: list[PageMark]


class PageDocument(msgspec.Struct, frozen=True, array_like=True):
    """What passages have in common. `characters` are those shown, of `total`."""

    doc_id: str
    status: str
    error: str | None
    compared: bool
    passages: int
    characters: int
    total: int


class PageData(msgspec.Struct, frozen=True):
    """Everything that the page's script reads."""

    types: list[str]
    models: list[str]
    documents: list[PageDocument]
    passages: list[PagePassage]


def page_data(shown: Iterable[Shown], types: Sequence[str], models: Sequence[str]) -> PageData:
    """The documents cut into passages. `types` and `models` must hold every name that occurs."""
    type_number = {name: number for number, name in enumerate(types)}
    model_number = {name: number for number, name in enumerate(models)}
    data = PageData(list(types), list(models), [], [])
    for number, document in enumerate(shown):
        before = len(data.passages)
        for start, end, marks in passages(document.text, document.marks):
            lane_of = lanes(marks)
            pieces = segments(document.text, start, end, marks, lane_of)
            page_marks = [
                _page_mark(mark, lane, type_number, model_number) for mark, lane in zip(marks, lane_of, strict=True)
            ]
            data.passages.append(PagePassage(number, pieces, page_marks))
        data.documents.append(
            PageDocument(
                document.doc_id,
                document.status,
                document.error,
                document.compared,
                len(data.passages) - before,
                len(document.text),
                document.characters,
            )
        )
    return data


def embedded(data: PageData) -> Markup:
    """The data as JSON for a script element."""
    return embeddable(msgspec.json.encode(data))


def _page_mark(mark: Mark, lane: int, type_number: dict[str, int], model_number: dict[str, int]) -> PageMark:
    entity = mark.entity
    return PageMark(
        type=type_number[mark.type],
        lane=lane,
        score=round(entity.score, 3) if entity else None,
        votes=[(model_number[m], None if t is None else type_number[t]) for m, t in entity.votes] if entity else [],
        extracted_by=[model_number[model] for model in entity.extracted_by] if entity else [],
        verified=bool(entity and entity.verified),
        verdict=mark.verdict,
        gold_types=[type_number[name] for name in mark.gold_types],
    )
