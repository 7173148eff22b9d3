"""CSV for spreadsheets: one row for each entity, with what stands around it.

As RFC 4180 has it: commas, CR LF, quotes where a cell needs them. A byte order mark begins the file, since Excel takes
one without for text in the code page of the machine; pandas, Polars, DuckDB and Arrow leave the mark out, Python does
so with the encoding `utf-8-sig`.

Texts and ids are hostile, and a spreadsheet computes a cell that begins like a formula. Such a cell begins with an
apostrophe, as OWASP advises (https://owasp.org/www-community/attacks/CSV_Injection). So does what follows a semicolon,
a tab or a line break within a cell: where a spreadsheet takes these for borders of cells, as Excel does by the settings
of the machine, it would be a cell of its own. Where apostrophes stand there already, one more does: whoever takes one
away has exactly what was there.
"""

from __future__ import annotations

import csv
import re

from el4ner_ray.export.shared import Export, replacing, silent_note
from el4ner_ray.results import AnnotatedDocument, AnnotatedEntity

COLUMNS = ("id", "start", "end", "type", "text", "score", "context")
CONTEXT_CHARACTERS = 40  # code points before and after the entity
_FORMULA = r"(?=[ ']*[-=+@\uff0b\uff0d\uff1d\uff20\0])"  # the full-width signs, too; blanks before may be dropped
_FIRST = r"(?='*[\t\r\n])"
_UNGUARDED = re.compile(rf"(?:^|(?<=[;\t\r\n])){_FORMULA}|^{_FIRST}")


def write(export: Export) -> list[str]:
    """Write the file. Votes, documents without entities, and of texts all but what is around entities are not in it."""
    silent = guarded = 0
    with (
        replacing(export.path, export.overwrite) as path,
        path.open("w", encoding="utf-8-sig", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for document in export.documents:
            silent += not document.entities
            for entity in document.entities:
                cells = _cells(document, entity)
                safe = list(map(_guarded, cells))
                guarded += safe != cells
                writer.writerow(safe)
    told = "entities in whose row an apostrophe stands before what a spreadsheet would compute"
    return silent_note(silent) + ([f"{told}: {guarded}"] if guarded else [])


def _cells(document: AnnotatedDocument, entity: AnnotatedEntity) -> list[str]:
    """The row of an entity: COLUMNS."""
    around = document.text[max(0, entity.start - CONTEXT_CHARACTERS) : entity.end + CONTEXT_CHARACTERS]
    context = " ".join(around.split())  # on one line
    offsets = [str(entity.start), str(entity.end)]
    return [document.doc_id, *offsets, entity.type, entity.text, f"{entity.score:.4f}", context]


def _guarded(cell: str) -> str:
    """The cell with an apostrophe before each place from which on a spreadsheet would take it for a formula."""
    return _UNGUARDED.sub("'", cell)
