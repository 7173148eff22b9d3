"""What the formats share: the request, names that a format allows, flat entities, tokens, and output that is whole."""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import msgspec
import regex

from el4ner_ray.errors import UsageError
from el4ner_ray.files import replaced
from el4ner_ray.results import RUN_FILE, AnnotatedDocument, AnnotatedEntity
from el4ner_ray.schema import Span

FOLDER_FILE = "export.json"  # in every folder that an export wrote; without it, a folder is never replaced

# Written without spaces between words: one token for each character, as spaCy's Chinese does it, too. Longer tokens
# would be cut where an entity begins, and so tell whoever trains on them where that is.
_UNSPACED = regex.compile(r"(?=[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])\X")
_RENEW_AFTER = 2_000_000  # code points, which take ten seconds; a new tokenizer takes 0.05 s
# Code points without white space that the rules get at once: they read them anew for each bracket that they take off.
_AT_ONCE = 500
_TOO_LONG = re.compile(rf"\S{{{_AT_ONCE}}}(?=\S)")


@dataclass(frozen=True)
class Export:
    """What a format is asked for.

    `documents` can be read once; their entities are half-open ranges of code points of `text`. `path` is the file or
    folder to write, `overwrite` says whether it may exist, `language` (ISO 639) decides where sentences end. `labels`
    are the types that the run looked for, none where no run.json tells them; entities may have others.
    """

    documents: Iterator[AnnotatedDocument]
    path: Path
    overwrite: bool
    language: str
    labels: tuple[str, ...]


Format = Callable[[Export], list[str]]  # writes, and returns what its user must know: what is left out or renamed


def generator() -> str:
    """Who made the annotations, for formats that name it: the program and its version."""
    return f"el4ner-ray {metadata.version('el4ner-ray')}"


class Names:
    """Types under names that a format allows, each type its own, in the order in which they are asked for."""

    def __init__(self, forbidden: str) -> None:
        """`forbidden` is a regular expression for what a name must not hold; an underscore stands for it."""
        self._forbidden = re.compile(forbidden)
        self.by_type: dict[str, str] = {}
        self._taken: set[str] = set()

    def __getitem__(self, type_: str) -> str:
        """The name for a type."""
        if type_ not in self.by_type:
            plain = self._forbidden.sub("_", type_)
            name = plain = plain if any(character.isalnum() for character in plain) else "type"
            number = 2
            while name in self._taken:
                name, number = f"{plain}_{number}", number + 1
            self._taken.add(name)
            self.by_type[type_] = name
        return self.by_type[type_]

    def notes(self) -> list[str]:
        """A line for each type whose name differs from it."""
        return [f"type {type_!r}: written as {name!r}" for type_, name in self.by_type.items() if name != type_]


def flat(entities: Iterable[AnnotatedEntity]) -> list[AnnotatedEntity]:
    """Entities that do not overlap, by position: the longest first, of equally long ones that of the higher score."""
    chosen: list[AnnotatedEntity] = []
    for entity in sorted(entities, key=lambda each: (each.start - each.end, -each.score, each.start, each.type)):
        at = bisect(chosen, entity.start, key=lambda each: each.start)
        after_previous = at == 0 or chosen[at - 1].end <= entity.start
        before_next = at == len(chosen) or entity.end <= chosen[at].start
        if after_previous and before_next:
            chosen.insert(at, entity)
    return chosen


def overlap_note(dropped: int, total: int, fate: str) -> list[str]:
    """The line about entities that `flat` does not keep, none where it keeps all; `fate` says what became of them."""
    return [f"entities nested in or overlapping a longer one, {fate}: {dropped} of {total}"] if dropped else []


def silent_note(documents: int) -> list[str]:
    """The line of formats that know entities only; none where every document has one."""
    return [f"documents without entities, which nothing in the file names: {documents}"] if documents else []


def label_note(labels: Collection[str]) -> list[str]:
    """The line that a configuration lacks types, for whoever corrects with it; none where the run tells them."""
    told = f"no {RUN_FILE} tells the labels of the run: the configuration has those only that occur"
    return [] if labels else [told]


class Tokenizer:
    """spaCy's rules for many languages, cut further so that every entity begins and ends with a token."""

    def __init__(self) -> None:
        """Nothing is loaded before the first text."""
        self._rules: Any = None
        self._read = 0

    def __call__(self, text: str, entities: Collection[AnnotatedEntity]) -> list[Span]:
        """The tokens in order, as half-open ranges of code points; white space runs are tokens as well.

        Together they cover the text but for single spaces after a token, as in spaCy. Such a space becomes a token only
        where one of the entities begins or ends with it.
        """
        if self._rules is None or self._read > _RENEW_AFTER:
            import spacy  # takes seconds, and not every format needs it

            self._rules, self._read = spacy.blank("xx").tokenizer, 0  # anew, since it keeps every word that it saw
        self._read += len(text)
        starts, ends = {entity.start for entity in entities}, {entity.end for entity in entities}
        cuts = starts | ends
        for match in _UNSPACED.finditer(text):
            cuts.update(match.span())
        tokens: list[Span] = []
        for start, end, spaced in self._pieces(text):
            for cut in range(start + 1, end):
                if cut in cuts:
                    tokens.append(Span(start, cut))
                    start = cut
            tokens.append(Span(start, end))
            if spaced and (end in starts or end + 1 in ends):
                tokens.append(Span(end, end + 1))
        return tokens

    def _pieces(self, text: str) -> Iterator[tuple[int, int, bool]]:
        """The tokens by spaCy's rules: start, end, whether a space follows. Too long runs are cut before."""
        cuts = [0, *(match.end() for match in _TOO_LONG.finditer(text)), len(text)]
        for offset, cut in pairwise(cuts):
            for token in self._rules(text[offset:cut]):
                start = offset + token.idx
                yield start, start + len(token), bool(token.whitespace_)


class _Written(msgspec.Struct):
    format: Literal["spacy", "brat"]


def _is_export(folder: Path) -> bool:
    try:
        msgspec.json.decode((folder / FOLDER_FILE).read_bytes(), type=_Written)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


@contextmanager
def replacing(target: Path, overwrite: bool) -> Iterator[Path]:
    """A path to write a file or folder to. It becomes `target` when the block ends well, else nothing is left of it.

    Raises:
        UsageError: `target` exists and may not be replaced, or cannot be made.
        FatalError: The file system failed while the block ran; what was at `target` is still there.
    """
    if target.exists() and not overwrite:
        raise UsageError(f"--output {target}: exists; name another place, or replace it with --overwrite")
    if target.is_dir() and not _is_export(target):
        raise UsageError(f"--output {target}: is a folder that `el4ner export` did not write; name another place")
    with replaced(target, "--output") as made:
        yield made
