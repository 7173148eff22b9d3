"""The method over a `ray.data.Dataset`, for people who have a pipeline of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import pyarrow as pa
from ray.data import Dataset

from el4ner_ray import pipeline, readers
from el4ner_ray.annotations import annotation_rows, failures_of
from el4ner_ray.config import Limits
from el4ner_ray.ensemble import Ensemble, PoolSource
from el4ner_ray.errors import UsageError
from el4ner_ray.extra_columns import is_text, output_names
from el4ner_ray.parts import batches_of, table_of_parts
from el4ner_ray.schema import RESERVED_COLUMNS
from el4ner_ray.source import block_bytes, pad

_NO_UTF8 = object()


def annotate(
    dataset: Dataset,
    ensemble: Ensemble,
    pool: PoolSource,
    *,
    text_column: str | None = None,
    id_column: str | None = None,
) -> Dataset:
    """The data set with the entities of its texts. Lazy: nothing is annotated before the result is consumed.

    The ensemble must be running, and run until then. Its stages become operators of the data set's plan.

    Args:
        dataset: one row a document, of any number of blocks.
        ensemble: started; its configuration says how everything is done.
        pool: as in `Ensemble.annotate`. On a cluster, an index folder (`el4ner index`) on storage that all nodes share.
        text_column: column of strings; unless given, that of the configuration (`text`).
        id_column: column with unique ids; unless given, that of the configuration, else `id`.

    Returns:
        One row a document, several for one longer than `limits.part_characters`, with the columns of the Parquet output
        (`doc_id`, `part`, `text_start`, `text`, `status`, `entities`, `dropped`, `error`; see docs/output.md) and the
        input's other columns, the id's included, untouched. One whose name the output needs becomes `input_NAME`. A row
        whose text or id is null or not UTF-8 has the status `failed` and says so in `error`.

    Raises:
        UsageError: a column is not there or does not hold strings, or the pool is not what it should be.

    >>> import ray, ray.data
    >>> from el4ner_ray import Ensemble, JobConfig, annotate
    >>> pool = [{"text": "Anna flew to Oslo.", "entities": [{"start": 0, "end": 4, "type": "person"}]}]
    >>> config = JobConfig.load(profile="fake", demonstrations={"k": 1, "pool_spans": "gold"})
    >>> with Ensemble(config, say=lambda line: None) as ensemble:
    ...     documents = ray.data.from_items([{"id": 7, "body": "Clara Voss left Riga.", "year": 1931}])
    ...     [row] = annotate(documents, ensemble, pool, text_column="body").take_all()
    >>> row["doc_id"], row["year"], [(entity["start"], entity["end"]) for entity in row["entities"]]
    ('7', 1931, [(0, 10), (16, 20)])
    """
    config = ensemble.config
    text_column, id_column = text_column or config.text_column, id_column or config.id_column or "id"
    schema = dataset.schema()
    columns = dict(zip(schema.names, schema.types, strict=True)) if schema else {}
    for option, column in (("text_column", text_column), ("id_column", id_column)):
        if column not in columns:
            there = ", ".join(map(repr, columns)) or "none"
            raise UsageError(f"dataset: there is no column {column!r}; set {option} to one of its columns: {there}")
    if isinstance(type_ := columns[text_column], pa.DataType) and not is_text(type_):
        raise UsageError(f"dataset: the column {text_column!r} holds {type_}, not strings; set text_column to another")
    prepared = ensemble.prepare(pool)
    # The context belongs to the whole plan. Blocks must stay as small as batches (see source.py), and the data set
    # that was given must stay as it is.
    own = Dataset.copy(dataset, _deep_copy=True)
    own.context.target_max_block_size = block_bytes(config.limits)
    own.context.execution_options.preserve_order = True
    parts = own.map_batches(
        _parts,
        fn_kwargs={"text_column": text_column, "id_column": id_column, "limits": config.limits},
        batch_size=config.limits.batch_documents,
        batch_format="pyarrow",
        num_cpus=pipeline.TASK_CPUS,
    )
    stages = [stage.name for stage, _ in prepared.steps]
    return pipeline.apply_all(parts, prepared.steps).map_batches(
        _output,
        fn_kwargs={"stages": stages},
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=pipeline.TASK_CPUS,
    )


def _parts(table: pa.Table, text_column: str, id_column: str, limits: Limits) -> Iterator[pa.Table]:
    """Documents as blocks of rows for the stages."""
    texts = _values(table.column(text_column))
    ids = _values(table.column(id_column))
    errors = [_problem(text, text_column, id_, id_column) for text, id_ in zip(texts, ids, strict=True)]
    told = ["" if id_ is None or id_ is _NO_UTF8 else str(id_) for id_ in ids]
    extra = table.drop_columns([text_column])
    names = output_names(extra.column_names)
    readable = ("" if error else str(text) for text, error in zip(texts, errors, strict=True))
    for batch, parts in enumerate(batches_of(readable, limits), _first_batch(told)):
        numbers, of_document, starts, of_parts = zip(*parts, strict=True)
        rows = table_of_parts(
            [told[number] for number in numbers],
            of_document,
            starts,
            of_parts,
            [errors[number] for number in numbers],
            batch,
        )
        own = extra.take(pa.array(numbers, pa.int64()))
        for name, new in names.items():
            rows = rows.append_column(new, own.column(name))
        yield from pad(rows.combine_chunks(), block_bytes(limits))


def _first_batch(ids: Sequence[str]) -> int:
    """A number that other tasks hardly have; those that follow it have the next replicas."""
    return int.from_bytes(hashlib.blake2b(ids[0].encode("utf-8", "replace"), digest_size=7).digest()) if ids else 0


def _values(column: pa.ChunkedArray) -> list[object]:
    """The column's values, _NO_UTF8 where a string is none: Arrow promises UTF-8, but not every writer checks."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_value(cell) for cell in column]


def _value(cell: pa.Scalar) -> object:
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        return _NO_UTF8


def _problem(text: object, text_column: str, id_: object, id_column: str) -> str | None:
    for column, value in ((text_column, text), (id_column, id_)):
        if value is _NO_UTF8:
            return f"column {column!r}: not UTF-8"
    if not isinstance(text, str):
        return f"column {text_column!r} holds {readers.a(text)}, not a string"
    return f"column {id_column!r} holds no id" if id_ is None or id_ == "" else None


def _output(table: pa.Table, stages: list[str]) -> pa.Table:
    """A block of the last stage as rows of the output."""
    own = [field for field in table.schema if not field.name.startswith("el4ner.")]
    extra = pa.schema([field for field in own if field.name not in RESERVED_COLUMNS])
    return annotation_rows(table, failures_of(table, stages), stages, extra)
