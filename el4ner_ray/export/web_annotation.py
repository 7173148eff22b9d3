"""W3C Web Annotation (https://www.w3.org/TR/annotation-model/): JSON-LD, one annotation for each entity, one a line.

Positions count code points, start inclusive and end exclusive: "The selection of the text MUST be in terms of unicode
code points (the 'character number'), not in terms of code units" (there, Text Quote Selector, to which Text Position
Selector refers). Implementations that count UTF-16 units (dom-anchor-text-position, issue 6) differ after an emoji; the
quotation with what stands before and after finds the place there, too.

Documents have ids, but no address: a target's source is `urn:el4ner:document:` with the id, percent-encoded.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec

from el4ner_ray.export.shared import Export, generator, replacing, silent_note
from el4ner_ray.results import AnnotatedDocument, AnnotatedEntity

CONTEXT_CHARACTERS = 32  # code points of prefix and suffix
_CONTEXT = [
    "http://www.w3.org/ns/anno.jsonld",
    # The vocabulary of annotations has no word for how sure one is.
    {"score": {"@id": "urn:el4ner:vocabulary:score", "@type": "http://www.w3.org/2001/XMLSchema#double"}},
]


def write(export: Export) -> list[str]:
    """Write the file. Texts, documents without entities and votes are not in it."""
    encoder, maker = msgspec.json.Encoder(), generator()
    silent = 0
    with replacing(export.path, export.overwrite) as path, path.open("wb") as file:
        for document in export.documents:
            silent += not document.entities
            for number, entity in enumerate(document.entities, 1):
                file.write(encoder.encode(_annotation(document, number, entity, maker)) + b"\n")
    return silent_note(silent)


def _annotation(document: AnnotatedDocument, number: int, entity: AnnotatedEntity, maker: str) -> dict[str, Any]:
    text, id_ = document.text, quote(document.doc_id, safe="")
    return {
        "@context": _CONTEXT,
        "id": f"urn:el4ner:annotation:{id_}:{number}",
        "type": "Annotation",
        "motivation": "classifying",
        "generator": {"id": "urn:el4ner:generator", "type": "Software", "name": maker},
        "score": entity.score,
        "body": {"type": "TextualBody", "purpose": "classifying", "value": entity.type, "format": "text/plain"},
        "target": {
            "source": f"urn:el4ner:document:{id_}",
            "selector": [
                {"type": "TextPositionSelector", "start": entity.start, "end": entity.end},
                {
                    "type": "TextQuoteSelector",
                    "exact": entity.text,
                    "prefix": text[max(0, entity.start - CONTEXT_CHARACTERS) : entity.start],
                    "suffix": text[entity.end : entity.end + CONTEXT_CHARACTERS],
                },
            ],
        },
    }
