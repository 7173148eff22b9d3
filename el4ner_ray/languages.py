"""Which tagger weights spans, by the language of the texts."""

from __future__ import annotations

import json
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

LANGUAGE_CODE = r"^[a-z]{2,3}$"
"""The form of an ISO 639 code; sentencex takes anything and cuts what it does not know as English."""

NO_TAGGER = "none"
_ENGLISH = "en_core_web_sm"
_TAGGERS = {"tagger", "morphologizer"}
_SIZES = ("sm", "md", "lg", "trf")


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
