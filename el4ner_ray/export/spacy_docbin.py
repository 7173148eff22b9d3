"""spaCy: a folder of `.spacy` files, which `spacy train` takes as a corpus; each is a `DocBin` of 500,000 tokens.

A `DocBin` is held in memory whole, so that one for a large archive could be neither written nor read.

- `doc.spans["el4ner"]` has all entities. Beside them, in the same order, `doc.spans["el4ner"].attrs` has the lists
  `scores`, `votes` (each a list of [model, type or None]), `extracted_by` and `verified`.
- `doc.ents` has those that do not overlap: the longest, then that of the higher score.
- `doc.user_data` has `doc_id`, `status` and `error`.

Tokens outside of entities are O where the document is `ok`. In one that failed or was annotated in part they are
missing values, from which `spacy train` learns nothing: nothing tells which of its sentences found no answer.

Tokens are cut where entities begin and end, so that `doc.text` and all spans are exact. Offsets of characters
(`span.start_char`) are code points.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Any

import msgspec

from el4ner_ray.export.shared import FOLDER_FILE, Export, Tokenizer, flat, overlap_note, replacing
from el4ner_ray.results import AnnotatedDocument

GROUP = "el4ner"
_TOKENS_IN_FILE = 500_000


def write(export: Export) -> list[str]:
    """Write the folder; nothing is lost but the input's other columns."""
    tokenizer, counts = Tokenizer(), Counter[str]()
    with replacing(export.path, export.overwrite) as folder:
        folder.mkdir()
        for number in count(1):
            docs = _docs_of_one_file(export.documents, tokenizer, counts)
            if not len(docs):
                break
            docs.to_disk(folder / f"docs-{number:06}.spacy")
        (folder / FOLDER_FILE).write_bytes(msgspec.json.encode({"format": "spacy"}))
    total, kept = counts["spans"], counts["ents"]
    return overlap_note(total - kept, total, f"in doc.spans[{GROUP!r}] but not in doc.ents")


def _docs_of_one_file(documents: Iterator[AnnotatedDocument], tokenizer: Tokenizer, counts: Counter[str]) -> Any:
    """A `DocBin` with the next documents, an empty one when there are none; counts their spans and ents."""
    from spacy.tokens import DocBin
    from spacy.vocab import Vocab

    docs = DocBin(attrs=("ENT_IOB", "ENT_TYPE"), store_user_data=True)
    vocab, size = Vocab(), 0  # a vocabulary for each file, since it keeps every word
    for document in documents:
        doc = _doc(document, tokenizer, vocab)
        docs.add(doc)
        counts.update(spans=len(doc.spans[GROUP]), ents=len(doc.ents))
        size += len(doc) + 1  # texts without a token take room, too
        if size >= _TOKENS_IN_FILE:
            break
    return docs


def _doc(document: AnnotatedDocument, tokenizer: Tokenizer, vocab: Any) -> Any:
    from spacy.tokens import Doc

    text, entities = document.text, document.entities
    tokens = tokenizer(text, entities)
    words = [text[token.start : token.end] for token in tokens]
    following = [token.start for token in tokens[1:]] + [len(text)]
    spaces = [token.end < start for token, start in zip(tokens, following, strict=False)]
    user_data = {"doc_id": document.doc_id, "status": document.status, "error": document.error}
    doc = Doc(vocab, words=words, spaces=spaces, user_data=user_data)
    doc.spans[GROUP] = [doc.char_span(entity.start, entity.end, label=entity.type) for entity in entities]
    doc.spans[GROUP].attrs.update(
        scores=[entity.score for entity in entities],
        votes=[[[model, type_] for model, type_ in entity.votes] for entity in entities],
        extracted_by=[list(entity.extracted_by) for entity in entities],
        verified=[entity.verified for entity in entities],
    )
    longest = [doc.char_span(entity.start, entity.end, label=entity.type) for entity in flat(entities)]
    doc.set_ents(longest, default="outside" if document.status == "ok" else "missing")
    return doc
