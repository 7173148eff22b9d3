"""Surfaces to spans: exact offsets, every mention, never inside a word or a user-perceived character."""

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from el4ner_ray.core.alignment import align, locate
from el4ner_ray.schema import Span

FAMILY = "👩\u200d👩\u200d👧"

CASES = [
    # sentence, surface, the texts found
    ("The bus to the US, not us.", "US", ["US"]),
    ("Paris, Paris and Parisian", "Paris", ["Paris", "Paris"]),
    ("New York New York", "New York", ["New York", "New York"]),
    ("ha ha ha", "ha ha", ["ha ha"]),
    ("EU's rules", "EU", ["EU"]),
    ("an un-American act", "American", ["American"]),
    ("snake_case", "case", []),
    ("R2D2", "R2", []),
    ("You ' ll hear Rock ' n ' Roll", "Rock 'n' Roll", ["Rock ' n ' Roll"]),
    ("New\r\nYork", "New York", ["New\r\nYork"]),
    ("New  \tYork", "New York", ["New  \tYork"]),
    ("new york", "New York", ["new york"]),
    ("the “Big Apple”", '"Big Apple"', ["“Big Apple”"]),
    ("Saint‑Denis", "Saint-Denis", ["Saint‑Denis"]),
    ("Cafe\u0301 de Flore", "Café de Flore", ["Cafe\u0301 de Flore"]),
    ("Café de Flore", "Cafe\u0301 de Flore", ["Café de Flore"]),
    ("Cafe\u0301", "Cafe", ["Cafe\u0301"]),
    ("İstanbul", "istanbul", ["İstanbul"]),
    ("مُحَمَّد هنا", "محمد", ["مُحَمَّد"]),
    ("José met Ana", "Jose", ["José"]),
    ("Jose\u0301 met Ana", "Jose", ["Jose\u0301"]),
    ("❤\ufe0f Ana", "❤", ["❤\ufe0f"]),
    ("दिल्ली में", "दल", []),
    ("रामू गया", "राम", []),
    ("रामू गया", "रामू", ["रामू"]),
    ("रामूगया", "रामू", []),
    ("रामूगया", "गया", []),
    ("कीर्तिगया रामू", "कीर्ति", []),
    ("தமிழ்நாடு", "தமிழ்", []),
    ("स्\u200dवर", "स", []),
    ("Straße", "STRASSE", ["Straße"]),
    ("Straße", "s", []),
    (f"{FAMILY} met Ana", "👩", []),
    (f"{FAMILY} met Ana", FAMILY, [FAMILY]),
    ("👍🏽 Ana", "👍", ["👍🏽"]),
    ("他在北京大学工作", "北京", ["北京"]),
    ("東京タワーへ", "東京", ["東京"]),
    ("서울에서 만나요", "서울", ["서울"]),
    ("서울에서 만나요", "서우", []),
    ("박진은 왔다", "박지", []),
    ("박진은 왔다", "박진", ["박진"]),
    ("\u1112\u1161\u11ab국에서", "하", []),
    ("\u1112\u1161\u11ab국에서", "한국", ["\u1112\u1161\u11ab국"]),
    ("パリにいる", "バリ", []),
    ("パリにいる", "ハリ", []),
    ("ハ\u309aリにいる", "パリ", ["ハ\u309aリ"]),
    ("スカ\u3099さん", "スカ", []),
    ("スカ\u3099さん", "スガ", ["スカ\u3099"]),
    ("ﾊﾟﾘにいる", "パリ", ["ﾊﾟﾘ"]),
    ("ｶﾞーナ", "カ", []),
    ("ทำงาน", "ท", []),
    ("ที่นี่", "ที", []),
    ("ทำงาน", "ทำ", ["ทำ"]),
    ("🇩🇪🇺🇸", "🇪🇺", []),
    ("🇩🇪🇺🇸", "🇺🇸", ["🇺🇸"]),
    ("ﬁre", "f", []),
    ("זה בתל אביב.", "תל אביב", []),
    ("זה תל אביב.", "תל אביב", ["תל אביב"]),
    ("في القاهرة اليوم", "القاهرة", ["القاهرة"]),
    ("በአዲስ አበባ", "አዲስ አበባ", []),
    ("ze\u200bro Zero", "zero", ["ze\u200bro", "Zero"]),
    ("The b\u00adus stopped", "US", []),
    ("The b\u00adus stopped", "bus", ["b\u00adus"]),
    ("Ger\u00admany won", "many", []),
    ("us\u00adage rules", "US", []),
    ("us\u2060\u200f\u0301age rules", "US", []),
    ("خانه\u200cها", "ها", []),
    ("\u00adUS\u00ad, \u2066US\u2069", "US", ["US", "US"]),
    ("us\u200bage\u3164us", "US", ["us", "us"]),
    ("北\u2060京", "京", ["京"]),
    ("❤\ufe0fAna", "Ana", ["Ana"]),
    ("a|b Corp", "a|b Corp", ["a|b Corp"]),
    ("x\0y z", "x\0y", ["x\0y"]),
    ("anything", "", []),
    ("anything", "  ", []),
    ("", "x", []),
    ("𝒜na and Ana", "Ana", ["Ana"]),
]


@pytest.mark.parametrize(("sentence", "surface", "found"), CASES)
def test_locate(sentence: str, surface: str, found: list[str]) -> None:
    assert [sentence[span.start : span.end] for span in locate(sentence, surface)] == found


@pytest.mark.parametrize(
    ("sentence", "surface", "starts"),
    [("ha ha ha ha ha", "ha ha", [0, 6]), ("哈" * 7, "哈哈", [0, 2, 4]), ("A B A B A", "A B A", [0])],
)
def test_mentions_of_one_surface_do_not_overlap(sentence: str, surface: str, starts: list[int]) -> None:
    # In a sentence that repeats itself they would be as many as its characters.
    assert [span.start for span in locate(sentence, surface)] == starts


def test_align_reports_what_is_not_there_and_keeps_nested_mentions() -> None:
    sentence = "University of Oslo, Oslo"
    spans, missing = align(sentence, ["University of Oslo", "Oslo", "Bergen"])
    assert spans == [Span(0, 18), Span(14, 18), Span(20, 24)]
    assert missing == ["Bergen"]


def test_a_list_in_one_surface_is_taken_apart_only_where_the_whole_is_not_there() -> None:
    sentence = "Ana, Paris and Rome, Italy"
    assert align(sentence, ["Rome, Italy"]) == ([Span(15, 26)], [])
    assert align(sentence, ["Rome, Paris, Oslo"]) == ([Span(5, 10), Span(15, 19)], [])


def test_a_number_before_a_surface_is_its_own_where_it_stands_in_the_sentence() -> None:
    sentence = "Am 3. Oktober spielte der 1. FC Köln in Bonn"
    assert align(sentence, ["3. Oktober", "1. FC Köln"]) == ([Span(3, 13), Span(26, 36)], [])
    assert align(sentence, ["2. Bonn"]) == ([Span(40, 44)], [])
    assert align(sentence, ["4. Bonn, FC Köln"]) == ([Span(29, 36), Span(40, 44)], [])
    assert align(sentence, ["1. " * 5000 + "Bonn"])[0] == []


_WORDS = st.text(st.sampled_from("aबé रामू ि्ىَ7_"), max_size=20)
# Letters, marks and digits of scripts with spaces between words.
_INSIDE_A_WORD = regex.compile(r"[[\p{Latin}\p{Devanagari}\p{Arabic}]&&[\p{L}\p{M}\p{N}]]{2}", regex.V1)
_LETTERS = st.text(
    st.sampled_from("aé e\u0301🇩🇪🇺👩\u200d👍🏽한하\u1112\u1161\u11ab\u11a8パハ\u309aﾊﾟทำ\r\n"), max_size=30
)


@st.composite
def _sentence_and_surface(draw: st.DrawFn) -> tuple[str, str]:
    """A text and a piece of it, which may begin and end anywhere; now and then another text."""
    sentence = draw(st.text(max_size=60) | _LETTERS | _WORDS)
    if draw(st.integers(0, 3)) == 0:
        return sentence, draw(st.text(max_size=8) | _LETTERS)
    start = draw(st.integers(0, len(sentence)))
    return sentence, sentence[start : draw(st.integers(start, len(sentence)))]


@settings(max_examples=300)
@given(_sentence_and_surface())
def test_spans_are_within_the_text_and_cut_neither_character_nor_word(pair: tuple[str, str]) -> None:
    sentence, surface = pair
    ends = {0, *(match.end() for match in regex.finditer(r"\X", sentence))}
    for span in locate(sentence, surface):
        assert 0 <= span.start < span.end <= len(sentence)
        for place in (span.start, span.end):
            # A line feed after a carriage return is one character to Unicode, and white space to everybody else.
            assert place in ends or sentence[place - 1 : place + 1] == "\r\n"
            assert not _INSIDE_A_WORD.fullmatch(sentence[max(place - 1, 0) : place + 1])


@given(st.text(alphabet="ab é", min_size=1, max_size=30), st.integers(0, 30), st.integers(1, 10))
def test_a_whole_word_copied_from_the_sentence_is_found_there(sentence: str, start: int, length: int) -> None:
    words = [match.span() for match in regex.finditer(r"\w+", sentence)]
    for begin, end in words:
        assert Span(begin, end) in locate(sentence, sentence[begin:end])
