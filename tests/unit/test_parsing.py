"""Models' answers are hostile input."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from el4ner_ray.core.parsing import parse_choice, parse_extraction, parse_list, pieces, said_in_full

CASES = [
    # answer, finished, surfaces, whether there is a problem
    ("Ana | Paris", True, ("Ana", "Paris"), False),
    (" Ana|Paris |", True, ("Ana", "Paris"), False),
    ("Ana | Ana | Paris", True, ("Ana", "Paris"), False),
    ('"Ana" | `Paris` | “Rome”', True, ("Ana", "Paris", "Rome"), False),
    ('the "Big" one', True, ('the "Big" one',), False),
    ('"Anna" and "Bob"', True, ('"Anna" and "Bob"',), False),
    ("“Anna” and “Bob” | **Ana** und **Bo**", True, ("“Anna” and “Bob”", "**Ana** und **Bo**"), False),
    ('"Ana "Nita" Silva" | "O\'Hara\'s" | \'Ana\'s\'', True, ('Ana "Nita" Silva', "O'Hara's", "Ana's"), False),
    ('**“Ana”** | "**" | \'"Ana"\' | **A** | ""', True, ("Ana", "A"), False),
    ("1. none", True, (), False),
    ("none", True, (), False),
    ("None", True, (), False),
    ("None | none | NONE", True, (), False),
    ("none | Ana", True, ("Ana",), False),
    ("Ana | Paris | Ro", False, ("Ana", "Paris"), True),
    ("a very long name that never en", False, (), True),
    ("", True, (), True),
    ("   ", True, (), True),
    ("| | |", True, (), True),
    # What stands before the first line, and what a cut takes away, changes neither the names nor what is told.
    ("\n\n  Ana | Paris\nand more", True, ("Ana", "Paris"), False),
    ("none", False, (), True),
    ("none | no", False, (), True),
    ("‘Ana’ | «Paris» | ’Rome‘ | »Oslo« | ”Bo“", True, ("Ana", "Paris", "Rome", "Oslo", "Bo"), False),
    ("Ana\nSentence: x", True, ("Ana",), False),
    ("Sentence: Ana went", True, (), True),
    ("Entities: Ana | Paris", True, ("Ana", "Paris"), False),
    ("Entities:", True, (), True),
    ("Entities: none", True, (), False),
    ("Type of Ana: person", True, (), True),
    ("\ufffd\ufffd", True, ("\ufffd\ufffd",), False),
    (" | ".join(f"n{i}" for i in range(200)), True, tuple(f"n{i}" for i in range(64)), True),
]


@pytest.mark.parametrize(("answer", "finished", "surfaces", "problem"), CASES)
def test_parse_extraction(answer: str, finished: bool, surfaces: tuple[str, ...], problem: bool) -> None:
    parsed = parse_extraction(answer, finished)
    assert parsed.surfaces == surfaces
    assert bool(parsed.problem) == problem


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        # Stopped in "City of Leeds": a candidate "City" that no model had named.
        (
            "University of Leeds | City of Leeds | City of Leeds | City",
            "University of Leeds | City of Leeds | City of Leeds ",
        ),
        ("Ana\n- Paris\n- Paris\n- Pa", "Ana\n- Paris\n- Paris"),
        ("la la la la la", "la la la la la"),
        ("", ""),
    ],
)
def test_the_last_item_of_an_answer_that_repeats_itself_does_not_count(answer: str, said: str) -> None:
    assert said_in_full(answer) == said


@given(st.text(), st.booleans())
def test_any_answer_gives_clean_distinct_surfaces(answer: str, finished: bool) -> None:
    surfaces = parse_extraction(answer, finished).surfaces
    assert len(set(surfaces)) == len(surfaces) <= 64
    assert all(surface and surface.strip() == surface and "\n" not in surface for surface in surfaces)


@pytest.mark.parametrize(
    ("answer", "choice"),
    [("person", "person"), (" person ", "person"), ("Person", None), ("persons", None), ("", None), ("dragon", None)],
)
def test_a_label_outside_the_set_is_an_abstention(answer: str, choice: str | None) -> None:
    assert parse_choice(answer, ("person", "place")) == choice


@pytest.mark.parametrize(
    ("answer", "finished", "surfaces"),
    [
        ("Ana\n- Paris\n- Rome", True, ("Ana", "Paris", "Rome")),
        ("• Ana\n– Paris\n  •Rome\n–Oslo", True, ("Ana", "Paris", "Rome", "Oslo")),
        ("1. Ana\n2) Paris\n\n* Rome", True, ("Ana", "Paris", "Rome")),
        ("Ana\n- Ana\n- Ana\n- A", False, ("Ana",)),
        ("none", True, ()),
        ("- None\n- none", True, ()),
        ("2024\n- Saint-Denis", True, ("2024", "Saint-Denis")),
        ("", True, ()),
        ("-\n-\n-", True, ()),
        # The prompt ends in the first bullet: a number that follows may belong to the name.
        (" 3. Oktober 1990\n- 1. FC Köln", True, ("3. Oktober 1990", "1. FC Köln")),
        (" 1. FC Köln | 2. Bundesliga", True, ("1. FC Köln", "2. Bundesliga")),
        ("1. FC Köln\n- Bayern\n1. FC Nürnberg", True, ("1. FC Köln", "Bayern", "1. FC Nürnberg")),
        ("17. listopadu 1989\n18. listopadu", True, ("17. listopadu 1989", "18. listopadu")),
        ("3.10.1990\n1.5 million\n2.5 million", True, ("3.10.1990", "1.5 million", "2.5 million")),
        ("1. Anna\n2. Oslo", True, ("Anna", "Oslo")),
        ("1.Anna\n2.Oslo\n3.", True, ("Anna", "Oslo")),
        ("1. Anna\n2. Oslo\n1. Anna\n2. Oslo\n1. An", False, ("Anna", "Oslo")),
        ("Names:\n1) - Anna\n2) - Oslo", True, ("Names:", "Anna", "Oslo")),
        ("1. None", True, ()),
        ("**Ana**\n* **Paris**\n*Rome*\n*\n", True, ("Ana", "Paris", "Rome")),
    ],
)
def test_parse_list(answer: str, finished: bool, surfaces: tuple[str, ...]) -> None:
    assert parse_list(answer, finished).surfaces == surfaces


@pytest.mark.parametrize(
    ("answer", "finished", "problem"),
    [
        ("Ana\n- Paris", True, False),
        ("Ana\n- Paris\n- Pa", False, False),
        ("Ana\n- none\n- n", False, False),
        ("none\n- n", False, True),
        ("a very long name that never en", False, True),
        ("", True, True),
    ],
)
def test_a_list_that_was_cut_off_has_a_problem_where_no_name_is_left(
    answer: str, finished: bool, problem: bool
) -> None:
    assert bool(parse_list(answer, finished).problem) == problem


@pytest.mark.parametrize(
    ("surface", "found"),
    [
        ("Ana, Paris", ("Ana", "Paris")),
        ("person: Ana", ("person", "Ana")),
        ("王小明、北京", ("王小明", "北京")),
        ("Ana - Paris", ("Ana", "Paris")),
        *((f"Ana{separator}Bo", ("Ana", "Bo")) for separator in ",;:،、，；："),
        ("Saint-Denis", ()),
        ("1. Anna", ("Anna",)),
        ('1. "Anna"', ("Anna",)),
        ("2) Anna, Oslo", ("Anna, Oslo",)),
        ("3.10.1990", ()),
        ("1.", ()),
        (",", ()),
        ("", ()),
    ],
)
def test_pieces(surface: str, found: tuple[str, ...]) -> None:
    assert pieces(surface) == found


@given(st.lists(st.sampled_from([*"\"'`*“”«» ", "Ana", "Bo", "and"])).map("".join))
def test_quotes_in_any_order_are_taken_off_or_kept(answer: str) -> None:
    assert all(surface in answer for surface in parse_extraction(answer).surfaces)
