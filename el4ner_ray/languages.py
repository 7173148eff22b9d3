"""The language of the texts: how it is called, whether sentencex has rules for it, and which tagger weights spans."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from el4ner_ray import iso_639

LANGUAGE_CODE = r"^[a-z]{2,3}$"
"""The form of an ISO 639 code."""

# Each of sentencex's rules cuts one of these otherwise than English is cut (version 1.0.32): they differ in which
# letters and words take a full stop, and whether a number does.
_TELLING = "Am 3. Oktober kam er. A. Ab B. Ab H. Ab aa. Ab al. Ab ba. Ab ca. Ab di. Ab"

NO_TAGGER = "none"
_ENGLISH = "en_core_web_sm"
_TAGGERS = {"tagger", "morphologizer"}
_SIZES = ("sm", "md", "lg", "trf")


def known(code: str) -> str:
    """The shortest ISO 639 code of the language, "de" for "deu" and "ger".

    Raises ValueError where there is no language of this code, or one of three letters that sentencex has no rules for:
    it takes anything, and cuts what it does not know as English.
    """
    code = iso_639.shortest(code)
    if code not in iso_639.OF_TWO_LETTERS and not (re.fullmatch(LANGUAGE_CODE, code) and has_rules(code)):
        listed = ", ".join(filter(has_rules, sorted(iso_639.OF_TWO_LETTERS)))
        raise ValueError(
            f"{code!r} is no ISO 639 code that sentences can be cut by; give one with rules ({listed}), or another one "
            "of two letters, whose sentences are cut as English ones"
        )
    return code


@cache
def has_rules(language: str) -> bool:
    """Whether sentencex cuts the language by rules of its own or a related one's, not as it cuts English."""
    if language == "en":
        return True
    # Here, since engines read configurations, too, and cut no sentences.
    from el4ner_ray.sentences import sentence_spans

    return sentence_spans(language, _TELLING) != sentence_spans("en", _TELLING)


def cut_as_english(language: str) -> str:
    """What to tell of a language that `has_rules` denies."""
    return f"language {language}: sentencex has no rules for it, so sentences are cut as English ones"


def tagger_for(language: str) -> str:
    """Source of the tagger for a language code, as `demonstrations.tagger` names it.

    For English `en_core_web_sm`, bundled unless installed; else, of the installed spaCy pipelines that tag parts of
    speech, the smallest of the language, else the smallest for several languages (`xx`); else `none`.
    """
    if language == "en":
        return _ENGLISH if find_spec(_ENGLISH) else f"bundled:{_ENGLISH}"
    return next((name for code in (language, "xx") for name in _installed(code)), NO_TAGGER)


def _installed(code: str) -> list[str]:
    """Installed spaCy pipelines of a language code that tag parts of speech, the smallest first."""
    names = {entry.name for entry in metadata.entry_points(group="spacy_models")}
    return sorted((name for name in names if name.startswith(f"{code}_") and _tags(name)), key=_size)


def _size(name: str) -> tuple[int, str]:
    ending = name.rpartition("_")[2]
    return _SIZES.index(ending) if ending in _SIZES else len(_SIZES), name


def _tags(name: str) -> bool:
    """Whether the pipeline says that it has a tagger; it is not loaded."""
    spec = find_spec(name)
    folder = Path(spec.origin).parent if spec and spec.origin else None
    meta = json.loads((folder / "meta.json").read_text("utf-8")) if folder and (folder / "meta.json").is_file() else {}
    return bool(_TAGGERS & set(meta.get("pipeline", ())))
