"""Sentences of any text: they cover it, and no text ends the run."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from el4ner_ray import sentences
from el4ner_ray.schema import Span
from el4ner_ray.sentences import sentence_spans

# sentencex 1.0.32 slices bytes before a full stop, and panics where a character has several there.
PANICS = ("J.A\xa0. He left.", "In the U.S\u2028.", "\x851 '\r1 \x00)😀\x00\r[.A\u2028.[😀!.'")


@pytest.mark.parametrize("text", PANICS)
def test_what_the_segmenter_gives_up_on_is_cut_with_plain_spaces(text: str) -> None:
    assert sentences._by_sentencex("en", text) is None
    pieces = [text[span.start : span.end] for span in sentence_spans("en", text)]
    assert "".join(pieces) == text
    if text.endswith("left."):
        assert pieces == ["J.A\xa0. ", "He left."]


def test_lines_stand_for_sentences_where_nothing_else_does(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sentences, "_by_sentencex", lambda *_: None)
    assert sentence_spans("en", "One. Two.\r\n\r\nThree.") == [Span(0, 11), Span(11, 13), Span(13, 19)]
    assert sentence_spans("en", "") == []
    (said, _) = caplog.messages
    assert "Three" not in said


@settings(max_examples=300)
@given(
    st.sampled_from(("en", "de", "fr", "ru", "zh", "ar", "xx")),
    st.text() | st.text(st.sampled_from("AbÉ.!?\xa0\u2028\u3000 \r\n[('’”😀王")),
)
def test_the_sentences_cover_any_text(language: str, text: str) -> None:
    spans = sentence_spans(language, text)
    assert "".join(text[span.start : span.end] for span in spans) == text
