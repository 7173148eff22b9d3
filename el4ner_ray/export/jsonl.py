"""JSON lines as Hugging Face `datasets` and el4ner itself (`--pool`, `--gold`) read them: one document a line.

Offsets are code points of `text`, the end exclusive. Every field stands in every line and none changes its type, since
`datasets` takes the types from the first lines.
"""

from __future__ import annotations

from typing import Any

import msgspec

from el4ner_ray.export.shared import Export, replacing
from el4ner_ray.results import AnnotatedDocument, AnnotatedEntity


def write(export: Export) -> list[str]:
    """Write the file. Nothing is lost but the input's other columns."""
    encoder = msgspec.json.Encoder()
    with replacing(export.path, export.overwrite) as path, path.open("wb") as file:
        for document in export.documents:
            file.write(encoder.encode(_line(document)) + b"\n")
    return []


def _line(document: AnnotatedDocument) -> dict[str, Any]:
    return {
        "id": document.doc_id,
        "text": document.text,
        "entities": [_entity(entity) for entity in document.entities],
        "status": document.status,
        "error": document.error or "",
    }


def _entity(entity: AnnotatedEntity) -> dict[str, Any]:
    votes = [{"model": model, "type": type_} for model, type_ in entity.votes]
    return msgspec.structs.asdict(entity) | {"votes": votes}
