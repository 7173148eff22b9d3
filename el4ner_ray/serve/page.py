"""The page at `/`: a text, labels and demonstrations, and what each stage makes of them; it looks like the report."""

from __future__ import annotations

from typing import Any

import msgspec
from markupsafe import Markup

from el4ner_ray.html import embeddable, environment, joined, policy_hash
from el4ner_ray.report import palette
from el4ner_ray.serve.annotator import Annotator

_STYLES, _OWN_STYLES = ("page.css", "texts.css", "marks.css"), ("serve.css",)
_SCRIPTS, _OWN_SCRIPTS = ("data.js", "passage.js", "card.js"), ("marks.js", "inputs.js", "steps.js", "stream.js")
_REPORT, _SERVE = "el4ner_ray.report", "el4ner_ray.serve"


class Page:
    """One HTML document, made once, and the headers that it is sent with."""

    def __init__(self, annotator: Annotator, *, needs_key: bool) -> None:
        """The page starts with the annotator's label set, and asks for a key where one is needed."""
        config, pool = annotator.config, annotator.pool
        colours = Markup(palette.css(palette.MOST))  # for labels that are added, and for the models behind them
        style = Markup("\n").join((joined(_STYLES, _REPORT), joined(_OWN_STYLES, _SERVE), colours))
        script = joined(_SCRIPTS, _REPORT) + joined(_OWN_SCRIPTS, _SERVE)
        # The names are those of the report's data: its scripts read them.
        data: dict[str, Any] = {
            "types": [],
            "models": config.model_names,
            "documents": [],
            "passages": [],
            "labels": annotator.labels,
            "verifier": config.verifier,
        }
        self.html = (
            environment(_SERVE)
            .get_template("serve.html.jinja")
            .render(
                config=config,
                methods=annotator.methods,
                pool_sentences=pool.sentences if pool else 0,
                needs_key=needs_key,
                style=style,
                script=script,
                data=embeddable(msgspec.json.encode(data)),
            )
        )
        policy = (
            f"default-src 'none'; script-src '{policy_hash(script)}'; style-src '{policy_hash(style)}'; "
            "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        self.headers = {
            "Content-Security-Policy": policy,
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache",
        }
