"""Labelled sentences: the pool that demonstrations are taken from, and the gold that annotations are measured against.

Three forms are read, told apart by the name of the source:

- JSON lines (`.jsonl`, `.json`): `{"id", "text", "entities": [{"start", "end", "type", "text"}]}`, where `id` and an
  entity's `text` may be left out;
- CoNLL columns (`.conll`, `.bio`, `.iob`, `.tsv`): the token first, the tag last, a blank line between sentences; a
  column of numbers before the token is refused;
- Hugging Face data sets with `tokens` and `ner_tags`: a local folder written by `save_to_disk`, `hf://NAME[:SPLIT]`, or
  `.parquet`.

Endings are told as those of a corpus are (`readers.suffix`): case does not count. Text files may end in `.gz` or `.zst`
and, like `.parquet`, may lie behind any URI that fsspec opens. Offsets are code points of the text as it stands in the
file, half-open; tokens are joined by one space. Whatever is wrong with a source
is a UsageError of one line that names file, line or row, field and the mend: nothing is skipped or put right silently.
"""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import msgspec
import pyarrow as pa
import zstandard

from el4ner_ray import parquet, readers
from el4ner_ray.core.prompting import LABEL_RULE, is_label
from el4ner_ray.errors import UsageError

CONLL_SUFFIXES = (".conll", ".bio", ".iob", ".tsv")
_FORMATS = {
    **{each: kind for each, (kind, _) in readers.FORMATS.items() if kind in ("jsonl", "parquet")},
    **{suffix + packed: "conll" for suffix in CONLL_SUFFIXES for packed in ("", ".gz", ".zst")},
}
_KNOWN = (
    f".jsonl, .json, {', '.join(CONLL_SUFFIXES)} (each also .gz, .zst), .parquet, hf://NAME, or a save_to_disk folder"
)
_SHAPE = 'write {"id", "text", "entities": [{"start", "end", "type"}]} on one line, [] where there is no entity'
_OFFSETS = "offsets count code points from 0, the end is exclusive"
_TAG = re.compile(r"([BIESLU])-(.+)", re.DOTALL)


class LabelledSpan(msgspec.Struct, frozen=True, order=True):
    """A gold entity: the half-open range `[start, end)` of code points of its text, and its type."""

    start: int
    end: int
    type: str


class LabelledText(msgspec.Struct, frozen=True):
    """A labelled sentence or document: entities in the order of the source, each once, nested ones included."""

    id: str
    text: str
    entities: tuple[LabelledSpan, ...]

    @property
    def typed(self) -> frozenset[tuple[int, int, str]]:
        """The entities as `core.evaluation` takes them."""
        return frozenset((entity.start, entity.end, entity.type) for entity in self.entities)

    @property
    def mentions(self) -> tuple[tuple[str, str], ...]:
        """The (surface, type) of each entity in the order of the text, what others lie in before them."""
        ordered = sorted(self.entities, key=lambda entity: (entity.start, -entity.end))
        return tuple((self.text[entity.start : entity.end], entity.type) for entity in ordered)


class _Entity(msgspec.Struct):
    """An entity as it is given, unchecked but for the types of its fields."""

    start: int
    end: int
    type: str
    text: str | None = None


class _Row(msgspec.Struct):
    """A text as it is given, unchecked but for the types of its fields. Every form is brought into this one."""

    text: str
    entities: list[_Entity]
    id: str | int | None = None


_Rows = Iterator[tuple[str, int, _Row]]  # "line" or "row", its number from 1 ("item", from 0), what stands there


Rows = Sequence[Mapping[str, Any]]
"""Labelled texts as Python has them: mappings like the lines of JSON."""


def read_labelled(source: str | Rows, role: str) -> list[LabelledText]:
    """All texts of `source`, in its order; `role`, the option that named it (pool, gold or compare), is how messages
    call it: `--pool FILE, line 3`.

    A text without an id gets the number of its line or row (of its first token's line in CoNLL), counted from 1. A
    pool must hold at least one entity, and types that can stand in a prompt. Raises UsageError.
    """
    where = name_of(source, role)
    texts: list[LabelledText] = []
    places: dict[str, str] = {}
    for unit, number, row in _rows(source, where) if isinstance(source, str) else _given_rows(source, where):
        place = f"{unit} {number}"
        text = _checked(row, f"{where}, {place}", str(number), for_prompts=role == "pool")
        if text.id in places:
            mend = "give every text an id of its own"
            raise UsageError(f"{where}, {place}: id: {text.id!r} is taken by {places[text.id]}; {mend}")
        places[text.id] = place
        texts.append(text)
    if not texts:
        raise UsageError(f"{where}: there is no labelled text in it; give at least one")
    if role == "pool" and not any(text.entities for text in texts):
        raise UsageError(f"{where}: none of its {len(texts)} texts holds an entity; give sentences that show each type")
    return texts


def labels_of(texts: Iterable[LabelledText]) -> dict[str, str]:
    """The label set that the texts imply: their types, most frequent first, then by name, without descriptions."""
    counts = Counter(entity.type for text in texts for entity in text.entities)
    return {label: "" for label, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))}


def check_against(texts: Iterable[LabelledText], labels: Collection[str], source: str | Rows) -> None:
    """Raise UsageError at the first entity of the pool whose type is not among `labels`."""
    for text in texts:
        for number, entity in enumerate(text.entities):
            if entity.type not in labels:
                at = f"{name_of(source, 'pool')}, id {text.id!r}: entities[{number}].type"
                mend = "add it to `labels` in the configuration, or rename it in the pool"
                raise UsageError(f"{at}: {entity.type!r} is not in the label set ({', '.join(labels)}); {mend}")


def name_of(source: str | Rows, role: str) -> str:
    """How messages call a source."""
    return f"--{role} {source}" if isinstance(source, str) else role


def _given_rows(source: Rows, where: str) -> _Rows:
    for number, row in enumerate(source):
        try:
            yield "item", number, msgspec.convert(row, _Row)
        except msgspec.ValidationError as error:
            raise UsageError(f"{where}, item {number}: {error}; {_SHAPE.replace(' on one line', '')}") from None


def _rows(source: str, where: str) -> _Rows:
    local = None if "://" in source else Path(source)
    if local and not local.exists():
        raise UsageError(f"{where}: there is no such file or folder; give the path of one that can be read")
    if source.startswith("hf://") or (local and local.is_dir()):
        return _dataset_rows(_dataset(source, where), where)
    form = _FORMATS.get(readers.suffix(source, _FORMATS) or "")
    if form == "jsonl":
        return _json_rows(source, where)
    if form == "conll":
        return _conll_rows(source, where)
    if form == "parquet":
        return _dataset_rows(_parquet(source, where), where)
    raise UsageError(f"{where}: the ending {PurePosixPath(source).suffix!r} says no known form; give {_KNOWN}")


def _json_rows(source: str, where: str) -> _Rows:
    for number, line in _lines(source, where):
        if line.strip():
            try:
                row = msgspec.json.decode(line, type=_Row)
                readers.loads(line.decode())
            except (ValueError, RecursionError) as error:
                # Not JSON, not UTF-8, half a surrogate pair, a wrong type, a key that stands twice.
                raise UsageError(f"{where}, line {number}: {error}; {_SHAPE}") from None
            yield "line", number, row


def _conll_rows(source: str, where: str) -> _Rows:
    sentence: list[list[str]] = []
    tags: list[tuple[str, str]] = []
    first = 0

    def row() -> tuple[str, int, _Row]:
        _check_token_first(sentence, f"{where}, line {first}")
        return "line", first, _tagged_row([columns[0] for columns in sentence], tags)

    for number, line in _lines(source, where):
        at = f"{where}, line {number}"
        try:
            stripped = line.decode("utf-8").strip(" \t\r")
        except UnicodeDecodeError as error:
            raise UsageError(f"{at}: {error}; save the file as UTF-8") from None
        if "\r" in stripped:  # lines of old Macs would be one
            raise UsageError(f"{at}: there is a carriage return in the line; end every line with a line feed")
        columns = _columns(stripped)
        if not columns or columns[0] == "-DOCSTART-":
            if sentence:
                yield row()
            sentence, tags = [], []
            continue
        if len(columns) < 2:
            raise UsageError(f"{at}: tag: there is one column only; write the token first and its tag last")
        first = first if sentence else number
        sentence.append(columns)
        tags.append(_parse_tag(columns[-1], f"{at}: tag"))
    if sentence:  # the last sentence of a file that does not end in a line feed
        yield row()


def _check_token_first(sentence: Sequence[Sequence[str]], at: str) -> None:
    """Raise UsageError where the first column of a sentence numbers its tokens, and another can hold them.

    A sentence of the numbers 1 to n may be one: its second column then has the word class, which is the same for all.
    """
    first, second = zip(*((columns[0], columns[1]) for columns in sentence), strict=True)
    counts = all(columns[0] == str(number) for number, columns in enumerate(sentence, 1))
    if counts and len(set(second)) > 1 and min(map(len, sentence)) > 2:
        numbers = ", ".join(first[:2])
        raise UsageError(
            f"{at}: token: the first column only counts: {numbers}{', ...' * (len(first) > 2)}; "
            "write the token first and its tag last"
        )


def _columns(line: str) -> list[str]:
    # Only blanks and tabs part columns: str.split would also cut a token at a no-break space.
    return re.split(r" *\t *" if "\t" in line else r" +", line) if line else []


def _parse_tag(tag: str, at: str) -> tuple[str, str]:
    match = _TAG.fullmatch(tag)
    if not match and tag != "O":
        raise UsageError(f"{at}: {tag!r} is no tag; write O, or B-, I-, E- or S- (also L-, U-) before a type")
    return (match[1], match[2]) if match else ("O", "")


def _tagged_row(tokens: Sequence[str], tags: Sequence[tuple[str, str]], id_: str | int | None = None) -> _Row:
    """Tokens joined by one space, with the entities of their parsed tags.

    As conlleval does: an entity begins at B, S and U, and at an I, E or L that does not go on with an open one of its
    own type. So BIO, IOB1, BIOES and BILOU need not be told apart.
    """
    entities: list[_Entity] = []
    current: _Entity | None = None
    position = 0
    for token, (prefix, label) in zip(tokens, tags, strict=True):
        end = position + len(token)
        if prefix == "O":
            current = None
        elif current is not None and prefix in "IEL" and current.type == label:
            current.end = end
        else:
            current = _Entity(position, end, label)
            entities.append(current)
        if prefix in "ESLU":
            current = None
        position = end + 1
    return _Row(" ".join(tokens), entities, id_)


def _parquet(source: str, where: str) -> Any:
    """A `datasets.Dataset`."""
    import datasets  # takes seconds, and only these forms need it

    content = pa.BufferReader(_read(source, where))
    try:
        # The Arrow schema's metadata keeps a ClassLabel's names; Dataset.from_parquet would copy into a cache.
        return datasets.Dataset(parquet.valid(parquet.table(content)))
    except (OSError, ValueError, RuntimeError) as error:
        raise _no_dataset(where, error) from None


def _no_dataset(where: str, error: Exception) -> UsageError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UsageError(f"{where}: no data set can be loaded from it: {reason}; give {_KNOWN}")


def _dataset(source: str, where: str) -> Any:
    """A `datasets.Dataset`. Of several splits one must be named: which is meant is not ours to guess."""
    import datasets  # takes seconds, and only these forms need it

    name, _, split = source.removeprefix("hf://").partition(":")
    try:
        hub = source.startswith("hf://")
        found = datasets.load_dataset(name, split=split or None) if hub else datasets.load_from_disk(source)
    except (OSError, ValueError, ImportError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise _no_dataset(where, error) from None
    if not isinstance(found, dict):
        return found
    if len(found) != 1:
        prefix = f"hf://{name}:" if hub else source.rstrip("/") + "/"
        raise UsageError(f"{where}: has {len(found)} splits; name one: {', '.join(prefix + each for each in found)}")
    return next(iter(found.values()))


def _dataset_rows(dataset: Any, where: str) -> _Rows:
    for field in ("tokens", "ner_tags"):
        if field not in dataset.column_names:
            known = ", ".join(map(repr, dataset.column_names))
            raise UsageError(f"{where}: {field}: there is no such column among {known}; rename one or add it")
    columns = [name for name in ("id", "tokens", "ner_tags") if name in dataset.column_names]
    names = getattr(getattr(dataset.features["ner_tags"], "feature", None), "names", None)
    for number, row in enumerate(dataset.select_columns(columns), 1):
        at = f"{where}, row {number}"
        tokens, tags = row["tokens"], row["ner_tags"]
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            raise UsageError(f"{at}: tokens: must be a list of strings; correct the row")
        if not isinstance(tags, list) or len(tags) != len(tokens):
            raise UsageError(f"{at}: ner_tags: must be a list of {len(tokens)}, one tag a token; correct the row")
        parsed = []
        for i, tag in enumerate(tags):
            if names and isinstance(tag, int) and 0 <= tag < len(names):
                tag = names[tag]
            if not isinstance(tag, str):
                mend = "write tags as strings, or numbers of a ClassLabel feature"
                raise UsageError(f"{at}: ner_tags[{i}]: {tag!r} has no name; {mend}")
            parsed.append(_parse_tag(tag, f"{at}: ner_tags[{i}]"))
        yield "row", number, _tagged_row(tokens, parsed, row.get("id"))


def _checked(row: _Row, at: str, default_id: str, for_prompts: bool) -> LabelledText:
    """The row with what its types do not say checked; `for_prompts`: as a demonstration it is held to more."""
    if row.id == "":
        raise UsageError(f"{at}: id: is empty; give one, or leave the field out")
    if for_prompts and not row.text.strip():
        raise UsageError(f"{at}: text: is empty; give the sentence, or take the line out")
    for number, entity in enumerate(row.entities):
        problem = _problem(entity, row.text, for_prompts)
        if problem:
            raise UsageError(f"{at}: entities[{number}].{problem}")
    spans = dict.fromkeys(LabelledSpan(entity.start, entity.end, entity.type) for entity in row.entities)
    return LabelledText(default_id if row.id is None else str(row.id), row.text, tuple(spans))


def _problem(entity: _Entity, text: str, for_prompts: bool) -> str:
    """The field that is wrong, how, and the mend; empty when all is well."""
    start, end, label = entity.start, entity.end, entity.type
    for field, offset in (("start", start), ("end", end)):
        if not 0 <= offset <= len(text):
            return f"{field}: {offset} is outside the text of {len(text)} characters; {_OFFSETS}"
    if start >= end:
        return f"start: {start} is not before the end {end}; {_OFFSETS}"
    if entity.text is not None and entity.text != text[start:end]:
        return f"text: {entity.text!r:.80} is not text[{start}:{end}], which is {text[start:end]!r:.80}; {_OFFSETS}"
    if text[start:end].isspace():
        return f"start: text[{start}:{end}] is white space only; mark what is named, or take the entity out"
    if not label.strip():
        return "type: is empty; give the entity's type"
    if for_prompts and not is_label(label):
        return f"type: {label!r} {LABEL_RULE}; rename the type"
    return ""


def _lines(source: str, where: str) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, unpacked, without a byte order mark. A file cut short is an error, not a short file."""
    content = _read(source, where)
    try:
        packed = PurePosixPath(source).suffix.lower()
        if packed == ".gz":
            content = gzip.decompress(content)
        elif packed == ".zst":
            content = b"".join(_zstd_frames(content))
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise UsageError(f"{where}: cannot be unpacked: {error}; write the file again") from None
    # Only a line feed ends a line: str.splitlines would also cut at U+0085 or U+2028 inside a JSON string.
    return enumerate(content.removeprefix(codecs.BOM_UTF8).split(b"\n"), 1)


def _zstd_frames(content: bytes) -> Iterator[bytes]:
    # By hand, since zstandard's stream_reader takes a cut-off frame for the end of the file.
    while content:
        frame = readers.zstd_frame()
        yield frame.decompress(content)
        if not frame.eof:
            raise EOFError("its last frame is cut off")
        content = frame.unused_data


def _read(source: str, where: str) -> bytes:
    try:
        if "://" not in source:
            return Path(source).read_bytes()
        with fsspec.open(source, "rb") as file:
            content: bytes = file.read()
            return content
    except (OSError, ValueError, ImportError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"{where}: cannot be read: {reason}; give the path of a file that can") from None
