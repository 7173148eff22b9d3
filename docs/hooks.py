"""What the site takes from the code: the configuration's fields, the profiles and the prompts. And formulae as MathML.

A page names what belongs at a place in a comment, such as `<!-- the fields of Limits -->`.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from importlib import resources
from typing import Any

import latex2mathml.converter
from mkdocs.exceptions import PluginError
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from el4ner_ray import config as configuration
from el4ner_ray.config import PROFILES, JobConfig
from el4ner_ray.core.prompting import LabelledSentence, Prompts, messages, running_text

_MARKER = re.compile(r"<!-- the (?P<what>[a-z]+)(?: of (?P<name>\S+))? -->")
_OUTSIDE = re.compile(r"\[(?P<shown>[^]]+)\]\(\.\./(?P<path>[^)]+)\)")
_FORMULA = re.compile(r'<(?P<tag>div|span) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL)
_TEMPLATES = ("instructions", "pre_extract", "extract", "classify", "verify")
_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "minItems": "{} or more",
    "pattern": "matches `{}`",
}
# Sections have a table of their own.
_FURTHER = {
    "models": "The ensemble, a [section](#models) each; replaces the profile's.",
    "demonstrations": "See [demonstrations](#demonstrations).",
    "calibration": "See [calibration](#calibration).",
    "limits": "See [limits](#limits).",
    "fake": "See [fake](#fake).",
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put in what the comments name; say paths outside the site as they are, since the site has no page for them."""
    markdown = _OUTSIDE.sub(lambda match: f"{match['shown']} (`{match['path']}`)", markdown)
    return _MARKER.sub(_generated, markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Formulae in TeX become MathML: no script, and nothing to fetch."""
    return _FORMULA.sub(_formula, content)


def _formula(match: re.Match[str]) -> str:
    display = "block" if match["tag"] == "div" else "inline"
    drawn = latex2mathml.converter.convert(html.unescape(match["latex"]), display=display)
    return f'<{match["tag"]} class="formula">{drawn}</{match["tag"]}>'


def _generated(match: re.Match[str]) -> str:
    made = _MADE.get(match["what"])
    if made is None:
        raise PluginError(f"hooks.py makes nothing for the comment {match[0]}")
    return made(match["name"] or "")


def fields(name: str) -> str:
    """The table of a section of the configuration: a row for each field of the model of this name."""
    model: type[BaseModel] = getattr(configuration, name)
    schema = JobConfig.model_json_schema()
    section = schema if model is JobConfig else schema["$defs"][name]
    rows = ["| field | meaning, type, default, bounds |", "|---|---|"]
    for field, properties in section["properties"].items():
        meaning = properties.get("description") or _FURTHER[field]
        facts = (_type(properties), _default(model.model_fields[field]), _bounds(properties))
        told = f"{meaning}<br><small>{' · '.join(filter(None, facts))}</small>"
        rows.append(f"| `{field}` | {told.replace('|', '&#124;')} |")
    return "\n".join(rows)


def _type(schema: dict[str, Any]) -> str:
    """A type in words; null, which stands for a field that is not given, is left out."""
    if others := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(_type(other) for other in others if other.get("type") != "null")
    if "enum" in schema:
        return " or ".join(f"`{choice}`" for choice in schema["enum"])
    if "$ref" in schema:
        return "section"
    if schema["type"] == "array":
        return f"list of {_plural(schema['items'])}"
    if schema["type"] == "object":
        values = schema.get("additionalProperties")
        return f"mapping of names to {_plural(values)}" if isinstance(values, dict) else "mapping"
    return {"string": "text", "boolean": "true or false"}.get(schema["type"], schema["type"])


def _plural(schema: dict[str, Any]) -> str:
    word = _type(schema)
    return word if word == "text" else f"{word}s"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return ""
    return "optional" if value is None else f"default `{json.dumps(value)}`"


def _bounds(schema: dict[str, Any]) -> str:
    alternatives = [schema, *schema.get("anyOf", [])]
    found = (
        text.format(f"{some[key]:,}" if isinstance(some[key], int) else some[key])
        for some in alternatives
        for key, text in _BOUNDS.items()
        if key in some
    )
    return ", ".join(found)


def profiles(_: str) -> str:
    """The packaged profiles in full."""
    folder = resources.files("el4ner_ray.profiles")
    shown = ((name, folder.joinpath(f"{name}.yaml").read_text("utf-8")) for name in PROFILES)
    return "\n\n".join(f"### {name}\n\n{_fenced('yaml', text)}" for name, text in shown)


def templates(version: str) -> str:
    """The templates of a prompt version, as they stand in the files."""
    folder = resources.files("el4ner_ray.prompts").joinpath(version)
    shown = ((name, folder.joinpath(f"{name}.jinja").read_text("utf-8")) for name in _TEMPLATES)
    return "\n\n".join(f"### {name}.jinja\n\n{_fenced('jinja', text)}" for name, text in shown)


def prompt(version: str) -> str:
    """A whole prompt: a sentence's last question, with all that stands before it."""
    return _fenced("text", running_text(_turns(version)))


def conversation(version: str) -> str:
    """The same as a chat template gets it: a message a turn, with who says it in front."""
    shown = ((m["role"], m["content"].replace("\n", "\n" + " " * 11)) for m in messages(_turns(version)))
    return _fenced("text", "\n".join(f"{role:<11}{content}" for role, content in shown))


def _turns(version: str) -> tuple[str, ...]:
    prompts = Prompts(version, {"person": "named people, without title", "place": "cities, countries, rivers"})
    shown = [
        LabelledSentence("The meeting was short.", ()),
        LabelledSentence("Anna flew to Oslo.", (("Anna", "person"), ("Oslo", "place"))),
    ]
    asked = prompts.extraction("Ben met her in Rome.", [prompts.demonstration(sentence) for sentence in shown])
    asked = prompts.classification(asked, ["Ben", "Rome"], "Rome")
    return prompts.verification(asked, "Rome", "place")


def _fenced(language: str, text: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```"


_MADE: dict[str, Callable[[str], str]] = {
    "fields": fields,
    "profiles": profiles,
    "templates": templates,
    "prompt": prompt,
    "conversation": conversation,
}
