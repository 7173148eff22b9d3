"""Prompts: one shared prefix a sentence, and the questions that continue it.

Layout (one prefix, several questions), from the most to the least shared:

    instructions and label descriptions          one text a job
    demonstrations, the most similar one last    shared by sentences with the same neighbours
    the sentence                                 shared by extraction, classification and verification
    the question

A prompt is a sequence of turns (question, answer, question, …). A demonstration is the very conversation that would
annotate its sentence, so that a model sees what is asked of it in the form in which it is asked. Later stages ask
further turns of the conversation that extraction opened, so a model computes what stands before them once. The wording
is in `el4ner_ray/prompts/VERSION/`.
"""

from __future__ import annotations

import hashlib
import itertools
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

import jinja2
import regex
from jinja2 import nodes

LABEL_RULE = (
    "must be a single line without '|', '=', control characters, what models take for their own tokens (`<eos>`, "
    "`[INST]`) or surrounding white space"
)
"""What messages say of a name that `is_label` refuses."""

SEPARATOR = " | "
NO_ENTITY = "none"
TRUE, FALSE = "true", "false"

_TEMPLATES = ("instructions", "pre_extract", "extract", "classify", "verify")
_BLANK_LINE = "\n"


@dataclass(frozen=True)
class LabelledSentence:
    """A demonstration's content: the sentence and its (surface, type) pairs in the order of the text."""

    text: str
    entities: tuple[tuple[str, str], ...]


def one_line(text: str) -> str:
    """How a document's text is shown in a prompt: on one line, without what the prompt's own format uses.

    Every code point is replaced by exactly one code point, so offsets into the result are offsets into `text`. Line
    breaks, tabs and other controls become a space, the list separator becomes a broken bar, unassigned and surrogate
    code points become U+FFFD. What looks like a control token of some model (`<eos>`, `[INST]`) gets another bracket:
    tokenizers turn such text into the real token.
    """
    # Nearly every text, and a sentence has a dozen to show: 0.1 instead of 0.9 microseconds for a name.
    if text.isprintable() and "|" not in text and "<" not in text and "[" not in text:
        return text
    shown: str = _CONTROL_TOKEN.sub(lambda match: "‹" if match[0] == "<" else "⟦", text.translate(_SHOWN))
    return shown


def is_label(name: str) -> bool:
    """Whether a type's name stands in prompts as it is, on one line, and can be told apart in an answer."""
    return bool(name) and name == name.strip() == one_line(name) and "=" not in name


class _Shown(dict[int, int]):
    """Lazy table for str.translate: what each code point looks like in a prompt."""

    def __missing__(self, code: int) -> int:
        character = chr(code)
        category = unicodedata.category(character)
        if character == "|":
            shown = ord("¦")
        elif category in ("Cc", "Zl", "Zp"):
            shown = ord(" ")
        elif category in ("Cs", "Cn"):
            shown = 0xFFFD
        else:
            shown = code
        self[code] = shown
        return shown


_SHOWN = _Shown()
_CONTROL_TOKEN = regex.compile(r"<(?=[/\p{L}_¦｜])|\[(?=/?[\p{L}_]+\])")


def running_text(turns: Sequence[str]) -> str:
    """Turns as one continuous text, for models that are asked without a chat template.

    An answer follows its question after a space and ends with a line break, so that the tokens of the turns so far do
    not change when a turn is added.
    """
    # Slices: a prompt has some thirty turns and is joined a dozen times a sentence, in 1 instead of 4 microseconds.
    pieces = ["\n"] * (2 * len(turns) - 1)
    pieces[::2] = turns
    pieces[1::4] = [" "] * (len(turns) // 2)
    return "".join(pieces)


def messages(turns: Sequence[str]) -> list[dict[str, str]]:
    """Turns as what a chat template takes: user and assistant alternate, the user begins.

    The blank lines between sentences are for running text only.
    """
    roles = itertools.cycle(("user", "assistant"))
    return [{"role": role, "content": turn.strip("\n")} for role, turn in zip(roles, turns, strict=False)]


def _renderer(environment: jinja2.Environment, source: str) -> Callable[..., str]:
    """What renders a template with the variables that it is called with.

    A sentence takes ten renderings, and Jinja sets up a context for each: a fifth of what all stages together took (364
    instead of 289 ms for 1,000 sentences of scripted answers). So a template of texts and variables alone is joined
    without one.
    """
    pieces = []
    for node in environment.parse(source).body:
        if not isinstance(node, nodes.Output):
            return environment.from_string(source).render
        for part in node.nodes:
            if not isinstance(part, nodes.TemplateData | nodes.Name):
                return environment.from_string(source).render
            pieces.append((part.data, None) if isinstance(part, nodes.TemplateData) else ("", part.name))

    def joined(**variables: str) -> str:
        try:
            return "".join([text if name is None else variables[name] for text, name in pieces])
        except KeyError as name:
            raise jinja2.UndefinedError(f"{name} is undefined") from None

    return joined


class Prompts:
    """Renders the packaged templates of one version for one label set. Safe to share between tasks."""

    def __init__(self, version: str, labels: Mapping[str, str]) -> None:
        """Load `prompts/VERSION`; raises FileNotFoundError when there is no such version."""
        folder = resources.files("el4ner_ray.prompts").joinpath(version)
        sources = {name: folder.joinpath(f"{name}.jinja").read_text("utf-8") for name in _TEMPLATES}
        # The output is a prompt, not HTML: nothing is escaped. Values never become template source.
        environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
        self._render = {name: _renderer(environment, source) for name, source in sources.items()}
        self._instructions = self._render["instructions"](
            labels=[{"name": name, "description": one_line(text)} for name, text in labels.items()], no_entity=NO_ENTITY
        )
        self._labels = list(labels)
        self.hash = hashlib.sha256("\0".join(sources[name] for name in _TEMPLATES).encode()).hexdigest()

    @property
    def prefix(self) -> str:
        """What all prompts of a job start with, but for zero-shot ones."""
        return self._instructions

    def demonstration(self, sentence: LabelledSentence) -> tuple[str, ...]:
        """The turns that annotate a labelled sentence: its question and entities, then each surface and its type."""
        types: dict[str, str] = {}
        for surface, type_ in sentence.entities:
            types.setdefault(one_line(surface), type_)
        typed = itertools.chain.from_iterable((self._render["classify"](surface=s), t) for s, t in types.items())
        return (self._question(sentence.text), SEPARATOR.join(types) or NO_ENTITY, *typed)

    def pre_extraction(self, sentence: str) -> tuple[str, ...]:
        """Ask for the names in a sentence without showing how (zero-shot); the answer is a list, one name a line."""
        return (self._render["pre_extract"](sentence=one_line(sentence), labels=self._labels),)

    def extraction(self, sentence: str, demonstrations: Sequence[Sequence[str]]) -> tuple[str, ...]:
        """Ask for the entities of a sentence, after the turns of the demonstrations."""
        first, *others = itertools.chain(*demonstrations, (self._question(sentence),))
        return (self._instructions + first.removeprefix(_BLANK_LINE), *others)

    def classification(self, extraction: Sequence[str], surfaces: Sequence[str], surface: str) -> tuple[str, ...]:
        """Continue an extraction: its answer is the union, now ask for the type of one of its surfaces."""
        question = self._render["classify"](surface=one_line(surface))
        return (*extraction, SEPARATOR.join(map(one_line, surfaces)), question)

    def verification(self, classification: Sequence[str], surface: str, label: str) -> tuple[str, ...]:
        """Continue a classification: its answer is the voted label, now ask whether that is true."""
        question = self._render["verify"](surface=one_line(surface), label=label)
        return (*classification, label, question)

    def _question(self, sentence: str) -> str:
        return _BLANK_LINE + self._render["extract"](sentence=one_line(sentence))
