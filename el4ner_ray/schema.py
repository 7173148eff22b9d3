"""Records and Arrow schemas: the only place that knows column names and how records travel in columns.

Documents travel through the pipeline as Arrow rows. Each stage appends columns and touches no other; what a stage has
to say about a row is a msgpack-encoded record, since building nested Arrow values from Python and back in every stage
costs several times as much. Records hold no cycles, so the garbage collector does not look through them (`gc=False`).

All offsets are code points, half-open. Inside the pipeline they count from the start of the row's text (a *part* of a
document); the sink adds the part's own start, so that the output counts from the start of the document.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec
import pyarrow as pa


class Span(msgspec.Struct, gc=False, frozen=True, array_like=True, order=True):
    """A half-open range `[start, end)` of code points."""

    start: int
    end: int


class Candidate(msgspec.Struct, gc=False, frozen=True, array_like=True):
    """A span of the union, with the names of the models that extracted it in configuration order."""

    span: Span
    extracted_by: tuple[str, ...]


class Vote(msgspec.Struct, gc=False, frozen=True, array_like=True):
    """One model's type for a span. `label` is None for an abstention; `probability` is that of the label in [0, 1].

    `logprobs` has one log-probability a label of the job, for the calibrated method; else it is empty.
    """

    model: str
    label: str | None
    probability: float
    logprobs: tuple[float, ...] = ()


class Entity(msgspec.Struct, gc=False, frozen=True, array_like=True):
    """A typed candidate: the vote's outcome and the evidence for it. `score` lies in [0, 1].

    `extracted_by` are the models that extracted it with demonstrations, `listed_by` those that did without (only the
    calibrated method looks at that). The last stage decides which are `kept`.
    """

    span: Span
    label: str
    score: float
    votes: tuple[Vote, ...]
    extracted_by: tuple[str, ...]
    verified: bool = False
    listed_by: tuple[str, ...] = ()
    kept: bool = True


class Annotated(msgspec.Struct, gc=False, frozen=True):
    """A pool sentence after classification: its number in the pool, its candidates and its demonstrations."""

    number: int
    candidates: list[Entity]
    demonstrations: list[int]


class Failure(msgspec.Struct, gc=False, frozen=True, array_like=True):
    """What went wrong for one row: where, why, and the raw answer when there is one.

    `kind` is `input` (the document could not be read), `parse` (an answer could not be parsed, or only in part) or
    `engine` (a request found no answer). `span` is the sentence concerned, None for the whole row.
    """

    kind: str
    stage: str
    model: str
    reason: str
    raw: str = ""
    span: Span | None = None


class Usage(msgspec.Struct, gc=False):
    """What one stage asked of one model.

    `merged` counts requests that an equal one paid for; `seconds` adds up the time that each request spent in the
    engine, waiting included, so that it grows with what is in flight; `busy_seconds` is how long the engines had any
    request, over all replicas of the model, each moment counted for the stage whose answer came next. `surfaces` counts
    those that a model named, `unaligned` those of them that the sentence does not hold; `fallbacks` counts sentences
    retrieved by whole-sentence similarity.
    """

    requests: int = 0
    merged: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    parse_failures: int = 0
    surfaces: int = 0
    unaligned: int = 0
    fallbacks: int = 0
    seconds: float = 0.0
    busy_seconds: float = 0.0

    def add(self, other: Usage) -> None:
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


Record = TypeVar("Record")


class Column(Generic[Record]):
    """A msgpack column of the pipeline: its name and the type of the record in each row."""

    def __init__(self, name: str, type_: Any) -> None:
        self.name = f"el4ner.{name}"
        self._type = type_

    def encode(self, records: Sequence[Record]) -> pa.Array:
        encoder = msgspec.msgpack.Encoder()
        return pa.array([encoder.encode(record) for record in records], pa.binary())

    def decode(self, table: pa.Table) -> list[Record]:
        decoder = msgspec.msgpack.Decoder(self._type)
        return [decoder.decode(value.as_buffer()) for value in table.column(self.name)]

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.name.removeprefix("el4ner."), self._type))


# One entry a sentence in each of these lists, in the order of SENTENCES.
SENTENCES: Column[list[Span]] = Column("sentences", list[Span])
QUERY_SPANS: Column[list[list[Candidate]]] = Column("query_spans", list[list[Candidate]])
DEMONSTRATIONS: Column[list[list[int]]] = Column("demonstrations", list[list[int]])
CANDIDATES: Column[list[list[Candidate]]] = Column("candidates", list[list[Candidate]])
TYPED: Column[list[list[Entity]]] = Column("typed", list[list[Entity]])
DECIDED: Column[list[list[Entity]]] = Column("decided", list[list[Entity]])

DOC_ID, PART, TEXT_START, TEXT, ERROR = "doc_id", "part", "text_start", "text", "error"
PADDING = "el4ner.padding"  # see source.py; dropped by the first stage
BATCH = "el4ner.batch"  # rows of one block share this number: the routing key of their requests

PART_SCHEMA = pa.schema(
    [
        (DOC_ID, pa.string()),
        (PART, pa.int32()),
        (TEXT_START, pa.int64()),
        (TEXT, pa.large_string()),
        (ERROR, pa.string()),
        (BATCH, pa.int64()),
    ]
)


def usage_column(stage: str) -> Column[dict[str, Usage]]:
    """Per model, what the stage asked for this row."""
    return Column(f"usage.{stage}", dict[str, Usage])


def failures_column(stage: str) -> Column[list[Failure]]:
    """What the stage could not do for this row; empty when all went well."""
    return Column(f"failures.{stage}", list[Failure])


VOTE_TYPE = pa.struct([("model", pa.string()), ("type", pa.string())])
ENTITY_TYPE = pa.struct(
    [
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("text", pa.string()),
        ("type", pa.string()),
        ("score", pa.float32()),
        ("votes", pa.list_(VOTE_TYPE)),
        ("extracted_by", pa.list_(pa.string())),
        ("verified", pa.bool_()),
    ]
)
ANNOTATION_SCHEMA = pa.schema(
    [
        (DOC_ID, pa.string()),
        (PART, pa.int32()),
        (TEXT_START, pa.int64()),
        (TEXT, pa.large_string()),
        ("status", pa.string()),
        ("entities", pa.list_(ENTITY_TYPE)),
        ("dropped", pa.list_(ENTITY_TYPE)),
        (ERROR, pa.string()),
    ]
)
ERROR_SCHEMA = pa.schema(
    [
        (DOC_ID, pa.string()),
        (PART, pa.int32()),
        ("kind", pa.string()),
        ("stage", pa.string()),
        ("model", pa.string()),
        ("sentence_start", pa.int64()),
        ("sentence_end", pa.int64()),
        ("reason", pa.string()),
        ("raw", pa.large_string()),
    ]
)
ASKING_STAGES = frozenset({"pre_extract", "extract", "classify", "verify"})
RESERVED_COLUMNS = frozenset(ANNOTATION_SCHEMA.names)
