"""CoNLL columns: token, tab, BIO2 tag; a blank line after each sentence, a line `-DOCSTART-` before each document.

That line carries the tag O and makes a sentence of its own: so every reader takes it that wants a tag in each line
(nervaluate), and those that know it (el4ner's, the CoNLL-2003 script of Hugging Face) skip it.

Tokens are spaCy's, cut where entities begin and end, one for each character in scripts without spaces. Sentences are
sentencex's, joined where an entity lies across their border. White space is not written, so that offsets are lost.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from el4ner_ray.export.shared import Export, Names, Tokenizer, flat, overlap_note, replacing
from el4ner_ray.languages import cut_as_english, has_rules
from el4ner_ray.results import AnnotatedEntity
from el4ner_ray.schema import Span
from el4ner_ray.sentences import sentence_spans

BOUNDARY = "-DOCSTART-"
_COLUMN_BREAKS = r"[\s\x00-\x1f\x7f-\x9f]+"  # many readers part columns at any white space, not at tabs only


def write(export: Export) -> list[str]:
    """Write the file; entities that overlap or are white space only cannot be in it and are counted."""
    names, tokenizer = Names(_COLUMN_BREAKS), Tokenizer()
    total = kept = written = 0
    with (
        replacing(export.path, export.overwrite) as path,
        path.open("w", encoding="utf-8", newline="\n") as file,
    ):
        for document in export.documents:
            entities = flat(document.entities)
            total, kept = total + len(document.entities), kept + len(entities)
            file.write(f"{BOUNDARY}\tO\n\n")
            tokens = tokenizer(document.text, entities)
            for sentence in tagged_sentences(document.text, entities, tokens, export.language):
                for token, tag, type_ in sentence:
                    file.write(f"{token}\t{tag}-{names[type_]}\n" if type_ else f"{token}\t{tag}\n")
                    written += tag == "B"
                file.write("\n")
    blank = [f"entities of white space only, left out: {kept - written}"] if kept > written else []
    english = [] if has_rules(export.language) else [cut_as_english(export.language)]
    return english + overlap_note(total - kept, total, "left out") + blank + names.notes()


def tagged_sentences(
    text: str, entities: Collection[AnnotatedEntity], tokens: Iterable[Span], language: str
) -> Iterator[list[tuple[str, str, str]]]:
    """Sentences as lists of token, B, I or O, and the type, which is empty for O.

    `entities` must not overlap, and must begin and end with one of the `tokens`; both by position.
    """
    remaining = iter(entities)
    entity = next(remaining, None)
    begun = False
    ends = _sentence_ends(text, entities, language)
    end = next(ends, len(text))
    sentence: list[tuple[str, str, str]] = []
    for token in tokens:
        while token.start >= end and end < len(text):
            end = next(ends, len(text))
            if sentence:
                yield sentence
                sentence = []
        while entity is not None and entity.end <= token.start:
            entity, begun = next(remaining, None), False
        for word in _words(text[token.start : token.end]):
            if entity is None or token.start < entity.start:
                sentence.append((word, "O", ""))
            else:
                sentence.append((word, "I" if begun else "B", entity.type))
                begun = True
    if sentence:
        yield sentence


def _words(token: str) -> list[str]:
    if token == BOUNDARY:  # as a word it would part two documents
        return [BOUNDARY[:-1], BOUNDARY[-1]]
    return [] if token.isspace() else [token]


def _sentence_ends(text: str, entities: Collection[AnnotatedEntity], language: str) -> Iterator[int]:
    """Offsets at which a sentence ends, but for those inside an entity."""
    remaining = iter(entities)
    entity = next(remaining, None)
    for sentence in sentence_spans(language, text):
        end = sentence.end
        while entity is not None and entity.end <= end:
            entity = next(remaining, None)
        if entity is None or end <= entity.start:
            yield end
