"""Reading the rows of an input file one by one, whatever the format.

Rows are streamed, so a file may be larger than memory (a `.txt` file is one row and has to fit). What is wrong with one
row is said in that row and costs no other; what is wrong with a whole file is a UsageError.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from el4ner_ray import parquet
from el4ner_ray.errors import UsageError
from el4ner_ray.files import file_system
from el4ner_ray.keys import keys_once

# Suffix: format and compression. JSON documents over several lines are not JSON lines and are refused as such.
FORMATS = {
    ".jsonl": ("jsonl", None),
    ".jsonl.gz": ("jsonl", "gz"),
    ".jsonl.zst": ("jsonl", "zst"),
    ".json": ("jsonl", None),
    ".json.gz": ("jsonl", "gz"),
    ".json.zst": ("jsonl", "zst"),
    ".parquet": ("parquet", None),
    ".csv": ("csv", None),
    ".txt": ("txt", None),
}
TXT_COLUMN = "text"  # what the one column of a .txt file is called here
HEAD_ROWS = 1_000  # JSON lines have no header: this many lines tell which columns a file has
_CHUNK = 1 << 20
_PACKED_PIECE = 256  # bytes; zstd makes at most 128 KiB of 4, so 8 MiB of a piece
_DEEPEST = 200  # levels of a JSON line
# A string may lack its end: looked for from each of its quotation marks, a hostile line would take quadratic time.
_STRING_OR_BRACKET = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)
_DEEPER = {b"[": 1, b"{": 1, b"]": -1, b"}": -1}
_PARQUET_ROWS = 256  # rows held at once: documents can be long
_UNREADABLE = (OSError, EOFError, zlib.error, zstandard.ZstdError, pa.ArrowException, csv.Error)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file. `number` counts from 1: lines for JSON lines and CSV (where the row starts), else rows.

    `values` are those by column name, None where the row could not be taken apart; in Parquet files all but the columns
    asked for as `plain` are `pa.Array`s of length 1. `error` says what is wrong with the row, None if nothing.
    """

    number: int
    values: dict[str, Any] | None
    error: str | None = None


def suffix(uri: str, known: Collection[str] = tuple(FORMATS)) -> str | None:
    """The known suffix of a file name, the longest that fits (`.jsonl.gz`, not `.gz`), or None. Case is ignored."""
    name = uri.rsplit("/", 1)[-1].lower()
    return max((each for each in known if name.endswith(each)), key=len, default=None)


def columns(uri: str) -> tuple[str, ...] | None:
    """The columns of a file in order, None if it has no row at all. JSON lines: of its first 1,000 lines together.

    Raises UsageError if the file cannot be read, names a column twice, or has no line that is a JSON object.
    """
    kind = FORMATS[suffix(uri) or ""][0]
    if kind == "txt":
        return ()
    if kind == "parquet":
        return _distinct(uri, parquet_schema(uri).names)
    if kind == "csv":
        return _csv_columns(uri)
    names: dict[str, None] = {}
    first = None
    for i, row in enumerate(rows(uri)):
        first = first or row
        if names and i >= HEAD_ROWS:
            break
        names.update(dict.fromkeys(row.values or ()))
        if row.values is not None and not row.values:
            names.setdefault("")  # an empty object is a good row without columns
    if first is not None and not names:
        raise UsageError(
            f"{uri}: not JSON lines: no line is a JSON object ({uri}:{first.number}: {first.error}); "
            "write one object a line, or give the file its right suffix"
        )
    return tuple(name for name in names if name) if first else None


def _csv_columns(uri: str) -> tuple[str, ...] | None:
    with open_bytes(uri) as file:
        for number, names, error in _csv_records(file, uri):
            if error:
                raise UsageError(f"{uri}:{number}: {error}; mend the header")
            return _distinct(uri, names)
    return None


def _distinct(uri: str, names: Sequence[str]) -> tuple[str, ...]:
    for name in names:
        if not encodable(name):
            raise UsageError(f"{uri}: the column name {name!r} is not UTF-8; write the file in UTF-8")
        if list(names).count(name) > 1:
            raise UsageError(f"{uri}: there are two columns {name!r}; rename one")
    return tuple(names)


def parquet_schema(uri: str) -> pa.Schema:
    """Raises UsageError if the file cannot be read."""
    with open_bytes(uri) as file:
        return pq.ParquetFile(file).schema_arrow


def rows(uri: str, plain: Collection[str] = (), only: Collection[str] | None = None) -> Iterator[Row]:
    """The rows of a file. `plain` and `only` matter to Parquet: see Row, and the columns to read (default: all).

    Raises UsageError where the file cannot be read on: missing, damaged, cut short.
    """
    kind = FORMATS[suffix(uri) or ""][0]
    with open_bytes(uri) as file:
        if kind == "jsonl":
            yield from _jsonl(file)
        elif kind == "csv":
            yield from _csv(file, uri)
        elif kind == "parquet":
            yield from _parquet(file, plain, only)
        else:
            yield _txt(file)


@contextmanager
def open_bytes(uri: str) -> Iterator[Any]:
    """The decompressed bytes of a file. Read errors inside the block become UsageErrors."""
    try:
        fs, path = file_system(uri)
        kind, compression = FORMATS[suffix(uri) or ""]
        with fs.open(path, "rb") as raw:
            if kind == "parquet":
                yield raw
            else:
                stream = gzip.GzipFile(fileobj=raw) if compression == "gz" else _Zstd(raw) if compression else raw
                yield io.BufferedReader(stream, _CHUNK)  # fsspec's own files split lines in Python
    except _UNREADABLE as error:
        raise UsageError(
            f"{uri}: cannot be read: {error or type(error).__name__}; mend or leave out the file"
        ) from None


class _Zstd(io.RawIOBase):
    """Decompressed bytes of all zstd frames of a file, in pieces. Raises EOFError for a file that is cut short.

    zstandard's own stream_reader ends without a word there, and after the first of several frames unless told.
    """

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        # Views: slices of bytes would be copies of all that is left.
        self._input = self._output = memoryview(b"")
        self._frame: Any = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._output:
            self._input = self._input or memoryview(self._raw.read(_CHUNK))
            if not self._input:
                if self._frame is not None:
                    raise EOFError("the compressed file is cut short")
                return 0
            self._frame = self._frame or zstd_frame()
            piece = self._input[:_PACKED_PIECE]
            self._output = memoryview(self._frame.decompress(piece))
            self._input = self._input[len(piece) - len(self._frame.unused_data) :]
            if self._frame.eof:
                self._frame = None
        size = min(len(buffer), len(self._output))
        buffer[:size], self._output = self._output[:size], self._output[size:]
        return size


def zstd_frame() -> Any:
    """What decompresses one zstd frame with a window of any size, as `zstd --long=31` writes it."""
    return zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()


def _jsonl(file: Any) -> Iterator[Row]:
    for number, line in enumerate(file, 1):  # bytes end lines at \n alone, not at U+2028 and the like
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line.strip():
            yield _json_row(number, line)


def _json_row(number: int, line: bytes) -> Row:
    if _nests_too_deeply(line):
        return Row(number, None, "broken JSON: nested too deeply")
    try:
        # json and not msgspec: it takes NaN, which Python itself writes, and whole rows with a lone surrogate.
        values = loads(line.decode())
    except UnicodeDecodeError as error:
        return Row(number, None, f"not UTF-8 at byte {error.start + 1} of the line")
    except ValueError as error:
        return Row(number, None, f"broken JSON: {error}")
    if not isinstance(values, dict):
        return Row(number, None, f"not a JSON object but {a(values)}")
    if (b"\\ud" in line or b"\\uD" in line) and not encodable(json.dumps(values, ensure_ascii=False)):
        # Arrow holds no lone surrogates; the rest of the row is kept to tell which document it was.
        kept = {
            name: value for name, value in values.items() if encodable(json.dumps({name: value}, ensure_ascii=False))
        }
        return Row(number, kept, "a lone surrogate (\\ud800 to \\udfff) is no text")
    return Row(number, values)


loads = json.JSONDecoder(object_pairs_hook=keys_once).decode
"""A JSON value from its text. Raises ValueError, also where a key stands twice in an object."""


def _nests_too_deeply(line: bytes) -> bool:
    """A fixed bound: json's own is how deep Python's stack happens to be, which differs between driver and workers."""
    if line.count(b"[") + line.count(b"{") <= _DEEPEST:
        return False
    depth = 0
    for found in _STRING_OR_BRACKET.finditer(line):
        depth += _DEEPER.get(found.group(), 0)
        if depth > _DEEPEST:
            return True
    return False


def _csv(file: Any, uri: str) -> Iterator[Row]:
    records = _csv_records(file, uri)
    header = next(records, (1, [], None))[1]
    for number, fields, error in records:
        if error or len(fields) != len(header):
            yield Row(number, None, error or f"{len(fields)} fields where the header has {len(header)}")
        elif not encodable("".join(fields)):
            named = zip(header, fields, strict=True)
            yield Row(number, {name: field for name, field in named if encodable(field)}, "not UTF-8")
        else:
            yield Row(number, dict(zip(header, fields, strict=True)))


def _csv_records(file: Any, uri: str) -> Iterator[tuple[int, list[str], str | None]]:
    """Line, fields and error of each record, the header first. Blank lines are no records.

    Raises UsageError where a quote is never closed: how many rows it swallowed, nobody knows.
    """
    csv.field_size_limit(sys.maxsize)
    # surrogateescape: a wrong byte spoils its own row, not the rest of the file.
    text = io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="")
    reader = csv.reader(text, strict=True)
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if str(error) == "unexpected end of data":
                raise UsageError(
                    f"{uri}:{number}: broken CSV: a quote of the row that starts here is never closed; close it, or "
                    "double it where it is text"
                ) from None
            lines = f" in lines {number} to {reader.line_num}" if reader.line_num > number else ""
            yield number, [], f"broken CSV{lines}: {error}"
            continue
        if fields:
            yield number, fields, None


def _parquet(file: Any, plain: Collection[str], only: Collection[str] | None) -> Iterator[Row]:
    number = 0
    for batch in parquet.batches(file, only, _PARQUET_ROWS):
        for i in range(batch.num_rows):
            number += 1
            values: dict[str, Any] = {}
            error = None
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                try:
                    values[name] = column[i].as_py() if name in plain else column.slice(i, 1)
                except UnicodeDecodeError:  # Parquet promises UTF-8, but not every writer checks
                    error = f"column {name!r}: not UTF-8"
            yield Row(number, values, error)


def _txt(file: Any) -> Row:
    """The file as it is: a byte order mark stays (as U+FEFF), line ends stay, so that offsets count what is there."""
    try:
        return Row(1, {TXT_COLUMN: file.read().decode()})
    except UnicodeDecodeError as error:
        return Row(1, None, f"not UTF-8 at byte {error.start + 1}")


def a(value: object) -> str:
    """`a list`, `an integer` ...: what a JSON value is, for messages."""
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}
    return names.get(type(value), f"a {type(value).__name__}")


def encodable(text: str) -> bool:
    """Whether the text is Unicode: has no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
