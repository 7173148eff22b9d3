"""The formats by name, and a run written in one of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from el4ner_ray.errors import UsageError
from el4ner_ray.export import brat, conll, jsonl, label_studio, spacy_docbin, spreadsheet, web_annotation
from el4ner_ray.export.shared import Export, Format
from el4ner_ray.languages import known
from el4ner_ray.results import AnnotatedDocument, read_account, read_annotations, unfinished

FORMATS: dict[str, Format] = {
    "jsonl": jsonl.write,
    "conll": conll.write,
    "spacy": spacy_docbin.write,
    "label-studio": label_studio.write,
    "brat": brat.write,
    "web-annotation": web_annotation.write,
    "csv": spreadsheet.write,
}

# Nothing in them says that a document failed: as words that are all tagged O, it would teach that no entity is in it.
_WITHOUT_FAILED = frozenset({"conll", "web-annotation", "csv"})


@dataclass(frozen=True)
class Summary:
    """What was exported. `notes` are sentences about what is not in the output, or there under another name.

    That the run is not finished is the first of them.
    """

    documents: int
    entities: int
    notes: tuple[str, ...]


def export_run(
    directory: str, format_: str, output: str, *, min_score: float, overwrite: bool, language: str | None = None
) -> Summary:
    """Write the annotations under `directory` to the file or folder `output`, complete or not at all. Streams.

    Args:
        directory: Output folder of a run, a local path or URI.
        format_: A name in FORMATS.
        output: A local path.
        min_score: Entities with a lower score are left out.
        overwrite: Whether an output that is there already is replaced.
        language: Of the texts, ISO 639; where sentences end in formats that have sentences. None: that of the run.

    Raises:
        UsageError: No such format or language, no annotations, an output that exists, or content that the format
            cannot hold.
        FatalError: The file system failed.
    """
    if format_ not in FORMATS:
        raise UsageError(f"--format {format_}: there is no such format; give one of {', '.join(FORMATS)}")
    if "://" in output:
        raise UsageError(f"--output {output}: must be a local path; export to one, then copy what is there")
    if not Path(output).name:
        raise UsageError(f"--output {output!r}: names no file or folder; give one to write")
    if language is not None:
        language = _known_language(language)
    counts: Counter[str] = Counter()
    # Asked before anything is read: a run that finishes meanwhile was read in part.
    account = read_account(directory)
    state = unfinished(account)
    language = language or (account.config.language if account else "en")
    documents = _selected(read_annotations(directory), directory, min_score, counts)
    if format_ in _WITHOUT_FAILED:
        documents = (document for document in documents if document.status != "failed")
    labels = account.labels if account else ()
    notes = FORMATS[format_](Export(documents, Path(output), overwrite, language, labels))
    fate = "left out" if format_ in _WITHOUT_FAILED else "written without entities"
    told = {
        "failed": f"documents that failed, {fate}",
        "partial": "documents annotated in part",
        "low": f"entities with a score below {min_score:g}, left out",
    }
    counted = [f"{what}: {counts[key]}" for key, what in told.items() if counts[key]]
    return Summary(counts["documents"], counts["entities"], (*((state,) if state else ()), *counted, *notes))


def _known_language(code: str) -> str:
    try:
        return known(code)
    except ValueError as error:
        raise UsageError(f"--language: {error}; or leave it out to use the run's language") from None


def _selected(
    documents: Iterator[AnnotatedDocument], directory: str, min_score: float, counts: Counter[str]
) -> Iterator[AnnotatedDocument]:
    for document in documents:
        for entity in document.entities:
            if entity.start >= entity.end or document.text[entity.start : entity.end] != entity.text:
                at = f"{directory}: document {document.doc_id!r}: entities: text"
                found = f"{entity.text!r:.80} is not at [{entity.start}:{entity.end}]"
                raise UsageError(f"{at}: {found}; the file was changed since, annotate again")
        entities = () if document.status == "failed" else document.entities
        # Scores are stored as float32, where 0.9 is a little less.
        kept = tuple(entity for entity in entities if entity.score >= np.float32(min_score))
        counts.update({"documents": 1, "entities": len(kept), "low": len(entities) - len(kept), document.status: 1})
        yield msgspec.structs.replace(document, entities=kept)
