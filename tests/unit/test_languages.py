"""Texts that are not English: taggers by language, sentences, mentions, prompts and demonstrations."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import spacy

from el4ner_ray.config import load
from el4ner_ray.core.alignment import align
from el4ner_ray.core.prompting import LabelledSentence, Prompts, running_text
from el4ner_ray.core.similarity import PoolSpans, span_similarities
from el4ner_ray.errors import UsageError
from el4ner_ray.iso_639 import OF_TWO_LETTERS
from el4ner_ray.languages import has_rules, tagger_for
from el4ner_ray.parts import table_of_parts
from el4ner_ray.schema import SENTENCES, Span
from el4ner_ray.stages.segment import Segment
from el4ner_ray.text_models import Tagger

WEIGHTS = {"PROPN": 4.0, "NOUN": 2.0, "PRON": 1.0, "other": 0.0}

# Language, sentences (parted by what stands between them), surfaces as a model names them, and where the first lies.
TEXTS = [
    ("zh", ["王小明在北京大学工作。", "他喜欢上海！", "真的吗？"], "", ["王小明", "北京大学", "北京", "上海"], (0, 3)),
    ("zh", ["“王小明来了。”", "李雷走了。"], "", ["王小明", "李雷"], (1, 4)),
    ("ar", ["ذهبت آنا إلى القاهرة.", "ثم عادت؟", "نعم!"], " ", ["آنا", "القاهرة"], (5, 8)),
    ("am", ["አበበ በአዲስ አበባ ይኖራል።", "ከበደ ወደ ጎንደር ሄደ።", "ለምን፧"], " ", ["አበበ", "ጎንደር"], (0, 3)),
    ("de", ["Dr. Anna Groß wohnt z. B. in Köln.", "Am 3. Mai kam Prof. Müller."], " ", ["Anna Groß", "Köln"], (4, 13)),
]  # fmt: skip


def sentences(language: str, text: str) -> list[str]:
    table = table_of_parts(["d"], [0], [0], [text], [None], 0)
    [spans] = SENTENCES.decode(
        asyncio.run(Segment(load(profile="fake", overrides={"language": language})).annotate(table))
    )
    return [text[span.start : span.end] for span in spans]


@pytest.mark.parametrize(("language", "expected", "between", "surfaces", "first"), TEXTS)
def test_sentences_and_mentions(
    language: str, expected: list[str], between: str, surfaces: list[str], first: tuple[int, int]
) -> None:
    text = between.join(expected)
    assert sentences(language, text) == expected
    spans, missing = align(text, surfaces)
    assert not missing
    assert {text[span.start : span.end] for span in spans} == set(surfaces)
    assert spans[0] == Span(*first)


@pytest.mark.parametrize(
    ("sentence", "surface", "found"),
    [
        ("北京大学在北京。", "北京", [(0, 2), (5, 7)]),  # no spaces: anywhere
        ("王小明(Anna)来了", "Anna", [(4, 8)]),
        ("وصل مُحَمَّد أمس", "محمد", [(4, 12)]),  # vowels that the model left out
        ("وصل إلى القاهرة", "قاهرة", []),  # inside a word
        ("በአዲስ አበባ ይኖራል", "አዲስ አበባ", []),  # the preposition is part of the word
        ("አበበ፡በሶ፡በላ።", "አበበ", [(0, 3)]),  # the old word space
        ("Die Müllersche Straße", "Müller", []),
        ("In MÜNCHEN, Muenchen", "München", [(3, 10)]),
        ("In Mu\u0308nchen", "München", [(3, 11)]),
    ],
)
def test_where_mentions_may_begin_and_end(sentence: str, surface: str, found: list[tuple[int, int]]) -> None:
    assert align(sentence, [surface])[0] == [Span(*span) for span in found]


@pytest.mark.parametrize(("language", "expected", "between", "surfaces", "first"), TEXTS)
def test_prompts_show_text_and_demonstrations_as_they_are(
    language: str, expected: list[str], between: str, surfaces: list[str], first: tuple[int, int]
) -> None:
    prompts = Prompts("v1", {"ሰው": "人名", "ort": "Städte"})
    shown = prompts.demonstration(LabelledSentence(expected[0], ((surfaces[0], "ሰው"),)))
    asked = running_text(prompts.extraction(expected[1], [shown]))
    assert all(part in asked for part in (expected[0], expected[1], f"Type of {surfaces[0]}: ሰው", "人名"))


def test_retrieval_with_equal_weights() -> None:
    """Without a tagger all spans of a sentence count alike, and similarity is the mean of their best cosines."""
    [weights] = Tagger("none", WEIGHTS).weights(["王小明在北京。"], [[Span(0, 3), Span(4, 6)]])
    assert weights.tolist() == [1, 1]
    vectors = np.eye(2, dtype=np.float32)
    starts = np.array([0, 1, 3, 3])
    pool = PoolSpans.of(vectors, np.array([0, 0, 1]), starts)
    assert span_similarities([vectors], [weights], pool).tolist() == [[0.5, 1.0, -1.0]]


Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a spaCy pipeline as a package with the entry point that `spacy download` brings."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def pipeline(name: str, *, pos: str | None) -> None:
        package = tmp_path / name
        nlp = spacy.blank(name[:2])
        if pos:
            nlp.add_pipe("attribute_ruler").add([[{}]], {"POS": pos})  # every token
        package.mkdir()
        nlp.to_disk(package / name)
        names = ["tagger"] if pos else ["ner"]
        (package / "meta.json").write_text(json.dumps({"lang": name[:2], "pipeline": names}))
        code = "import spacy\nfrom pathlib import Path\n\n\ndef load(**options):\n"
        code += f"    return spacy.load(Path(__file__).parent / {name!r}, **options)\n"
        (package / "__init__.py").write_text(code)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[spacy_models]\n{name} = {name}\n")

    return pipeline


def test_taggers_by_language(install: Install) -> None:
    assert tagger_for("en") == "bundled:en_core_web_sm"
    assert tagger_for("am") == tagger_for("de") == "none"
    install("de_other_news_lg", pos="NOUN")
    install("de_core_news_sm", pos="PROPN")
    install("de_ner_only_sm", pos=None)
    install("ar_ner_only_sm", pos=None)
    assert tagger_for("de") == "de_core_news_sm"
    assert tagger_for("ar") == "none"
    install("xx_pos_all_sm", pos="NOUN")
    assert tagger_for("ar") == tagger_for("zh") == "xx_pos_all_sm"
    assert load(profile="fake", overrides={"language": "de"}).demonstrations.tagger == "de_core_news_sm"
    chosen = load(profile="paper", overrides={"language": "de", "demonstrations": {"tagger": "none"}})
    assert chosen.demonstrations.tagger == "none"


def test_the_chosen_tagger_weighs(install: Install) -> None:
    install("xx_pos_all_sm", pos="PROPN")
    text = "አበበ በአዲስ አበባ ይኖራል።"
    [weights] = Tagger("xx_pos_all_sm", WEIGHTS).weights([text], [[Span(0, 3), Span(4, 12)]])
    assert weights.tolist() == [4, 4]
    [weights] = Tagger("xx_pos_all_sm", WEIGHTS).weights(["王小明在北京。"], [[Span(4, 6)]])
    assert weights.tolist() == [4]


def test_a_pipeline_without_a_parser_is_told_once(install: Install, caplog: pytest.LogCaptureFixture) -> None:
    """SpaCy takes the first word of a span for its head then, and nobody knew."""
    install("xx_pos_all_sm", pos="PROPN")
    tagger = Tagger("xx_pos_all_sm", WEIGHTS)
    for _ in range(2):
        tagger.weights(["In der Stadt Köln."], [[Span(7, 17)]])
    assert [record.getMessage().split(";")[0] for record in caplog.records] == [
        "demonstrations.tagger: xx_pos_all_sm has no parser, so the first word of each span stands for its head"
    ]
    parsed = Tagger("bundled:en_core_web_sm", WEIGHTS)
    assert parsed.weights(["The old city Cologne."], [[Span(4, 20)]])[0].tolist() == [4]
    parsed.weights(["Cologne"], [[Span(0, 7)]])
    assert len(caplog.records) == 1


def test_words_that_were_never_seen_leave_nothing_behind(install: Install) -> None:
    """SpaCy keeps every word that it reads, for ever, outside a memory zone."""
    install("xx_pos_all_sm", pos="PROPN")
    tagger = Tagger("xx_pos_all_sm", WEIGHTS)
    before = len(tagger._nlp.vocab.strings)
    tagger.weights([f"Zk{number}w left." for number in range(100)], [[Span(0, 4)]] * 100)
    assert len(tagger._nlp.vocab.strings) == before


# What sentencex 1.0.32 was found to cut otherwise than English, in texts of all abbreviations of up to three letters.
RULES = (
    "ab am an ar av ay ba bm bn bg ca ce cs cv co da de el en es fi fr gl gn gu ht hi hy it ja kl kn kk kv li ln lb ml "
    "mr mg my nl oc os pa pl pt qu rm ru sg sa sk ty ta tt te uk wa wo"
)


def test_languages_that_sentencex_has_rules_for() -> None:
    assert {code for code in OF_TWO_LETTERS if has_rules(code)} == set(RULES.split())


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ("de", "de"),
        ("deu", "de"),
        ("ger", "de"),
        ("fra", "fr"),
        ("eng", "en"),
        ("lat", "la"),
        ("nds", "nds"),
        ("sv", "sv"),
    ],
)
def test_codes_of_three_letters_are_the_same_languages(given: str, code: str) -> None:
    """To sentencex they were all English."""
    assert load(profile="fake", overrides={"language": given}).language == code
    text = "Am 3. Oktober kam Dr. Weiß bzw. Prof. Klein an der Ecke Str. Nr. 5 an."
    assert len(sentences(given, text)) == len(sentences(code, text))
    assert (sentences(given, text) == [text]) == (code in ("de", "nds"))


@pytest.mark.parametrize("language", ["xx", "zzz", "grc", "german", "DE", "de_DE", ""])
def test_what_is_no_language_code_is_refused(language: str) -> None:
    with pytest.raises(UsageError, match="language: ") as caught:
        load(profile="fake", overrides={"language": language})
    assert ("two letters" in str(caught.value)) == (language in ("xx", "zzz", "grc"))
