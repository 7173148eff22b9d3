"""Share of entities that differ between two runs over the same documents: `difference.py DIR DIR`."""

import sys

from el4ner_ray.results import read_annotations

first, second = (
    {
        (document.doc_id, entity.start, entity.end, entity.type)
        for document in read_annotations(folder)
        for entity in document.entities
    }
    for folder in sys.argv[1:3]
)
print(f"{len(first)} and {len(second)} entities, {len(first ^ second)} in one run only")
print(f"{len(first ^ second) / max(len(first | second), 1):.2%} differ")
