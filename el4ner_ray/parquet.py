"""Parquet files read by the calling thread alone.

By default Arrow's own threads read ahead, and let go of what Python gave them later, whenever they get to it. When the
interpreter ends just then, the process aborts: of eleven jobs that had committed everything, one ended with status 134.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from el4ner_ray.errors import UsageError
from el4ner_ray.files import unreadable


def table(file: IO[bytes], columns: Iterable[str] | None = None) -> pa.Table:
    """All rows of a file, with these columns or all."""
    return _opened(file).read(_names(columns), use_threads=False)


def batches(file: IO[bytes], columns: Iterable[str] | None = None, rows: int = 1024) -> Iterator[pa.RecordBatch]:
    """The same in batches of at most so many rows."""
    yield from footer_and_batches(file, columns, rows)[1]


def footer_and_batches(
    file: IO[bytes], columns: Iterable[str] | None = None, rows: int = 1024
) -> tuple[pq.FileMetaData, Iterator[pa.RecordBatch]]:
    """The footer of a file, and its batches as `batches` gives them, from one look at where they are."""
    opened = _opened(file)
    return opened.metadata, opened.iter_batches(batch_size=rows, columns=_names(columns), use_threads=False)


def valid(rows: pa.Table | pa.RecordBatch) -> pa.Table | pa.RecordBatch:
    """The rows, once their strings are known to be UTF-8, at which Arrow does not look. Raises ArrowInvalid."""
    rows.validate(full=True)
    return rows


@contextmanager
def whole(path: str, what: str = "it") -> Iterator[None]:
    """Raise UsageError, naming a file of the output, where reading it in this block fails or finds it damaged.

    `what` is to be removed where it is damaged. That is not said of what the file system refuses, if it can be told:
    Arrow has an OSError without a number for what it cannot unpack, and so has gcsfs for what is forbidden.
    """
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise unreadable(path, error) from None
        reason = " ".join(str(error).split())
        mend = f"remove {what}, and run the same `el4ner annotate` command again"
        if isinstance(error, OSError):
            raise UsageError(f"{path}: cannot be read: {reason}; if it is damaged, {mend}") from None
        raise UsageError(f"{path}: not Parquet: {reason}; {mend}") from None


def whole_errors(path: str) -> AbstractContextManager[None]:
    """`whole` for a file of error rows, which are written with the annotations of the same name."""
    return whole(path, "it and the file of that name in `annotations/`")


def _names(columns: Iterable[str] | None) -> list[str] | None:
    return None if columns is None else list(columns)


def _opened(file: IO[bytes]) -> pq.ParquetFile:
    return pq.ParquetFile(file, pre_buffer=False)
