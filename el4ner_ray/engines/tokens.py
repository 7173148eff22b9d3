"""Prompts as token ids, of which only what was not encoded before is encoded.

The questions about a sentence share all but their last lines, and sentences share demonstrations: encoding each prompt
whole takes longer than the rest of a request. So a prompt is cut into pieces whose ids, put together, are those of the
whole, and the ids of pieces are kept. A cut is made only where it provably changes nothing, whatever stands around it;
`cutting` says where, and a tokenizer without such places encodes every prompt whole.

What Hugging Face's tokenizers do, which the proofs rest on: the text is searched for added tokens that are not
`normalized`, from the left, the longest of those that begin at the same place; what lies between them is normalised,
searched for the others, and cut into words, each piece apart; and a word's tokens depend on the word alone.
"""

from __future__ import annotations

import json
import logging
import re
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jinja2

from el4ner_ray.config import ModelConfig
from el4ner_ray.core.prompting import messages, running_text
from el4ner_ray.errors import FatalError

logger = logging.getLogger(__name__)

Cut = Callable[[str], list[str]]
"""A prompt's text in pieces that can be encoded apart."""

# Of each of two generations: some 15 MB for English in both together, 70 MB where a character is three tokens.
_KEPT_CHARACTERS = 2_000_000

# How words are found by the tokenizers of GPT-2 (and SmolLM), Qwen 2 and Llama 3. In all of them a line break between a
# visible character and a letter ends a word, and the letter begins one.
_GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_WORDS = frozenset(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
    + digits
    + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    for digits in (r"\p{N}", r"\p{N}{1,3}")
)
# Where what a plain tokenizer does is defined; vLLM's only hands calls on to copies.
_PLAIN = ("transformers.tokenization_utils_base", "transformers.tokenization_utils_tokenizers", "vllm.tokenizers.hf")
_WAYS_TO_ENCODE = ("__call__", "encode", "_encode_plus", "apply_chat_template")
# Visible in every version of Unicode: printable ASCII, and what Python counts as letters and numbers.
_NEXT_LINE = re.compile(r"[!-~\w]\n(?=[A-Za-z])")
_SPANS_LINES = re.compile(r"\n\w")
_BLANK_LINE = "\n\n"

_SAMPLES: tuple[tuple[str, ...], ...] = (
    ("Types:\n- person\n\nSentence: Ana met Bo.\nEntities:", "Ana | Bo", "Type of Ana:", "person", "Type of Bo:"),
    ("Sentence: 王小明在 Zürich 😂 .\nEntities:", "none", "\nSentence:  1,000  names \nEntities:", "", "Type of é:"),
    ("<s><|im_start|> <bos>\n\n\n<eos> ", "-  \n", "\n\n x", "[INST]<|im_end|>\n", " ."),
)


class PromptEncoder:
    """The token ids of a model's prompts, made by its chat template or from the running text. For one thread."""

    def __init__(self, model: ModelConfig, tokenizer: Any) -> None:
        """`tokenizer` as vLLM has it. Raises FatalError where the model's chat template takes no conversations."""
        self._model, self._tokenizer = model, tokenizer
        self._template = {"add_generation_prompt": True, **model.chat_template_kwargs}
        self._pieces = _Pieces(lambda text: tokenizer.encode(text, add_special_tokens=False))
        self._head: list[int] = []
        self._cut: Cut | None = None
        if not is_plain(tokenizer):
            logger.info("model %s: its tokenizer has ways of its own; prompts are encoded whole", model.name)
            return
        if not model.chat_template:
            self._head = added_before(tokenizer) or []
        try:
            self._cut = self._checked()
        except (ValueError, jinja2.TemplateError) as error:
            raise FatalError(
                f"model {model.name}: its tokenizer takes no conversations: {' '.join(str(error).split())}; give a "
                "model with a chat template for questions and answers in turn, or `chat_template: false`"
            ) from error
        if model.chat_template:
            self._tell_of_dates()

    def ids(self, turns: Sequence[str]) -> list[int]:
        """The token ids of a prompt; those of `whole`, always."""
        return self._pieced(turns, self._cut) if self._cut else self.whole(turns)

    def whole(self, turns: Sequence[str]) -> list[int]:
        """The token ids of a prompt, encoded from its first character to its last."""
        if not self._model.chat_template:
            return list(self._tokenizer.encode(running_text(turns)))
        template = self._tokenizer.apply_chat_template
        return list(template(messages(turns), tokenize=True, return_dict=False, **self._template))

    def _pieced(self, turns: Sequence[str], cut: Cut) -> list[int]:
        ids = self._head.copy()
        for piece in cut(self._text(turns)):
            ids.extend(self._pieces[piece])
        return ids

    def _text(self, turns: Sequence[str]) -> str:
        if not self._model.chat_template:
            return running_text(turns)
        return str(self._tokenizer.apply_chat_template(messages(turns), tokenize=False, **self._template))

    def _tell_of_dates(self) -> None:
        template = self._tokenizer.get_chat_template()
        if "strftime_now" in template and "date_string" not in self._model.chat_template_kwargs:
            logger.warning(
                "model %s: its chat template writes the date of the day into prompts, so that a run that is resumed on "
                'another day asks otherwise; give it one, as in `chat_template_kwargs: {date_string: "26 Jul 2024"}`',
                self._model.name,
            )

    def _checked(self) -> Cut | None:
        """Where prompts are cut; None where that is nowhere, or would be wrong."""
        cut = cutting(self._tokenizer, self._text(_SAMPLES[0]), self._model.chat_template)
        if cut is None:
            logger.info("model %s: no place where its prompts can be cut; each is encoded whole", self._model.name)
        elif any(self._pieced(turns, cut) != self.whole(turns) for turns in _SAMPLES):
            logger.warning(
                "model %s: its tokenizer encodes prompts otherwise than in pieces; each is encoded whole, which takes "
                "a core about a millisecond a question",
                self._model.name,
            )
            cut = None
        return cut


class _Pieces:
    """The ids of pieces of text. Those not asked for while `_KEPT_CHARACTERS` were new are forgotten."""

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        self._encode = encode
        self._new: dict[str, array[int]] = {}
        self._old: dict[str, array[int]] = {}
        self._characters = 0

    def __getitem__(self, piece: str) -> array[int]:
        ids = self._new.get(piece)
        if ids is None:
            ids = self._old.get(piece)
            if ids is None:
                ids = array("i", self._encode(piece))  # 4 bytes a token, 36 in a list
            self._new[piece] = ids
            self._characters += len(piece)
            if self._characters > _KEPT_CHARACTERS:
                self._old, self._new, self._characters = self._new, {}, 0
        return ids


def is_plain(tokenizer: Any) -> bool:
    """Whether it is one of Hugging Face's fast tokenizers, none of whose ways to encode is overridden."""
    ways = (getattr(type(tokenizer), name, None) for name in _WAYS_TO_ENCODE)
    return hasattr(tokenizer, "backend_tokenizer") and all(getattr(way, "__module__", "") in _PLAIN for way in ways)


def cutting(tokenizer: Any, sample: str, chat_template: bool) -> Cut | None:
    """Where a plain tokenizer's prompts can be cut without changing their ids; None: nowhere.

    In prompts of a chat template before a special token that begins or ends turns. In running text at the beginnings of
    lines, where words end there whatever follows; else before blank lines, where these are a token of their own (Gemma,
    which does not cut text into words). `sample` is the text of such a prompt, of several turns.
    """
    added = list(tokenizer.added_tokens_decoder.values())
    # Whether a token stands alone depends on what is on the other side of a cut. The others make no fixed ids.
    if any(token.single_word for token in added) or tokenizer.split_special_tokens or _drops_merges(tokenizer):
        return None
    if chat_template:
        return _before_tokens(added, sample)
    if added_before(tokenizer) is None:
        return None
    return _at_lines(tokenizer, added) or _at_blank_lines(added)


def added_before(tokenizer: Any) -> list[int] | None:
    """The ids that a tokenizer puts before any text; None where it puts some behind it, too."""
    bare, full = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
    count = tokenizer.num_special_tokens_to_add(pair=False)
    return list(full[:count]) if full[count:] == bare else None


def _drops_merges(tokenizer: Any) -> bool:
    return bool(getattr(tokenizer.backend_tokenizer.model, "dropout", None))


def _before_tokens(added: Sequence[Any], sample: str) -> Cut | None:
    """Cuts before the special token that is most frequent in the sample.

    Nothing that begins before it can end behind its first character (`_stands_apart`), so that it is found there in the
    whole text and at the beginning of a piece. What is before it is a piece of its own either way.
    """
    contents = [token.content for token in added]
    for token in sorted(added, key=lambda token: (-sample.count(token.content), sample.find(token.content))):
        content = token.content
        if sample.count(content) < 2:  # it keeps no turns apart
            return None
        if not token.normalized and content.strip() == content and _stands_apart(content, contents):
            return _after_visible(content) if token.lstrip else _always(content)
    return None


def _stands_apart(token: str, others: Iterable[str]) -> bool:
    """Whether no other token, nor a second one of its own, can overlap it but for those that it begins with."""
    return not any(_overlaps(token, other, at) for other in others for at in range(other == token, len(other)))


def _overlaps(token: str, other: str, at: int) -> bool:
    """Whether the other token can stand so that the token begins at its character `at`, and not end before it does."""
    rest = other[at:]
    return rest.startswith(token) or (at > 0 and token.startswith(rest))


def _always(token: str) -> Cut:
    def cut(text: str) -> list[str]:
        first, *others = text.split(token)
        pieces = [token + other for other in others]
        return [first, *pieces] if first else pieces

    return cut


def _after_visible(token: str) -> Cut:
    """For a token that takes the white space before it as its own: cuts where there is none."""

    def cut(text: str) -> list[str]:
        first, *others = text.split(token)
        pieces = [first]
        for other in others:
            # Python's white space includes Rust's. An empty piece is the beginning of the text.
            if pieces[-1][-1:].isspace():
                pieces[-1] += token + other
            else:
                pieces.append(token + other)
        return pieces if first else pieces[1:]

    return cut


def _at_lines(tokenizer: Any, added: Sequence[Any]) -> Cut | None:
    """Cuts at the beginnings of lines that begin with a letter, where the line before ends visibly."""
    if not _ends_words_at_lines(tokenizer.backend_tokenizer):
        return None
    if any(_SPANS_LINES.search(token.content) or (token.lstrip and token.content[:1].isalpha()) for token in added):
        return None

    def cut(text: str) -> list[str]:
        ends = [match.end() for match in _NEXT_LINE.finditer(text)]
        return [text[start:end] for start, end in zip([0, *ends], [*ends, None], strict=True)]

    return cut


def _ends_words_at_lines(backend: Any) -> bool:
    normalizer, words = _state(backend.normalizer), _state(backend.pre_tokenizer)
    # NFC joins no letter of ASCII with what stands before it.
    if normalizer is not None and normalizer != {"type": "NFC"}:
        return False
    if words is None or words["type"] != "Sequence":
        return words is not None and words.items() >= _GPT2.items()
    match words["pretokenizers"]:
        case [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ]:
            return pattern in _WORDS
    return False


def _state(component: Any) -> dict[str, Any] | None:
    """How a part of a tokenizer is set up, as in `tokenizer.json`."""
    state: dict[str, Any] | None = json.loads(component.__getstate__()) if component is not None else None
    return state


def _at_blank_lines(added: Sequence[Any]) -> Cut | None:
    """Cuts before blank lines where two line breaks are a token, and one that overlaps it needs a third beside them."""
    tokens = [token for token in added if token.content == _BLANK_LINE]
    if not tokens or any(token.normalized or token.lstrip for token in tokens) or any(t.rstrip for t in added):
        return None
    for other in (token.content for token in added):
        for at in range(other == _BLANK_LINE, len(other)):
            third = other[at - 1] if at else other[2:3]
            if _overlaps(_BLANK_LINE, other, at) and third != "\n":
                return None
    cut = _always(_BLANK_LINE)
    return lambda text: [text] if "\n\n\n" in text else cut(text)
