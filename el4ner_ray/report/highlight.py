"""Documents with their entities marked, for a notebook: the report's marks and colours in a piece of HTML."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import regex
from markupsafe import Markup

from el4ner_ray.html import joined
from el4ner_ray.report import palette
from el4ner_ray.report.passages import lanes, passages, segments
from el4ner_ray.report.sample import natural
from el4ner_ray.report.shown import Mark, show
from el4ner_ray.results import AnnotatedDocument, AnnotatedEntity

SHOWN_DOCUMENTS = 50
_OF_FORMULAE = regex.compile(r"[$\\]")
_DEEPEST = 5  # as in marks.css


def highlighted(documents: Sequence[AnnotatedDocument]) -> str:
    """The documents, at most SHOWN_DOCUMENTS, as an HTML element with its own style. Whatever they hold is escaped."""
    types = sorted({entity.type for document in documents for entity in document.entities}, key=natural)
    slots = {name: number % palette.MOST for number, name in enumerate(types)}
    pieces = [piece for document in documents[:SHOWN_DOCUMENTS] for piece in _document(document, slots)]
    if len(documents) > SHOWN_DOCUMENTS:
        pieces.append(Markup('<p class="more">and {} more</p>').format(len(documents) - SHOWN_DOCUMENTS))
    # Nested in the element's own class, the rules touch nothing else of the notebook.
    rules = "\n".join([joined(("notebook.css", "marks.css"), "el4ner_ray.report"), palette.css(len(types))])
    style = Markup("<style>.el4ner {{\n{}\n}}</style>").format(Markup(rules))
    return str(Markup('<div class="el4ner">{}{}</div>').format(style, Markup("").join(pieces)))


def _document(document: AnnotatedDocument, slots: Mapping[str, int]) -> Iterator[Markup]:
    if document.status != "ok":
        yield Markup('<p class="problem">{}: {}</p>').format(document.status, document.error)
    shown = show(document)
    for start, end, marks in passages(shown.text, shown.marks):
        yield Markup('<p dir="auto">{}</p>').format(Markup("").join(_passage(shown.text, start, end, marks, slots)))
    if len(shown.text) < shown.characters:
        note = Markup('<p class="more">{:,} of {:,} characters shown</p>')
        yield note.format(len(shown.text), shown.characters)


def _passage(text: str, start: int, end: int, marks: Sequence[Mark], slots: Mapping[str, int]) -> Iterator[Markup]:
    lane_of = lanes(marks)
    pieces = [(piece, []) if isinstance(piece, str) else piece for piece in segments(text, start, end, marks, lane_of)]
    for at, (content, over) in enumerate(pieces):
        before = pieces[at - 1][1] if at else []
        after = pieces[at + 1][1] if at + 1 < len(pieces) else []
        ending = [number for number in over if number not in after]
        yield _boxed(_untypeset(content), over, marks, lane_of, slots, begins=set(over) - set(before))
        # The label continues the boxes of what goes on; of what ends here, the innermost closes first.
        while ending:
            last = ending[-1]
            around = [number for number in over if number in after or number in ending]
            label = Markup('<span class="label type-{}">\u2060{}</span>').format(
                slots[marks[last].type], _untypeset(marks[last].type)
            )
            yield _boxed(label, around, marks, lane_of, slots, ends={last})
            ending.pop()


def _untypeset(text: str) -> Markup:
    """The text escaped, for notebooks, too: Jupyter sets what stands between two dollar signs as a formula.

    Each in an element of its own, they are no pair (https://github.com/CODAIT/text-extensions-for-pandas/issues/31).
    """
    return Markup(_OF_FORMULAE.sub(r"<span>\g<0></span>", str(Markup.escape(text))))


def _boxed(
    inner: Markup,
    over: Sequence[int],
    marks: Sequence[Mark],
    lane_of: Sequence[int],
    slots: Mapping[str, int],
    begins: Collection[int] = (),
    ends: Collection[int] = (),
) -> Markup:
    for number in reversed(over):
        mark = marks[number]
        edges = " begins" * (number in begins) + " ends" * (number in ends)
        inner = Markup('<span class="over lane-{} type-{}{}" title="{}">{}</span>').format(
            min(lane_of[number], _DEEPEST), slots[mark.type], edges, _title(mark.entity), inner
        )
    return inner


def _title(entity: AnnotatedEntity | None) -> str:
    if entity is None:
        return ""
    found = ", ".join(entity.extracted_by)
    return f"{entity.text}: {entity.type} {entity.score:.2f}, [{entity.start}, {entity.end}), found by {found}"
