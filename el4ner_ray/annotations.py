"""What leaves the last stage as rows of the output: entities with offsets into the document, statuses, error rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from el4ner_ray import schema
from el4ner_ray.schema import DECIDED, Entity, Failure, Span


def failures_of(table: pa.Table, stages: Sequence[str]) -> list[list[Failure]]:
    """What went wrong with each row of the table, from reading it to the last of `stages`."""
    of_rows: list[list[Failure]] = [
        [Failure("input", "read", "", error)] if error else [] for error in table.column(schema.ERROR).to_pylist()
    ]
    for stage in stages:
        for row, failures in zip(of_rows, schema.failures_column(stage).decode(table), strict=True):
            row.extend(failures)
    return of_rows


def annotation_rows(
    table: pa.Table, failures: Sequence[Sequence[Failure]], stages: Sequence[str], extra: pa.Schema
) -> pa.Table:
    """The table's rows in ANNOTATION_SCHEMA and the `extra` columns of the input, in its order."""
    texts = table.column(schema.TEXT).to_pylist()
    starts = table.column(schema.TEXT_START).to_pylist()
    entities: list[list[dict[str, Any]]] = []
    dropped: list[list[dict[str, Any]]] = []
    for row, text, start in zip(DECIDED.decode(table), texts, starts, strict=True):
        candidates = [candidate for sentence in row for candidate in sentence]
        entities.append([entity_row(c, text, start) for c in candidates if c.kept])
        dropped.append([entity_row(c, text, start) for c in candidates if not c.kept])
    asked = [_requests(table, row, stages) for row in range(table.num_rows)] if any(failures) else None
    columns = {
        "status": pa.array(
            [status_of(found, asked[i] if asked else 0) for i, found in enumerate(failures)], pa.string()
        ),
        "entities": pa.array(entities, pa.list_(schema.ENTITY_TYPE)),
        "dropped": pa.array(dropped, pa.list_(schema.ENTITY_TYPE)),
        schema.ERROR: pa.array([worst(found) for found in failures], pa.string()),
    }
    arrays = [columns.get(field.name) for field in schema.ANNOTATION_SCHEMA]
    arrays = [
        table.column(field.name) if array is None else array
        for field, array in zip(schema.ANNOTATION_SCHEMA, arrays, strict=True)
    ]
    arrays += [table.column(field.name) for field in extra]
    return pa.Table.from_arrays(arrays, schema=pa.schema([*schema.ANNOTATION_SCHEMA, *extra]))


def _requests(table: pa.Table, row: int, stages: Sequence[str]) -> int:
    asking = [stage for stage in stages if stage in schema.ASKING_STAGES]
    ledgers = (schema.usage_column(stage).decode(table.slice(row, 1))[0] for stage in asking)
    return sum(usage.requests + usage.merged for ledger in ledgers for usage in ledger.values())


def entity_row(entity: Entity, text: str, start: int) -> dict[str, Any]:
    """An entity as it stands in the output: `ENTITY_TYPE`. `text` is its row's, which starts at `start`."""
    span: Span = entity.span
    return {
        "start": start + span.start,
        "end": start + span.end,
        "text": text[span.start : span.end],
        "type": entity.label,
        "score": entity.score,
        "votes": [{"model": vote.model, "type": vote.label} for vote in entity.votes],
        "extracted_by": list(dict.fromkeys(entity.extracted_by + entity.listed_by)),
        "verified": entity.verified,
    }


def status_of(failures: Sequence[Failure], requests: int) -> str:
    """`failed`: nothing could be done; `partial`: some request found no answer. Parse failures cost no status."""
    if any(failure.kind == "input" for failure in failures):
        return "failed"
    unanswered = sum(failure.kind == "engine" for failure in failures)
    if not unanswered:
        return "ok"
    return "failed" if unanswered >= requests else "partial"


def worst(failures: Sequence[Failure]) -> str | None:
    """The reason in the annotation row: the first failure that cost the document its status."""
    telling = [failure for failure in failures if failure.kind != "parse"]
    if not telling:
        return None
    first = telling[0]
    where = f"{first.stage} {first.model}".strip()
    more = f" (and {len(telling) - 1} more)" if len(telling) > 1 else ""
    return f"{where}: {first.reason}{more}"


def error_rows(table: pa.Table, failures: Sequence[Sequence[Failure]]) -> list[dict[str, Any]]:
    """Rows of ERROR_SCHEMA, one for each failure."""
    ids = table.column(schema.DOC_ID).to_pylist()
    parts = table.column(schema.PART).to_pylist()
    starts = table.column(schema.TEXT_START).to_pylist()
    return [
        {
            schema.DOC_ID: ids[row],
            schema.PART: parts[row],
            "kind": failure.kind,
            "stage": failure.stage,
            "model": failure.model or None,
            "sentence_start": starts[row] + failure.span.start if failure.span else None,
            "sentence_end": starts[row] + failure.span.end if failure.span else None,
            "reason": failure.reason,
            "raw": failure.raw or None,
        }
        for row, of_row in enumerate(failures)
        for failure in of_row
    ]
