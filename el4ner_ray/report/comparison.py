"""What a run has right and wrong against gold, span by span."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from el4ner_ray.core.evaluation import Typed
from el4ner_ray.labelled import LabelledText
from el4ner_ray.report.shown import Mark, Shown, Verdict, cut_off, show
from el4ner_ray.report.statistics import Histogram
from el4ner_ray.results import AnnotatedDocument, AnnotatedEntity


class Comparison:
    """A run against gold: verdicts of single documents, and their counts over all that were added."""

    def __init__(self, gold: Iterable[LabelledText]) -> None:
        self._gold = {text.id: text for text in gold}
        self._seen: set[str] = set()
        self.verdicts: Counter[str] = Counter()
        self.confusions: Counter[tuple[str, str]] = Counter()
        self.right_scores = Histogram()
        self.wrong_scores = Histogram()

    def __contains__(self, doc_id: str) -> bool:
        return doc_id in self._gold

    @property
    def types(self) -> set[str]:
        """The types of the gold."""
        return {entity.type for text in self._gold.values() for entity in text.entities}

    def ranked_confusions(self) -> list[tuple[tuple[str, str], int]]:
        """(gold type, type in the run) of spans with a wrong type, most frequent first."""
        return sorted(self.confusions.items(), key=lambda item: (-item[1], item[0]))

    def show(self, document: AnnotatedDocument) -> Shown:
        """The document with a verdict for each entity; without, where the gold lacks it."""
        gold = self._gold.get(document.doc_id)
        if gold is None:
            return show(document)
        # A document that could not be read has no text; the gold's offsets are about the gold's text.
        text = gold.text if document.status == "failed" else document.text
        marks = _judged(document.entities, gold.typed)
        return cut_off(document.doc_id, text, document.status, document.error, marks, compared=True)

    def add(self, document: AnnotatedDocument) -> None:
        """Count a document of the run."""
        gold = self._gold.get(document.doc_id)
        if gold is not None:
            self._seen.add(document.doc_id)
            self._count(_judged(document.entities, gold.typed))

    def absent(self) -> Iterator[tuple[str, Callable[[], Shown]]]:
        """Count the documents of the gold that were not added: all their entities are missed. Yields id and `show`."""
        for doc_id, gold in self._gold.items():
            if doc_id not in self._seen:
                marks = _judged((), gold.typed)
                self._count(marks)
                yield doc_id, partial(cut_off, doc_id, gold.text, "absent", None, marks, compared=True)

    def _count(self, marks: Iterable[Mark]) -> None:
        for mark in marks:
            self.verdicts[mark.verdict] += 1
            for type_ in mark.gold_types:
                self.confusions[type_, mark.type] += 1
            if mark.entity is not None:
                (self.right_scores if mark.verdict == "right" else self.wrong_scores).add(mark.entity.score)


def _judged(entities: Iterable[AnnotatedEntity], gold: Iterable[Typed]) -> tuple[Mark, ...]:
    open_types: dict[tuple[int, int], set[str]] = {}
    for start, end, type_ in gold:
        open_types.setdefault((start, end), set()).add(type_)
    gold_types = {span: frozenset(types) for span, types in open_types.items()}
    marks: list[Mark] = []
    # What is right is taken first: of a span with two types, the other may be what a wrong entity stands for.
    entities = list(entities)
    for entity in entities:
        open_types.get((entity.start, entity.end), set()).discard(entity.type)
    for entity in entities:
        span = (entity.start, entity.end)
        verdict: Verdict = "wrong"
        meant: tuple[str, ...] = ()
        if entity.type in gold_types.get(span, ()):
            verdict = "right"
        elif open_types.get(span):
            verdict, meant = "type", tuple(sorted(open_types[span]))
        marks.append(Mark(*span, entity.type, entity, verdict, meant))
    explained = {(mark.start, mark.end) for mark in marks if mark.verdict == "type"}
    for span, types in open_types.items():
        if span not in explained:
            marks.extend(Mark(*span, type_, None, "missed") for type_ in sorted(types))
    return tuple(sorted(marks, key=lambda mark: (mark.start, -mark.end, mark.type)))
