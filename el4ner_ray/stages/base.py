"""What all stages share: columns in, one column out, and a ledger of costs and failures for every row."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import pyarrow as pa

from el4ner_ray import garbage, logs, schema, tracing
from el4ner_ray.engines.base import Completion
from el4ner_ray.schema import Column, Failure, Span, Usage
from el4ner_ray.telemetry import StageMetrics

logger = logging.getLogger(__name__)


@dataclass
class Ledger:
    """What a stage spent on one row and where it failed."""

    stage: str
    usage: dict[str, Usage] = field(default_factory=lambda: defaultdict(Usage))
    failures: list[Failure] = field(default_factory=list)

    def count(self, model: str, completion: Completion) -> None:
        """Add a completion's costs."""
        # Field by field: this runs a dozen times a sentence, and `Usage.add` reads all fields by their names.
        usage = self.usage[model]
        if completion.merged:
            usage.merged += 1
        else:
            usage.requests += 1
        usage.prompt_tokens += completion.prompt_tokens
        usage.cached_tokens += completion.cached_tokens
        usage.generated_tokens += completion.generated_tokens
        usage.seconds += completion.seconds
        usage.busy_seconds += completion.busy_seconds

    def engine_failure(self, model: str, reason: str, sentence: Span) -> None:
        """A request without an answer."""
        self.failures.append(Failure("engine", self.stage, model, reason, "", sentence))

    def parse_failure(self, model: str, reason: str, completion: Completion, sentence: Span) -> None:
        """An answer that could not be read, or only in part. It is kept as it came.

        Each sentence that it was for has the failure; as its costs, it is counted once.
        """
        self.usage[model].parse_failures += not completion.merged
        self.failures.append(Failure("parse", self.stage, model, reason, completion.text, sentence))


def spent(ledgers: Sequence[Ledger]) -> tuple[dict[str, Usage], list[Failure]]:
    """What a stage spent on all rows of a batch, by model, and where it failed."""
    usage: dict[str, Usage] = defaultdict(Usage)
    for ledger in ledgers:
        for model, of_row in ledger.usage.items():
            usage[model].add(of_row)
    return dict(usage), [failure for ledger in ledgers for failure in ledger.failures]


@dataclass(frozen=True)
class Batch:
    """The rows of one block, with a ledger each."""

    table: pa.Table
    stage: str
    texts: list[str]
    ledgers: list[Ledger]
    session: str

    @classmethod
    def of(cls, table: pa.Table, stage: str) -> Batch:
        texts = table.column(schema.TEXT).to_pylist()
        # Rows of one block travel together, so any of them names the replica that has their prefixes cached.
        session = str(table.column(schema.BATCH)[0].as_py()) if len(texts) else ""
        return cls(table, stage, texts, [Ledger(stage) for _ in texts], session)

    def read(self, column: Column[Any]) -> list[Any]:
        """The records of a column, one a row."""
        return column.decode(self.table)

    def sentences(self) -> Iterator[tuple[int, int, Span, str]]:
        """(row, number of the sentence in the row, its span in the row's text, its text), in order."""
        for row, sentences in enumerate(self.read(schema.SENTENCES)):
            for number, span in enumerate(sentences):
                yield row, number, span, self.texts[row][span.start : span.end]


class Stage(ABC):
    """One step of the method. Ray Data runs it in an actor, one call a block, exactly one row out for each row in.

    A subclass declares the columns that it `reads` and the one that it `writes`; the pipeline checks the chain before
    anything starts. Beside its result every stage writes what it spent and what failed.
    """

    name: ClassVar[str]
    reads: ClassVar[tuple[Column[Any], ...]] = ()
    writes: ClassVar[Column[Any]]

    @cached_property
    def _metrics(self) -> StageMetrics:
        return StageMetrics(self.name)

    @cached_property
    def _spans(self) -> tracing.StageSpans | None:
        return tracing.of_stage(self.name)

    @abstractmethod
    async def run(self, batch: Batch) -> Sequence[Any]:
        """One record of `writes` for each row of the batch, in order."""

    async def __call__(self, table: pa.Table) -> pa.Table:
        """What Ray Data calls, in an actor of the stage's own."""
        garbage.settle()
        return await self.annotate(table)

    async def annotate(self, table: pa.Table) -> pa.Table:
        """A block in, the same block with three more columns out."""
        batch = Batch.of(table, self.name)
        began, documents = time.time_ns(), table.column(schema.DOC_ID).to_pylist()
        with logs.about(stage=self.name, documents=documents):
            try:
                records = await self.run(batch)
            except Exception as error:
                logs.bound(logger).error("a stage ended: %s", type(error).__name__)
                raise
        if len(records) != table.num_rows:
            raise AssertionError(f"stage {self.name}: {len(records)} records for {table.num_rows} rows")
        await self._tell(batch, documents, began)
        if schema.PADDING in table.column_names:
            table = table.drop_columns([schema.PADDING])
        table = table.append_column(self.writes.name, self.writes.encode(records))
        usage, failures = schema.usage_column(self.name), schema.failures_column(self.name)
        table = table.append_column(usage.name, usage.encode([dict(ledger.usage) for ledger in batch.ledgers]))
        return table.append_column(failures.name, failures.encode([ledger.failures for ledger in batch.ledgers]))

    async def _tell(self, batch: Batch, documents: list[str], began: int) -> None:
        """Metrics, log lines and spans of a batch with these documents that began so many ns after 1970."""
        ended = time.time_ns()
        self._metrics.count(*spent(batch.ledgers), rows=batch.table.num_rows)
        parts = batch.table.column(schema.PART).to_pylist()
        for document, part, ledger in zip(documents, parts, batch.ledgers, strict=True):
            logs.tell_failures(document, part, ledger.failures)
            if self._spans:
                self._spans.record(document, part, began, ended, dict(ledger.usage), ledger.failures)
        if self._spans:
            await self._spans.export()
