"""Finding what a model named in the text it was asked about: surfaces in, exact code-point spans out.

A model copies badly: it changes case, quotes, dashes and white space, and drops what it cannot see. A surface is
therefore looked for in three readings of the sentence, each looser than the one before, and the first that holds it
decides. A reading maps each of its characters back to the code point it stands for, so spans always refer to the
untouched text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache
from typing import NamedTuple

import regex

from el4ner_ray.core.graphemes import ends_of_graphemes
from el4ner_ray.core.parsing import pieces
from el4ner_ray.core.prompting import one_line
from el4ner_ray.schema import Span

# Scripts written without spaces between words, and Hangul, whose particles follow a name without one: a mention may
# begin or end anywhere between characters.
_UNSPACED = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]"
)
_JOINS_PREVIOUS = regex.compile("[\\p{M}\u200d\ufe00-\ufe0f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]")
# Left out when reading loosely: what cannot be seen, and marks that writers and models leave out (accents and Arabic
# vowels, which have the script Inherited). Vowel signs of Indic scripts are not among them, and the marks of Japanese
# voicing are letters to who reads: Bali is not Paris.
_IGNORED = r"[[\p{Cf}\p{Default_Ignorable_Code_Point}]||[[\p{M}&&\p{Script=Inherited}]--[\u3099\u309A]]]"
_IGNORABLE = regex.compile(_IGNORED, regex.V1)
# The next characters from a place that are read, to the right and to the left. What stands for a space is one of them:
# the zero width space, and those fillers of Hangul that show as a blank.
_FIRST_READ = regex.compile(rf"[^[{_IGNORED}--[\u200b\u3164\uffa0]]]", regex.V1)
_LAST_READ = regex.compile(_FIRST_READ.pattern, regex.V1 | regex.REVERSE)
_QUOTES = str.maketrans("‘’‚‛“”„‟«»`´′″", "''''" + '""""""' + "''" + "'" + '"')
_DASHES = regex.compile(r"\p{Dash}")
# A numbered item may be a list: "1. Anna, Oslo". Answers are hostile, and may nest without end.
_LEVELS = 2


# The models mostly name the same surfaces of a sentence, one after another.
@lru_cache(maxsize=256)
def locate(sentence: str, surface: str) -> tuple[Span, ...]:
    """The mentions of `surface` in `sentence`, as half-open code-point spans in the order of the text.

    They do not overlap each other: "ha ha" is in "ha ha ha ha" twice. None begins or ends inside a word or inside a
    user-perceived character. Empty when the sentence does not hold the surface in any reading.
    """
    for read in (_as_shown, _evened, _squeezed):
        wanted = read(surface).characters
        if not wanted:
            return ()
        reading = read(sentence)
        spans = {
            Span(reading.origins[at], _end_of_character(sentence, reading.origins[at + len(wanted) - 1] + 1))
            for at in _occurrences(reading.characters, wanted)
            if reading.is_between_origins(at) and reading.is_between_origins(at + len(wanted))
        }
        mentions: list[Span] = []
        for span in sorted(spans):
            if (not mentions or mentions[-1].end <= span.start) and _stands_alone(sentence, span):
                mentions.append(span)
        if mentions:
            return tuple(mentions)
    return ()


def align(sentence: str, surfaces: Iterable[str]) -> tuple[list[Span], list[str]]:
    """The distinct spans of all mentions of all surfaces, sorted, and the surfaces that are not in the sentence.

    A surface that is not there as a whole counts as a list of surfaces, or without its number, where it can.
    """
    spans: set[Span] = set()
    missing: list[str] = []
    for surface in surfaces:
        mentions = _mentions(sentence, surface, _LEVELS)
        spans.update(mentions)
        if not mentions:
            missing.append(surface)
    return sorted(spans), missing


def _mentions(sentence: str, surface: str, levels: int) -> tuple[Span, ...]:
    found = locate(sentence, surface)
    if found or not levels:
        return found
    return tuple(mention for piece in pieces(surface) for mention in _mentions(sentence, piece, levels - 1))


class _Reading(NamedTuple):
    """Characters, and for each the index of the code point that it stands for."""

    characters: str
    origins: Sequence[int]

    def is_between_origins(self, at: int) -> bool:
        """Whether what stands before `at` is of another code point than what follows: a syllable of Hangul is several
        letters here.
        """
        return at in (0, len(self.origins)) or self.origins[at - 1] != self.origins[at]


# All models' surfaces of a sentence are looked for one after another: reading it anew each time took half of the time
# of everything that is not a model.
@lru_cache(maxsize=256)
def _as_shown(text: str) -> _Reading:
    """Character by character as the prompt shows it, outer white space left out."""
    shown = one_line(text)
    start = len(shown) - len(shown.lstrip())
    stripped = shown.strip()
    return _Reading(stripped, range(start, start + len(stripped)))


@lru_cache(maxsize=256)
def _evened(text: str) -> _Reading:
    """Case, compatibility forms, quotes and dashes evened out, runs of white space as one space."""
    return _reading(_single_spaced(_folded(text)))


@lru_cache(maxsize=256)
def _squeezed(text: str) -> _Reading:
    """Evened out, and without any white space: tokenised text is often copied without its spaces."""
    return _reading((character, index) for character, index in _folded(text) if not character.isspace())


def _reading(pairs: Iterable[tuple[str, int]]) -> _Reading:
    characters, origins = [], []
    for character, origin in pairs:
        characters.append(character)
        origins.append(origin)
    return _Reading("".join(characters), origins)


def _single_spaced(pairs: Iterable[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    space: int | None = None
    started = False
    for character, index in pairs:
        if character.isspace():
            space = index if started else None
            continue
        if space is not None:
            yield " ", space
            space = None
        started = True
        yield character, index


def _folded(text: str) -> Iterator[tuple[str, int]]:
    # Folding may give several characters for one ("ß", "ﬁ") or none (zero-width ones); each keeps its origin.
    for index, character in enumerate(one_line(text)):
        for folded in _fold(character):
            yield folded, index


@cache
def _fold(character: str) -> str:
    if character.isspace():
        return " "
    if _IGNORABLE.match(character):
        return ""
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", character).casefold())
    return str(_IGNORABLE.sub("", _DASHES.sub("-", folded.translate(_QUOTES))))


def _occurrences(text: str, wanted: str) -> Iterator[int]:
    at = text.find(wanted)
    while at >= 0:
        yield at
        at = text.find(wanted, at + 1)


def _end_of_character(text: str, end: int) -> int:
    """Where the user-perceived character that `end` may stand in ends, skipping what a loose reading left out.

    A vowel sign or a mark of voicing is not skipped: with it, the text names something else than the model did.
    """
    while end < len(text) and _JOINS_PREVIOUS.match(text[end]) and not _is_letter(text[end]):
        end += 1
    return end


def _is_letter(mark: str) -> bool:
    """Whether what joins the character before is read as a letter."""
    return unicodedata.category(mark)[0] == "M" and not _IGNORABLE.match(mark)


def _stands_alone(text: str, span: Span) -> bool:
    return _boundary(text, span.start) and _boundary(text, span.end)


def _boundary(text: str, at: int) -> bool:
    """Whether a mention may begin or end between the characters before and at `at`."""
    if at in (0, len(text)):
        return True
    before, after = text[at - 1], text[at]
    if before.isascii() and after.isascii():
        return not (_in_spaced_word(before) and _in_spaced_word(after))
    if _JOINS_PREVIOUS.match(after) or before == "\u200d" or at not in _ends(text):
        return False
    # A soft hyphen or a joiner does not end the word that it stands in.
    last, first = _LAST_READ.search(text, 0, at), _FIRST_READ.search(text, at)
    return not (last and first and _in_spaced_word(last[0]) and _in_spaced_word(first[0]))


@lru_cache(maxsize=256)
def _ends(text: str) -> frozenset[int]:
    return ends_of_graphemes(text, 0, len(text))


@cache
def _in_spaced_word(character: str) -> bool:
    """Whether it is of a word, in a script that writes spaces between words."""
    return (character == "_" or unicodedata.category(character)[0] in "LNM") and not _UNSPACED.match(character)
