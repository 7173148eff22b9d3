"""brat stand-off: a folder with `doc-000001.txt` and `.ann` for each document, `annotation.conf`, and two indexes.

Ids are data and never become file names: `documents.jsonl` has one line for each file with the id that it stands for,
`export.json` the type behind each name in the annotations. The format: https://brat.nlplab.org/standoff.html; what it
does not say is as brat's own reader has it (server/src/annotation.py and projectconfig.py of nlplab/brat):

- Offsets are code points, half-open. brat's page in the browser counts UTF-16 units and shows marks after an emoji
  shifted (nlplab/brat issue 1115); the files are right nevertheless.
- An annotation is one line, and that reader ends lines wherever `str.splitlines` does. A mention with line breaks has
  a fragment for each of its lines (`0 3;4 8`), and these joined by spaces as its text.
- Whether CR LF counts one or two depends on brat's version (issue 853), and a tab ends a field of an annotation: CR and
  tab are written as spaces, so that offsets hold.
- Type names have ASCII letters, digits, `_` and `-` only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from el4ner_ray.export.shared import FOLDER_FILE, Export, Names, label_note, replacing
from el4ner_ray.results import AnnotatedDocument
from el4ner_ray.schema import Span

_NOT_IN_NAMES = r"[^A-Za-z0-9_-]+"
_SPACED = "\r\t"
_AS_SPACES = str.maketrans(dict.fromkeys(_SPACED, " "))
_LINE_BREAK = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")


def write(export: Export) -> list[str]:
    """Write the folder. Scores are kept as notes; votes are lost.

    `annotation.conf` has all labels of the run, so that an entity of any of them can be added by hand.
    """
    names, encoder = Names(_NOT_IN_NAMES), msgspec.json.Encoder()
    for label in export.labels:
        names[label]
    trimmed = spaced = 0
    with replacing(export.path, export.overwrite) as folder:
        folder.mkdir()
        with (folder / "documents.jsonl").open("wb") as index:
            for number, document in enumerate(export.documents, 1):
                name = f"doc-{number:06}"
                trimmed += _write_document(folder / name, document, names)
                spaced += any(mark in document.text for mark in _SPACED)
                index.write(encoder.encode({"name": name, "id": document.doc_id, "status": document.status}) + b"\n")
        types = {name: type_ for type_, name in names.by_type.items()}
        entities = "".join(f"{name}\n" for name in types)
        (folder / "annotation.conf").write_text(
            f"[entities]\n{entities}\n[relations]\n\n[events]\n\n[attributes]\n", "ascii"
        )
        (folder / FOLDER_FILE).write_bytes(msgspec.json.encode({"format": "brat", "types": types}))
    notes = [*label_note(export.labels), *names.notes()]
    if trimmed:
        notes.append(
            f"mentions that begin or end with a line break, marked without it, or left out if blank: {trimmed}"
        )
    if spaced:
        notes.append(f"documents with carriage returns or tabs, written as spaces to keep offsets: {spaced}")
    return notes


def _write_document(path: Path, document: AnnotatedDocument, names: Names) -> int:
    """Returns the number of mentions that could not be marked as they are."""
    text = document.text.translate(_AS_SPACES)
    lines: list[str] = []
    trimmed = 0
    for number, entity in enumerate(document.entities, 1):
        fragments = list(_fragments(document.text, Span(entity.start, entity.end)))
        if not fragments or (fragments[0].start, fragments[-1].end) != (entity.start, entity.end):
            trimmed += 1
        if fragments:
            offsets = ";".join(f"{each.start} {each.end}" for each in fragments)
            mention = " ".join(text[each.start : each.end] for each in fragments)
            lines.append(f"T{number}\t{names[entity.type]} {offsets}\t{mention}\n")
            lines.append(f"#{number}\tAnnotatorNotes T{number}\tscore {entity.score:.4f}\n")
    # Appended by hand: with_suffix would take what follows a dot for a suffix.
    Path(f"{path}.txt").write_text(text, "utf-8", newline="")
    Path(f"{path}.ann").write_text("".join(lines), "utf-8", newline="")
    return trimmed


def _fragments(text: str, span: Span) -> Iterator[Span]:
    """The parts of the span that hold no line break, without the white space around breaks."""
    start = span.start
    for match in _LINE_BREAK.finditer(text, span.start, span.end):
        if start < match.start():
            yield Span(start, match.start())
        start = match.end()
    if start < span.end:
        yield Span(start, span.end)
