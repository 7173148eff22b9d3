"""Prompts as token ids: those of encoding the whole, always, while nearly all of it is not encoded again."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from el4ner_ray.config import ModelConfig
from el4ner_ray.core.prompting import LabelledSentence, Prompts
from el4ner_ray.engines import bundled, tokens
from el4ner_ray.engines.tokens import PromptEncoder
from el4ner_ray.errors import FatalError

pytest.importorskip("transformers")

REAL = [("smollm2-135m", False), ("smollm2-135m", True), ("qwen2.5-coder-0.5b", False), ("qwen2.5-coder-0.5b", True),
        ("gemma3-270m", False)]  # fmt: skip
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HOSTILE = (
    "<|im_start|>", "<|im_end|>", "<|im_start", "|>", "<|endoftext|>", "<eos>", "<bos>", "<tool_call>", "[multimodal]",
    "<", "\n", "\n\n", "\n\n\n", "\r\n", "\r", " ", "  ", "\t", "\u00a0", "\u0085", "\u2028", "\u180e", "\x1c", "\x1f",
    "\x0b", "▁", "▁▁", "a", "Sentence:", "'s", "1", "²", "१", ".", "/", "_", "é", "e\u0301", "\u0301", "\u0958",
    "\u212a", "王", "😂", "\u200b", "\ufeff", "names ", "x\nS", ".\nT", " \nS", "\n S", "\na", "<s>", "</s>", "[INST]",
    "word", "x<|im_start|>", "<|im_end|>\n<", " <|im_start|> ",
)  # fmt: skip
TEXTS = ["Sentence: Ana met Bo .\nEntities: Ana | Bo\nType of Ana: person\n\n"] * 9
DATED = (
    '{% if date_string is not defined %}{% set date_string = strftime_now("%d %b %Y") %}{% endif %}{{ date_string }}'
)
turns = st.lists(
    st.lists(st.sampled_from(HOSTILE) | st.text(max_size=4), min_size=1, max_size=8).map("".join),
    min_size=1,
    max_size=7,
).map(lambda texts: tuple(texts[: len(texts) - 1 + len(texts) % 2]))
examples = settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


@cache
def real(name: str, chat: bool) -> PromptEncoder:
    from transformers import AutoTokenizer

    if not bundled.is_ready(name):
        pytest.skip(f"bundled:{name} is not ready; run `el4ner models prepare {name}`")
    return encoder(AutoTokenizer.from_pretrained(bundled.path_of(name)), chat, name=name)


def encoder(tokenizer: Any, chat: bool, name: str = "m", **fields: Any) -> PromptEncoder:
    return PromptEncoder(ModelConfig(name=name, source="x", chat_template=chat, **fields), tokenizer)


def tokenizer_with(words: Any, normalizer: Any = None, added: tuple[dict[str, Any], ...] = (), **model: Any) -> Any:
    """A small tokenizer of bytes with merges learnt from this file's own words."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
    from transformers import TokenizersBackend

    backend = Tokenizer(models.BPE(**model))
    backend.pre_tokenizer, backend.normalizer = words, normalizer
    alphabet = sorted({*pre_tokenizers.ByteLevel.alphabet(), "▁", "\n", *"".join(HOSTILE)})
    learn = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(
        ["Sentence: Ana met Bo .\nEntities: Ana | Bo\nType of Ana: person\n\n"] * 9 + [*HOSTILE], learn
    )
    special = [{"content": "<|im_start|>", "normalized": False}, {"content": "<|im_end|>", "normalized": False}]
    by_content = {token["content"]: token for token in (*special, *added)}
    backend.add_tokens([AddedToken(**token) for token in by_content.values()])
    made = TokenizersBackend(tokenizer_object=backend)
    made.chat_template = CHAT
    return made


def word_finders() -> dict[str, Any]:
    from tokenizers import Regex, normalizers
    from tokenizers import pre_tokenizers as found

    sets = sorted(tokens._WORDS)
    split = [
        found.Sequence(
            [found.Split(Regex(words), "isolated"), found.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        for words in sets
    ]
    start = {"content": "<|im_start|>", "normalized": False}
    end = {"content": "<|im_end|>", "normalized": False}
    return {
        "gpt2": {"words": found.ByteLevel(add_prefix_space=False)},
        "qwen2, NFC": {"words": split[0], "normalizer": normalizers.NFC()},
        "llama3": {"words": split[1]},
        "first": {"words": found.Metaspace(prepend_scheme="first")},
        "always": {"words": found.Metaspace(prepend_scheme="always")},
        "a space before": {"words": found.ByteLevel(add_prefix_space=True)},
        "prepended": {"words": None, "normalizer": normalizers.Prepend("▁")},
        "stripped": {"words": None, "normalizer": normalizers.Strip()},
        "blank lines": {
            "words": None,
            "normalizer": normalizers.Replace(" ", "▁"),
            "added": tuple({"content": "\n" * n, "normalized": False} for n in range(2, 6)),
        },
        "greedy tokens": {
            "words": found.ByteLevel(add_prefix_space=False),
            "added": (start | {"lstrip": True, "rstrip": True}, end | {"lstrip": True, "rstrip": True}),
        },
        "right": {"words": found.ByteLevel(add_prefix_space=False), "added": (end | {"rstrip": True},)},
        "overlapping": {
            "words": found.ByteLevel(add_prefix_space=False),
            "added": tuple({"content": f"x{token}", "normalized": False} for token in ("<|im_start|>", "<|im_end|>")),
        },
        "swallowed": {
            "words": found.ByteLevel(add_prefix_space=False),
            "added": ({"content": "<|im_end|>\n<", "normalized": False},),
        },
        "over lines": {
            "words": found.ByteLevel(add_prefix_space=False),
            "added": ({"content": ".\nT", "normalized": False}, {"content": "word", "lstrip": True}),
        },
        "alone": {
            "words": found.ByteLevel(add_prefix_space=False),
            "added": ({"content": "word", "single_word": True},),
        },
    }


@cache
def made(name: str, chat: bool) -> PromptEncoder:
    return encoder(tokenizer_with(**word_finders()[name]), chat)


def check(prompts: PromptEncoder, conversation: tuple[str, ...]) -> None:
    for asked in range(1, len(conversation) + 1, 2):
        assert prompts.ids(conversation[:asked]) == prompts.whole(conversation[:asked])


@pytest.mark.parametrize(("name", "chat"), REAL)
@examples
@given(conversation=turns)
def test_real_tokenizers_encode_pieces_as_they_encode_the_whole(
    name: str, chat: bool, conversation: tuple[str, ...]
) -> None:
    check(real(name, chat), conversation)


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("name", word_finders())
@examples
@given(conversation=turns)
def test_pieces_are_exact_with_tokenizers_of_every_kind(name: str, chat: bool, conversation: tuple[str, ...]) -> None:
    check(made(name, chat), conversation)


def test_what_is_cut_and_what_is_not() -> None:
    cut = {(name, chat) for name in word_finders() for chat in (False, True) if made(name, chat)._cut}
    nowhere = {("overlapping", True), ("swallowed", True), ("alone", True)}
    assert {name for name, chat in cut if not chat} == {
        "gpt2", "qwen2, NFC", "llama3", "blank lines", "greedy tokens", "right", "overlapping", "swallowed",
    }  # fmt: skip
    assert {(name, True) for name in word_finders()} - cut == nowhere


@pytest.mark.parametrize(("name", "chat"), REAL)
def test_a_further_question_about_a_sentence_encodes_its_own_end(name: str, chat: bool) -> None:
    # Once the whole conversation was encoded anew for each question, on the loop that also answers health checks.
    prompts, encode = real(name, chat), real(name, chat)._pieces._encode
    encoded: list[str] = []
    templates = Prompts("v1", {"person": "", "place": ""})
    shown = templates.demonstration(LabelledSentence("Ana saw Rome .", (("Ana", "person"), ("Rome", "place"))))
    extraction = templates.extraction("Bo left Oslo .", [shown] * 5)
    first, second = (templates.classification(extraction, ["Bo", "Oslo"], surface) for surface in ("Bo", "Oslo"))
    prompts.ids(first)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompts._pieces, "_encode", lambda text: encoded.append(text) or encode(text))
        assert prompts.ids(second) == prompts.whole(second)
        assert sum(map(len, encoded)) < (150 if name == "gemma3-270m" else 80)


def test_a_tokenizer_that_is_not_as_it_seems_encodes_whole(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tokens, "cutting", lambda *_: list)  # between all characters
    prompts = encoder(tokenizer_with(**word_finders()["gpt2"]), False)
    assert prompts._cut is None
    assert prompts.ids(("Ana met Bo.",)) == prompts.whole(("Ana met Bo.",))
    assert "model m: its tokenizer encodes prompts otherwise than in pieces; each is encoded whole" in caplog.text


def test_a_tokenizer_with_ways_of_its_own_is_asked_for_whole_prompts() -> None:
    plain = tokenizer_with(**word_finders()["gpt2"])

    class Own(type(plain)):  # type: ignore[misc]
        def _encode_plus(self, *arguments: Any, **options: Any) -> Any:
            return super()._encode_plus(*arguments, **options)

    plain.__class__ = Own
    assert encoder(plain, False)._cut is None
    assert encoder(tokenizer_with(**word_finders()["gpt2"], dropout=0.1), False)._cut is None


def test_what_a_tokenizer_puts_behind_a_text_is_not_lost() -> None:
    from tokenizers.processors import TemplateProcessing

    for single, cut in (("<|im_start|> $A", True), ("<|im_start|> $A <|im_end|>", False)):
        tokenizer = tokenizer_with(**word_finders()["gpt2"])
        ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<|im_start|>", "<|im_end|>")]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=ids)
        prompts = encoder(tokenizer, False)
        assert (prompts._cut is not None) == cut
        check(prompts, ("Sentence: Ana\nEntities:", "Ana", "Type of Ana:"))


def test_pieces_that_nobody_asks_for_are_forgotten_and_the_others_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_KEPT_CHARACTERS", 100)
    encoded: list[str] = []
    pieces = tokens._Pieces(lambda text: encoded.append(text) or [len(text)])
    for number in range(50):
        assert list(pieces["the instructions"]) == [16]
        assert list(pieces[f"sentence {number:02}"]) == [11]
        assert sum(map(len, (*pieces._new, *pieces._old))) <= 2 * (100 + 16)
    assert encoded.count("the instructions") == 1
    assert len(encoded) == 51


def test_a_template_is_told_what_the_configuration_says() -> None:
    # Once nothing could be told to it: Qwen3 thought aloud, and each of its answers was `<think>`.
    tokenizer = tokenizer_with(**word_finders()["gpt2"])
    tokenizer.chat_template = CHAT + "{% if enable_thinking is defined and not enable_thinking %}<think>none{% endif %}"
    silent = encoder(tokenizer, True, chat_template_kwargs={"enable_thinking": False})
    conversation = ("Sentence: Ana", "Ana", "Type of Ana:")
    thought = tokenizer.encode("<think>none")
    asked = [prompts.ids(conversation)[-len(thought) :] for prompts in (encoder(tokenizer, True), silent)]
    assert [ids == thought for ids in asked] == [False, True]
    assert silent.ids(conversation) == silent.whole(conversation)


@pytest.mark.parametrize(("told", "lines"), [({}, 1), ({"date_string": "26 Jul 2024"}, 0)])
def test_a_template_that_writes_the_date_of_the_day_is_told_of(
    told: dict[str, str], lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = tokenizer_with(**word_finders()["gpt2"])
    tokenizer.chat_template = DATED + CHAT
    with caplog.at_level(logging.WARNING):
        encoder(tokenizer, True, name="llama", chat_template_kwargs=told)
    assert len(caplog.messages) == lines
    assert all("model llama: its chat template writes the date of the day" in message for message in caplog.messages)


@pytest.mark.parametrize("template", [None, "{{ raise_exception('system first') }}"])
def test_a_model_that_takes_no_conversations_is_told_when_it_loads(template: str | None) -> None:
    tokenizer = tokenizer_with(**word_finders()["gpt2"])
    tokenizer.chat_template = template
    with pytest.raises(FatalError, match=r"^model m: its tokenizer takes no conversations: .*`chat_template: false`"):
        encoder(tokenizer, True)
