"""Parquet files read by the calling thread alone.

By default Arrow's own threads read ahead, and let go of what Python gave them later, whenever they get to it. When the
interpreter ends just then, the process aborts: of eleven jobs that had committed everything, one ended with status 134.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from el4ner_ray.errors import UsageError


def table(file: IO[bytes], columns: Iterable[str] | None = None) -> pa.Table:
    """All rows of a file, with these columns or all."""
    return _opened(file).read(_names(columns), use_threads=False)


def batches(file: IO[bytes], columns: Iterable[str] | None = None, rows: int = 1024) -> Iterator[pa.RecordBatch]:
    """The same in batches of at most so many rows."""
    yield from _opened(file).iter_batches(batch_size=rows, columns=_names(columns), use_threads=False)


@contextmanager
def whole(path: str) -> Iterator[None]:
    """Raise UsageError, naming the annotation file and the mend, where reading it in this block finds it damaged."""
    try:
        yield
    except pa.ArrowInvalid as error:
        reason = " ".join(str(error).split())
        mend = "remove it, and run the same `el4ner annotate` command again"
        raise UsageError(f"{path}: not Parquet: {reason}; {mend}") from None


def _names(columns: Iterable[str] | None) -> list[str] | None:
    return None if columns is None else list(columns)


def _opened(file: IO[bytes]) -> pq.ParquetFile:
    return pq.ParquetFile(file, pre_buffer=False)
